// libcoppice.so as its users see it: through coppice.h and coppice.hpp alone.

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
  EXPECT_EQ(coppice_run_recipe("/no/such.toml", "out", nullptr, 0, 0, nullptr, nullptr, nullptr),
            COPPICE_BAD_INPUT);
  EXPECT_THAT(coppice_last_error(), HasSubstr("/no/such.toml"));
  std::thread([] { EXPECT_STREQ(coppice_last_error(), ""); }).join();
  EXPECT_EQ(coppice_run_recipe(nullptr, "out", nullptr, 0, 0, nullptr, nullptr, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_prune_arrays(nullptr, 1, nullptr, 0, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_session_open(at("nothing").c_str(), 1, nullptr, 0, nullptr), COPPICE_BAD_INPUT);
  coppice_session* session = nullptr;
  EXPECT_EQ(coppice_session_open(at("nothing").c_str(), 1, nullptr, 0, &session), COPPICE_BAD_INPUT);
  EXPECT_EQ(session, nullptr);
  const char* const unknown[] = {"sparsty=0.5"};
  EXPECT_EQ(coppice_prune_arrays(nullptr, 0, unknown, 1, nullptr), COPPICE_BAD_INPUT);
  EXPECT_THAT(coppice_last_error(), HasSubstr("prune.sparsity"));
  coppice_session_close(nullptr);
  coppice_free_text(nullptr);
}

TEST_F(CInterface, PrunesArraysInPlace) {
  std::vector<float> a = {3.0f, -1.0f, 0.5f, -0.0f}, b = {2.0f, -4.0f, 0.25f, 5.0f, 1.0f, 6.0f};
  std::vector<uint8_t> mask(4, 9);
  const int64_t a_shape[] = {2, 2}, b_shape[] = {2, 3};
  const std::vector<coppice_array> arrays = {{"a", a_shape, 2, a.data(), nullptr, mask.data()},
                                             {"b", b_shape, 2, b.data(), nullptr, nullptr}};
  EXPECT_EQ(coppice_api::prune_arrays(arrays, {"criterion=magnitude", "sparsity=0.5"}), 5u);
  EXPECT_EQ(a, (std::vector<float>{3.0f, 0.0f, 0.0f, 0.0f}));
  EXPECT_EQ(b, (std::vector<float>{2.0f, -4.0f, 0.0f, 5.0f, 0.0f, 6.0f}));
  EXPECT_EQ(mask, (std::vector<uint8_t>{1, 0, 0, 0}));
}

TEST_F(CInterface, EveryStatisticComesFromTheGradient) {
  const std::vector<float> weights = {1.0f, 2.0f, 3.0f, 4.0f};
  const std::vector<float> gradients = {-4.0f, 3.0f, -0.5f, 0.1f};
  const int64_t shape[] = {4};
  for (const auto& [criterion, expected] :
       std::vector<std::pair<std::string, std::vector<float>>>{{"gradient", {1, 2, 0, 0}},
                                                               {"gradient-absolute", {1, 2, 0, 0}},
                                                               {"gradient-squared", {1, 2, 0, 0}},
                                                               {"taylor", {1, 2, 0, 0}},
                                                               {"taylor-absolute", {1, 2, 0, 0}},
                                                               {"fisher", {1, 2, 0, 0}},
                                                               {"magnitude", {0, 0, 3, 4}}}) {
    std::vector<float> cut = weights;
    coppice_api::prune_arrays({{"w", shape, 1, cut.data(), gradients.data(), nullptr}},
                              {"criterion=" + criterion, "sparsity=0.5"});
    EXPECT_EQ(cut, expected) << criterion;
  }
}

TEST_F(CInterface, AFailedPruningChangesNothing) {
  std::vector<float> weights = {1.0f, std::nanf(""), 2.0f};
  std::vector<uint8_t> mask(3, 9);
  const int64_t shape[] = {3};
  try {
    coppice_api::prune_arrays({{"w", shape, 1, weights.data(), nullptr, mask.data()}},
                              {"criterion=magnitude", "sparsity=0.5"});
    FAIL() << "a NaN score must be an error";
  } catch (const coppice_api::Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("w"));
  }
  EXPECT_EQ(weights[0], 1.0f);
  EXPECT_EQ(mask, (std::vector<uint8_t>(3, 9)));
  EXPECT_THROW(
      coppice_api::prune_arrays({{"w", shape, 1, weights.data(), nullptr, nullptr}}, {"criterion=taylor"}),
      coppice_api::Error);
}

TEST_F(CInterface, RunsPrunesAndSteps) {
  int calls = 0;
  const std::string report = coppice_api::run_recipe(at("r.toml"), at("run"), options(), false,
                                                     [&](const coppice_progress& progress) {
                                                       EXPECT_GE(progress.size, sizeof(size_t));
                                                       EXPECT_NE(progress.stage, nullptr);
                                                       ++calls;
                                                       return false;
                                                     });
  EXPECT_EQ(report, read_text(folder / "run" / "report.json"));
  EXPECT_GT(calls, 0);
  EXPECT_THROW(coppice_api::run_recipe(at("r.toml"), at("run"), options()), coppice_api::Error);
  EXPECT_EQ(coppice_api::resume_run(at("run")), report);

  EXPECT_EQ(coppice_api::prune_file(at("run/dense"), "", at("cut"),
                                    {"criterion=magnitude", "sparsity=0.75", "include=.*weight_hh.*"}),
            144u);

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
}

TEST_F(CInterface, TheProgressFunctionStopsAndResumeGoesOn) {
  coppice_api::run_recipe(at("r.toml"), at("whole"), options({"train.epochs=6"}));
  try {
    coppice_api::run_recipe(at("r.toml"), at("stopped"), options({"train.epochs=6"}), false,
                            [](const coppice_progress& progress) {
                              return std::strcmp(progress.stage, "train") == 0 && progress.epoch == 2;
                            });
    FAIL() << "expected to be interrupted";
  } catch (const coppice_api::Error& error) {
    EXPECT_EQ(error.status(), COPPICE_INTERRUPTED);
  }
  coppice_api::resume_run(at("stopped"));
  EXPECT_EQ(read_text(folder / "stopped" / "retrained" / "weights.safetensors"),
            read_text(folder / "whole" / "retrained" / "weights.safetensors"));
}

std::string output_of(const std::string& command) {
  std::string text;
  char buffer[4096];
  FILE* pipe = popen(command.c_str(), "r");
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, n);
  EXPECT_EQ(pclose(pipe), 0) << command;
  return text;
}

TEST_F(CInterface, TheExamplesRun) {
  EXPECT_THAT(output_of(COPPICE_EXAMPLE_C), HasSubstr("kept 4 of 10 weights\n0 0 0 0 2 -0.7 | 1 0 0.4 0 \n"));
  const std::string ids = output_of(std::string(COPPICE_EXAMPLE_CPP) + " " + at("r.toml") + " " + at("run") +
                                    " data.train=" + at("text.txt") + " 2>/dev/null");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), ' '), 10);
}

}  // namespace
