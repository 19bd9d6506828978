#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "kernels/error.hpp"
#include "tests/pipeline/tiny.hpp"

// The job on a GPU against the same on the CPU. What is exact on both (scores of given weights, masks,
// dropout) must be the same bits; what adds floats in another order must agree within what that can change.
namespace coppice {
namespace {

using test::Scratch;
namespace fs = std::filesystem;

/// Why there is no GPU to compare with; empty where there is one.
std::string missing_gpu() {
  try {
    open_backend("cuda");
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

#define COPPICE_NEED_GPU()                                                                                \
  if (const std::string why = missing_gpu(); !why.empty()) {                                              \
    const char* required = std::getenv("COPPICE_REQUIRE_BACKENDS");                                       \
    ASSERT_TRUE(required == nullptr || std::string_view(required).find("cuda") == std::string_view::npos) \
        << why;                                                                                           \
    GTEST_SKIP() << why;                                                                                  \
  }

/// Kept by both, of the elements that are kept by either.
double agreement(const fs::path& a, const fs::path& b, const RunReport& report) {
  double both = 0, either = 0;
  for (const TensorOutcome& tensor : report.tensors) {
    if (!tensor.pruned) continue;
    const std::vector<float> x = test::tensor_of(a / "retrained", tensor.name);
    const std::vector<float> y = test::tensor_of(b / "retrained", tensor.name);
    for (size_t i = 0; i < x.size(); ++i) {
      both += x[i] != 0.0f && y[i] != 0.0f;
      either += x[i] != 0.0f || y[i] != 0.0f;
    }
  }
  return both / std::max(either, 1.0);
}

void expect_near(const std::optional<ModelMetrics>& gpu, const std::optional<ModelMetrics>& cpu,
                 double relative) {
  ASSERT_TRUE(gpu && cpu);
  EXPECT_NEAR(gpu->loss, cpu->loss, relative * std::abs(cpu->loss));
  EXPECT_EQ(gpu->targets, cpu->targets);
  EXPECT_EQ(gpu->optimizer_steps, cpu->optimizer_steps);
}

// A whole job: train, score by gradients, prune, retrain, run sparse. The sums differ in their last bits from
// the first step on, and a hundred steps of Adam later the losses by well under a percent.
TEST(DevicePipeline, cuda_GivesTheReportOfTheCpu) {
  COPPICE_NEED_GPU();
  const Scratch scratch("devices");
  test::write_text(scratch / "text.txt", 150);
  Recipe recipe = test::text_recipe(scratch / "text.txt");
  recipe.device = "cpu";
  recipe.train.epochs = 2;
  recipe.retrain.epochs = 1;
  const RunReport cpu = run_recipe(recipe, scratch / "cpu");
  recipe.device = "cuda";
  recipe.threads = 0;
  const RunReport gpu = run_recipe(recipe, scratch / "gpu");
  EXPECT_EQ(gpu.device, "cuda:0");
  expect_near(gpu.dense, cpu.dense, 5e-3);
  expect_near(gpu.pruned, cpu.pruned, 3e-2);
  expect_near(gpu.retrained, cpu.retrained, 1e-2);
  expect_near(gpu.sparse, cpu.sparse, 1e-2);
  EXPECT_NEAR(gpu.sparse->loss, gpu.retrained->loss, 1e-5);
  EXPECT_EQ(gpu.parameters.kept, cpu.parameters.kept);
  EXPECT_EQ(gpu.parameters.prunable, cpu.parameters.prunable);
  EXPECT_GE(agreement(scratch / "gpu", scratch / "cpu", cpu), 0.97);
}

// The same weights: the same masks to the bit where the score needs no gradients, and nearly the same loss.
TEST(DevicePipeline, cuda_CutsGivenWeightsAsTheCpuDoes) {
  COPPICE_NEED_GPU();
  const Scratch scratch("given");
  test::write_text(scratch / "text.txt", 100);
  Recipe recipe = test::text_recipe(scratch / "text.txt");
  recipe.device = "cpu";
  recipe.train.epochs = 1;
  train_model(recipe, scratch / "dense");
  recipe.model.weights = (scratch / "dense").string();
  recipe.retrain.epochs = 0;
  for (const char* criterion : {"magnitude", "random"}) {
    SCOPED_TRACE(criterion);
    recipe.prune.criterion = criterion;
    recipe.device = "cpu";
    const RunReport cpu = run_recipe(recipe, scratch / "cpu", {.force = true});
    recipe.device = "cuda";
    const RunReport gpu = run_recipe(recipe, scratch / "gpu", {.force = true});
    EXPECT_TRUE(test::bytes_of(scratch / "gpu/masks.safetensors") ==
                test::bytes_of(scratch / "cpu/masks.safetensors"));
    EXPECT_TRUE(test::bytes_of(scratch / "gpu/retrained/weights.safetensors") ==
                test::bytes_of(scratch / "cpu/retrained/weights.safetensors"));
    expect_near(gpu.dense, cpu.dense, 1e-6);
    expect_near(gpu.pruned, cpu.pruned, 1e-6);
    expect_near(gpu.sparse, cpu.sparse, 1e-6);
  }
}

}  // namespace
}  // namespace coppice
