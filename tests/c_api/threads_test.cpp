// Different handles from different threads at the same time: what they give is what they give alone. Built
// with the thread sanitizer it is the library's race check (`ctest -L races`).

#include <gtest/gtest.h>

#include <coppice/coppice.hpp>
#include <functional>
#include <random>
#include <string>
#include <thread>

#include "engine/data/data.hpp"
#include "engine/model/model_folder.hpp"
#include "engine/model/network.hpp"
#include "tests/tools/program.hpp"

namespace coppice::test {
namespace {

constexpr int kThreads = 4;

/// Runs work(t) on threads that start together, and alone, and compares.
template <class Result>
void expect_same_alone(const std::function<Result(int)>& work) {
  std::vector<Result> together(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] { together[static_cast<size_t>(t)] = work(t); });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < kThreads; ++t) EXPECT_EQ(together[static_cast<size_t>(t)], work(t)) << t;
}

TEST(Threads, PruneArrays) {
  expect_same_alone<std::vector<float>>([](int t) {
    std::mt19937 random(static_cast<unsigned>(t));
    std::vector<float> weights(5000);
    for (float& w : weights) w = static_cast<float>(random() % 100) - 50.0f;
    coppice_api::Tensor tensor{"w", {50, 100}, weights.data()};
    tensor.output = weights.data();
    coppice_api::prune_tensors({tensor}, {"sparsity=0.5", "threads=1"});
    return weights;
  });
}

/// The same weights, read by all.
TEST(Threads, ScoreTheSameArrays) {
  std::vector<float> weights(5000);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i % 77);
  expect_same_alone<std::vector<uint8_t>>([&](int) {
    std::vector<uint8_t> mask(weights.size());
    coppice_api::Tensor tensor{"w", {50, 100}, weights.data()};
    tensor.mask = mask.data();
    coppice_api::prune_tensors({tensor}, {"sparsity=0.5", "threads=1"});
    return mask;
  });
}

TEST(Threads, Select) {
  expect_same_alone<std::string>([](int t) {
    std::vector<float> weights(3000, static_cast<float>(t));
    weights[5] = -1.0f;
    coppice_api::Selection selection({"sparsity=0.5", "threads=1"});
    coppice_api::Tensor tensor{"w", {3000}, weights.data()};
    selection.add(tensor);
    while (!selection.done()) {
      selection.count();
      selection.refine();
    }
    selection.apply();
    return selection.report();
  });
}

TEST(Threads, Multiply) {
  expect_same_alone<std::vector<float>>([](int t) {
    std::vector<float> values(33 * 65, 0.0f), x(3 * 65, 2.0f), y(3 * 33);
    for (size_t i = 0; i < values.size(); i += 7) values[i] = static_cast<float>(t + 1);
    coppice_api::Matrix matrix(33, 65, values, {}, {"layout=csr", "threads=1"});
    for (int step = 0; step < 20; ++step) matrix.multiply(3, x, y);
    return y;
  });
}

TEST(Threads, EachHasItsLastError) {
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([t] {
      EXPECT_STREQ(coppice_last_error(), "");
      const std::string path = "/nothing/" + std::to_string(t);
      for (int i = 0; i < 50; ++i) {
        coppice_weights* weights = nullptr;
        EXPECT_EQ(coppice_weights_open(path.c_str(), &weights), COPPICE_BAD_INPUT);
        EXPECT_NE(std::string(coppice_last_error()).find(path), std::string::npos);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

/// Several models at once, and one file of weights that all of them read.
TEST(Threads, StepModelsAndReadAFile) {
  const Folder folder;
  write_text(folder / "text.txt", small_text(300));
  write_text(folder / "r.toml", kSmallRecipe);
  coppice_api::run_recipe((folder / "r.toml").string(), (folder / "run").string(),
                          {"data.train=" + (folder / "text.txt").string(), "threads=1"});
  const coppice_api::Weights weights((folder / "run/dense").string());
  expect_same_alone<std::vector<float>>([&](int t) {
    const char* const models[] = {"run/dense", "run/retrained", "run/sparse", "run/sparse"};
    coppice_api::Session session((folder / models[t]).string(), 2, {"threads=1"});
    std::vector<float> logits;
    for (int32_t step = 0; step < 20; ++step) logits = session.step(std::vector<int32_t>{step % 5, t});
    const std::vector<float> tensor = weights.read(static_cast<size_t>(t) % weights.size());
    logits.insert(logits.end(), tensor.begin(), tensor.end());
    return logits;
  });
}

}  // namespace
}  // namespace coppice::test
