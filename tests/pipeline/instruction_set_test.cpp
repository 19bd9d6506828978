#include <cstdlib>
#include <optional>

#include "kernels/error.hpp"
#include "tests/pipeline/tiny.hpp"

// The job on every instruction set that this processor has. Sums of floats differ from one to the other;
// scores of given weights, and so masks, may not, and a sparse model says on each what the masked one says
// there.
namespace coppice {
namespace {

using test::Scratch;

/// Forces an instruction set as long as it lives.
class Forced {
 public:
  explicit Forced(const char* isa) {
    if (const char* before = std::getenv("COPPICE_ISA")) before_ = before;
    setenv("COPPICE_ISA", isa, 1);
  }
  ~Forced() { before_ ? setenv("COPPICE_ISA", before_->c_str(), 1) : unsetenv("COPPICE_ISA"); }

 private:
  std::optional<std::string> before_;
};

/// Why this processor doesn't run it; empty where it does.
std::string missing(const char* isa) {
  const Forced forced(isa);
  try {
    open_backend("cpu");
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

class InstructionSets : public testing::TestWithParam<const char*> {};

TEST_P(InstructionSets, CutGivenWeightsAlikeAndComputeTheSameSparse) {
  if (const std::string why = missing(GetParam()); !why.empty()) GTEST_SKIP() << why;
  const Scratch scratch("instruction-sets");
  test::write_text(scratch / "text.txt", 100);
  Recipe recipe = test::text_recipe(scratch / "text.txt");
  recipe.device = "cpu";
  recipe.train.epochs = 1;
  {
    const Forced baseline("baseline");
    train_model(recipe, scratch / "dense");
  }
  recipe.model.weights = (scratch / "dense").string();
  recipe.retrain.epochs = 0;
  for (const char* criterion : {"magnitude", "random"}) {
    SCOPED_TRACE(criterion);
    recipe.prune.criterion = criterion;
    const auto run = [&](const char* isa) {
      const Forced forced(isa);
      return run_recipe(recipe, scratch / isa, {.force = true});
    };
    const RunReport expected = run("baseline"), actual = run(GetParam());
    EXPECT_TRUE(expected.machine.detail.starts_with("baseline")) << expected.machine.detail;
    EXPECT_TRUE(actual.machine.detail.starts_with(GetParam())) << actual.machine.detail;
    test::expect_same_run(scratch / GetParam(), scratch / "baseline");
    ASSERT_TRUE(actual.retrained && actual.sparse);
    EXPECT_EQ(actual.sparse->loss, actual.retrained->loss);
    EXPECT_NEAR(actual.retrained->loss, expected.retrained->loss, 1e-5 * expected.retrained->loss);
  }
}

INSTANTIATE_TEST_SUITE_P(All, InstructionSets, testing::Values("avx2", "avx512"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace coppice
