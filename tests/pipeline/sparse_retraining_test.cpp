#include <gtest/gtest.h>

#include "engine/config/schema.hpp"
#include "engine/pipeline.hpp"
#include "kernels/error.hpp"
#include "tests/pipeline/tiny.hpp"

namespace coppice {
namespace {

using test::Scratch;
namespace fs = std::filesystem;

class StopAfterEpochs : public ProgressListener {
 public:
  StopAfterEpochs(StopToken& stop, int epochs) : stop_(stop), left_(epochs) {}
  void epoch_ends(const Progress&) override {
    if (--left_ == 0) stop_.requested = true;
  }

 private:
  StopToken& stop_;
  int left_;
};

TEST(SparseRetraining, IsTheMaskedOneWhateverTheSchedule) {
  if (test::test_device() != "cpu") GTEST_SKIP() << "the same bits are promised on a processor";
  const Scratch scratch("sparse_retraining");
  test::write_text(scratch / "text.txt", 150);
  for (const char* schedule : {"one-shot", "iterative", "gradual"}) {
    SCOPED_TRACE(schedule);
    Recipe recipe = test::text_recipe(scratch / "text.txt");
    recipe.prune.schedule = schedule;
    recipe.prune.rounds = 2;
    recipe.prune.frequency = 5;
    recipe.prune.criterion = "fisher";
    recipe.dense_continued = true;
    recipe.retrain.keep_best = true;
    recipe.retrain_sparse = "off";
    const RunReport masked = run_recipe(recipe, scratch / (std::string("masked ") + schedule));
    recipe.retrain_sparse = "on";
    const fs::path folder = scratch / (std::string("sparse ") + schedule);
    const RunReport sparse = run_recipe(recipe, folder);
    EXPECT_EQ(masked.retraining, "dense");
    EXPECT_TRUE(sparse.retraining.ends_with(" matrices in sell")) << sparse.retraining;
    test::expect_same_run(scratch / (std::string("masked ") + schedule), folder);
    test::expect_same_numbers(masked, sparse);

    // Begun one way and taken up the other.
    StopToken stop;
    StopAfterEpochs listener(stop, 4);  // the first epoch of retraining
    const fs::path other = scratch / (std::string("other ") + schedule);
    EXPECT_THROW(run_recipe(recipe, other, {.listener = &listener, .stop = &stop}), Error);
    Recipe resolved = read_recipe(other / "recipe.toml");
    resolved.retrain_sparse = "off";
    { std::ofstream(other / "recipe.toml") << write_recipe(resolved); }
    test::expect_same_numbers(masked, resume_run(other));
    test::expect_same_run(folder, other);
  }
}

}  // namespace
}  // namespace coppice
