// Runs, models and sessions through coppice.h and coppice.hpp.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <coppice/coppice.hpp>
#include <cstring>
#include <numeric>
#include <thread>

#include "tests/tools/program.hpp"

namespace {

using coppice::test::Folder;
using coppice::test::read_text;
using coppice::test::write_text;
using ::testing::Contains;
using ::testing::HasSubstr;

class CInterface : public ::testing::Test {
 protected:
  void SetUp() override {
    write_text(folder / "text.txt", coppice::test::small_text(300));
    write_text(folder / "r.toml", coppice::test::kSmallRecipe);
  }
  std::string at(const std::string& name) const { return (folder / name).string(); }
  coppice_api::Options options(coppice_api::Options more = {}) const {
    more.push_back("data.train=" + at("text.txt"));
    return more;
  }
  Folder folder;
};

TEST_F(CInterface, SaysItsVersion) {
  EXPECT_STREQ(coppice_version(), COPPICE_VERSION);
}

TEST_F(CInterface, ErrorsHaveAStatusAndASentencePerThread) {
  EXPECT_EQ(coppice_run_recipe("/no/such.toml", "out", nullptr, 0, 0, nullptr, nullptr), COPPICE_BAD_INPUT);
  EXPECT_THAT(coppice_last_error(), HasSubstr("/no/such.toml"));
  std::thread([] { EXPECT_STREQ(coppice_last_error(), ""); }).join();
  EXPECT_EQ(coppice_run_recipe(nullptr, "out", nullptr, 0, 0, nullptr, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_evaluate(nullptr, nullptr, nullptr, 0, nullptr, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_session_open(at("nothing").c_str(), 1, nullptr, 0, nullptr), COPPICE_BAD_INPUT);
  coppice_session* session = nullptr;
  EXPECT_EQ(coppice_session_open(at("nothing").c_str(), 1, nullptr, 0, &session), COPPICE_BAD_INPUT);
  EXPECT_EQ(session, nullptr);
  const char* const unknown[] = {"sparsty=0.5"};
  EXPECT_EQ(coppice_prune_tensors(nullptr, 0, unknown, 1, nullptr, nullptr, nullptr), COPPICE_BAD_INPUT);
  EXPECT_THAT(coppice_last_error(), HasSubstr("prune.sparsity"));
  coppice_session_close(nullptr);
  coppice_free_text(nullptr);
}

TEST_F(CInterface, RunsPrunesAndSteps) {
  int calls = 0;
  std::vector<std::string> lines;
  coppice_api::Control control;
  control.progress = [&](const coppice_progress& progress) {
    EXPECT_EQ(progress.size, sizeof(coppice_progress));
    EXPECT_NE(progress.stage, nullptr);
    ++calls;
    return false;
  };
  control.log = [&](const char* message) { lines.emplace_back(message); };
  const std::string report = coppice_api::run_recipe(at("r.toml"), at("run"), options(), false, control);
  EXPECT_EQ(report, read_text(folder / "run" / "report.json"));
  EXPECT_GT(calls, 0);
  EXPECT_THAT(lines, Contains("train begins"));
  EXPECT_THROW(coppice_api::run_recipe(at("r.toml"), at("run"), options()), coppice_api::Error);
  EXPECT_EQ(coppice_api::resume_run(at("run")), report);

  EXPECT_EQ(coppice_api::prune_file(at("run/dense"), at("cut"),
                                    {"criterion=magnitude", "sparsity=0.75", "include=.*weight_hh.*"})
                .kept,
            144u);
  const coppice_metrics plain = coppice_api::evaluate(at("run/retrained"), at("text.txt"));
  const coppice_metrics sparse = coppice_api::evaluate(at("run/sparse"), at("text.txt"), {"sparse=true"});
  const coppice_metrics halved =
      coppice_api::evaluate(at("run/sparse"), at("text.txt"), {"sparse=true", "layout=sell", "values=bf16"});
  EXPECT_LT(halved.weight_bytes, sparse.weight_bytes);
  EXPECT_NE(halved.loss, sparse.loss);
  EXPECT_NEAR(halved.loss, sparse.loss, 0.01);
  EXPECT_THROW(coppice_api::evaluate(at("run/sparse"), at("text.txt"), {"values=bf16"}), coppice_api::Error);
  EXPECT_NEAR(plain.loss, sparse.loss, 1e-4);
  EXPECT_EQ(plain.targets, sparse.targets);
  EXPECT_GT(sparse.weight_bytes, 0u);

  coppice_api::Session one(at("run/sparse")), dense(at("run/retrained"), 2, {"layout=dense", "threads=1"});
  EXPECT_EQ(one.inputs(), 0);
  ASSERT_GT(one.outputs(), 10);
  const std::vector<float> first = one.step(std::vector<int32_t>{3});
  const std::vector<float> second = one.step(std::vector<int32_t>{5});
  EXPECT_NE(first, second);
  one.reset();
  EXPECT_EQ(one.step(std::vector<int32_t>{3}), first);
  dense.step(std::vector<int32_t>{1, 3});
  dense.reset();
  dense.step(std::vector<int32_t>{3, 1});
  const std::vector<float> pair = dense.step(std::vector<int32_t>{5, 2});
  for (size_t i = 0; i < second.size(); ++i) EXPECT_NEAR(pair[i], second[i], 1e-5);
  EXPECT_THROW(one.step(std::vector<int32_t>{-1}), coppice_api::Error);
  EXPECT_THROW(one.step(std::vector<int32_t>{static_cast<int32_t>(one.outputs())}), coppice_api::Error);
  EXPECT_THROW(one.step(std::vector<float>{}), coppice_api::Error);

  coppice_api::Session rounded(at("run/retrained"), 1, {"layout=dense", "values=bf16"});
  EXPECT_LT(rounded.weight_bytes(), dense.weight_bytes());
  const std::vector<float> near = rounded.step(std::vector<int32_t>{3});
  EXPECT_NE(near, first);
  for (size_t i = 0; i < first.size(); ++i) EXPECT_NEAR(near[i], first[i], 0.1);
  EXPECT_THROW(coppice_api::Session(at("run/retrained"), 1, {"values=f16"}), coppice_api::Error);

  // Ids and their words; a stream of its own starts anew.
  for (int32_t id = 0; id < one.outputs(); ++id) EXPECT_EQ(one.id(one.token(id)), id);
  EXPECT_THROW(one.token(static_cast<int32_t>(one.outputs())), coppice_api::Error);
  EXPECT_GT(one.weight_bytes(), 0);
  dense.reset(1);
  const std::vector<float> anew = dense.step(std::vector<int32_t>{5, 3});
  for (size_t i = 0; i < first.size(); ++i) EXPECT_NEAR(anew[first.size() + i], first[i], 1e-5);
  EXPECT_THROW(dense.reset(2), coppice_api::Error);
  EXPECT_EQ(coppice_session_token(nullptr, 0, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_session_id(nullptr, "a", nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_session_reset_stream(nullptr, 0), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_session_step_ids(nullptr, nullptr, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_session_streams(nullptr), 0);
}

TEST_F(CInterface, TheProgressFunctionStopsAndResumeGoesOn) {
  coppice_api::run_recipe(at("r.toml"), at("whole"), options({"train.epochs=6"}));
  try {
    coppice_api::Control control;
    control.progress = [](const coppice_progress& progress) {
      return std::strcmp(progress.stage, "train") == 0 && progress.epoch == 2;
    };
    coppice_api::run_recipe(at("r.toml"), at("stopped"), options({"train.epochs=6"}), false, control);
    FAIL() << "expected to be interrupted";
  } catch (const coppice_api::Error& error) {
    EXPECT_EQ(error.status(), COPPICE_INTERRUPTED);
  }
  coppice_api::resume_run(at("stopped"));
  EXPECT_EQ(read_text(folder / "stopped" / "retrained" / "weights.safetensors"),
            read_text(folder / "whole" / "retrained" / "weights.safetensors"));
}

}  // namespace
