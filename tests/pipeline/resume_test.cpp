#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <chrono>
#include <thread>

#include "engine/config/schema.hpp"
#include "engine/pipeline.hpp"
#include "kernels/error.hpp"
#include "tests/pipeline/tiny.hpp"

extern char** environ;

namespace coppice {
namespace {

using test::Scratch;
namespace fs = std::filesystem;

/// Sets the stop token at the n-th call of any kind.
class StopAt : public ProgressListener {
 public:
  StopAt(StopToken& stop, int64_t at) : stop_(stop), left_(at) {}
  void stage_begins(std::string_view) override { count(); }
  void progress(const Progress&) override {}  // by time: not the same twice
  void epoch_ends(const Progress&) override { count(); }
  void stage_ends(std::string_view, double) override { count(); }

 private:
  void count() {
    if (--left_ == 0) stop_.requested = true;
  }
  StopToken& stop_;
  int64_t left_;
};

Recipe recipe_for(const fs::path& text, const std::string& schedule) {
  Recipe recipe = test::text_recipe(text);
  recipe.prune.schedule = schedule;
  recipe.prune.rounds = 2;
  recipe.prune.frequency = 5;
  recipe.prune.criterion = "fisher";
  recipe.dense_continued = true;
  return recipe;
}

TEST(Resume, InterruptedAtEveryStageAndEpochTheRunIsTheSame) {
  const Scratch scratch("interrupted");
  test::write_text(scratch / "text.txt", 150);
  for (const char* schedule : {"one-shot", "iterative", "gradual"}) {
    const Recipe recipe = recipe_for(scratch / "text.txt", schedule);
    const fs::path straight = scratch / (std::string("straight ") + schedule);
    const RunReport expected = run_recipe(recipe, straight);
    for (int64_t at = 1;; at += 4) {
      SCOPED_TRACE(testing::Message() << schedule << ", call " << at);
      const fs::path folder = scratch / ("run " + std::to_string(at) + schedule);
      bool interrupted = false;
      RunReport report;
      {
        StopToken stop;
        StopAt listener(stop, at);
        try {
          report = run_recipe(recipe, folder, {.listener = &listener, .stop = &stop});
        } catch (const Error& error) {
          ASSERT_EQ(error.kind(), ErrorKind::interrupted) << error.what();
          interrupted = true;
        }
      }
      if (interrupted) {
        EXPECT_FALSE(fs::exists(folder / "report.json"));
        report = resume_run(folder);
        EXPECT_EQ(report.resumed, 1);
      }
      test::expect_same_run(straight, folder);
      test::expect_same_numbers(expected, report);
      fs::remove_all(folder);
      if (!interrupted) break;
    }
  }
}

TEST(Resume, NeedsTheSameThreadsAndTheSameData) {
  const Scratch scratch("same");
  test::write_text(scratch / "text.txt", 150);
  StopToken stop;
  StopAt listener(stop, 3);
  EXPECT_THROW(run_recipe(recipe_for(scratch / "text.txt", "one-shot"), scratch / "run",
                          {.listener = &listener, .stop = &stop}),
               Error);
  test::write_text(scratch / "text.txt", 151);
  EXPECT_THROW(resume_run(scratch / "run"), Error);
  EXPECT_THROW(resume_run(scratch / "absent"), Error);
  fs::create_directory(scratch / "empty");
  EXPECT_THROW(resume_run(scratch / "empty"), Error);
}

TEST(Resume, OneProcessAtATime) {
  const Scratch scratch("lock");
  test::write_text(scratch / "text.txt", 150);
  class Second : public ProgressListener {
   public:
    explicit Second(fs::path folder) : folder_(std::move(folder)) {}
    void epoch_ends(const Progress&) override {
      EXPECT_THROW(resume_run(folder_), Error);
      ++tries;
    }
    int tries = 0;

   private:
    fs::path folder_;
  } listener(scratch / "run");
  run_recipe(recipe_for(scratch / "text.txt", "one-shot"), scratch / "run", {.listener = &listener});
  EXPECT_GT(listener.tries, 0);
}

TEST(Resume, VerbsThatTrainAreTakenUpToo) {
  const Scratch scratch("verb");
  test::write_text(scratch / "text.txt", 150);
  const Recipe recipe = recipe_for(scratch / "text.txt", "one-shot");
  train_model(recipe, scratch / "straight");
  StopToken stop;
  StopAt listener(stop, 3);
  EXPECT_THROW(train_model(recipe, scratch / "model", {.listener = &listener, .stop = &stop}), Error);
  EXPECT_FALSE(fs::exists(scratch / "model"));
  resume_run(scratch / "model.run");
  EXPECT_FALSE(fs::exists(scratch / "model.run"));
  EXPECT_TRUE(test::bytes_of(scratch / "model/weights.safetensors") ==
              test::bytes_of(scratch / "straight/weights.safetensors"));
}

// Not a test of its own: the process that Resume.KilledRunsGoOn starts and kills.
TEST(Resume, DISABLED_Child) {
  const char* folder = std::getenv("COPPICE_TEST_RUN");
  const char* recipe = std::getenv("COPPICE_TEST_RECIPE");
  if (!folder || !recipe) GTEST_SKIP() << "started by KilledRunsGoOn alone";
  if (fs::exists(folder)) {
    resume_run(folder);
  } else {
    run_recipe(read_recipe(recipe), folder);
  }
}

/// Runs the child for at most `milliseconds`; true when it came to its end.
bool run_child(const fs::path& folder, const fs::path& recipe, int milliseconds) {
  std::vector<std::string> environment;
  for (char** variable = environ; *variable; ++variable) environment.emplace_back(*variable);
  environment.push_back("COPPICE_TEST_RUN=" + folder.string());
  environment.push_back("COPPICE_TEST_RECIPE=" + recipe.string());
  std::vector<char*> variables;
  for (std::string& variable : environment) variables.push_back(variable.data());
  variables.push_back(nullptr);
  const std::string self = fs::read_symlink("/proc/self/exe").string();
  std::string name = self, filter = "--gtest_filter=Resume.DISABLED_Child",
              also = "--gtest_also_run_disabled_tests", brief = "--gtest_brief=1";
  char* arguments[] = {name.data(), filter.data(), also.data(), brief.data(), nullptr};
  pid_t child = 0;
  EXPECT_EQ(posix_spawn(&child, self.c_str(), nullptr, nullptr, arguments, variables.data()), 0);
  int status = 0;
  for (int waited = 0; waited < milliseconds; waited += 5) {
    if (waitpid(child, &status, WNOHANG) == child) {
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(Resume, KilledRunsGoOn) {
  const Scratch scratch("killed");
  test::write_text(scratch / "text.txt", 2500);
  Recipe recipe = recipe_for(scratch / "text.txt", "gradual");
  recipe.train.checkpoint_seconds = recipe.retrain.checkpoint_seconds = 0;  // at every epoch's end
  recipe.train.epochs = 4;
  { std::ofstream(scratch / "recipe.toml") << write_recipe(recipe); }
  const RunReport expected = run_recipe(recipe, scratch / "straight");
  int kills = 0;
  // Each life is longer than the one before: the first ends while the process still starts, whatever the machine,
  // the last sees the end.
  for (double life = 2.0;; life *= 1.4) {
    if (run_child(scratch / "run", scratch / "recipe.toml", static_cast<int>(life))) break;
    ++kills;
    ASSERT_LT(kills, 40);
  }
  EXPECT_GT(kills, 0);
  test::expect_same_run(scratch / "straight", scratch / "run");
  test::expect_same_numbers(expected, resume_run(scratch / "run"));
}

}  // namespace
}  // namespace coppice
