#include "engine/prune/gradients.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "kernels/error.hpp"
#include "tests/train/small_problem.hpp"

namespace coppice {
namespace {

using test::small_network;
using test::SmallSource;

std::vector<float> host(Network& network, VectorView<float> view) {
  return network.backend().download(view);
}

TEST(Gradients, AreTheSumsOverTheBatchesAsked) {
  const auto backend = test::open_test_backend(1);
  SmallSource source(Task::language_model, 9);
  const auto network = small_network(*backend, Task::language_model, 0.5);  // a pass draws no dropout
  PruneConfig config;
  config.gradient_batches = 4;
  const GradientStatistics found = collect_gradients(*network, source, config, "sum_steps");
  EXPECT_EQ(found.batches, 4);

  const auto size = static_cast<size_t>(network->store().size());
  std::vector<double> sum(size), absolute(size), squared(size);
  network->reset_state();
  for (int64_t b = 0; b < 4; ++b) {
    Batch batch;
    source.read(b, batch);
    network->zero_gradients();
    network->accumulate_gradients(batch, "sum_steps");
    const std::vector<float> g = host(*network, network->store().gradients());
    for (size_t i = 0; i < size; ++i) {
      sum[i] += g[i];
      absolute[i] += std::abs(g[i]);
      squared[i] += static_cast<double>(g[i]) * g[i];
    }
  }
  const std::vector<float> s = host(*network, found.of(Statistic::sum)),
                           a = host(*network, found.of(Statistic::absolute)),
                           q = host(*network, found.of(Statistic::squared));
  for (size_t i = 0; i < size; ++i) {
    ASSERT_NEAR(s[i], sum[i], 1e-6 * absolute[i]) << i;
    ASSERT_NEAR(a[i], absolute[i], 1e-6 * absolute[i]) << i;
    ASSERT_NEAR(q[i], squared[i], 1e-6 * squared[i]) << i;
  }
}

TEST(Gradients, OfAllSequencesAtOnceAreThoseOfTheMeanLoss) {
  const auto backend = test::open_test_backend(1);
  SmallSource source(Task::classification, 6);
  const auto network = small_network(*backend, Task::classification);
  PruneConfig config;
  config.gradient_batches = 0;
  config.gradient_batch_size = -1;
  const GradientStatistics one = collect_gradients(*network, source, config, "mean");
  EXPECT_EQ(one.batches, 1);
  config.gradient_batch_size = 0;
  const GradientStatistics each = collect_gradients(*network, source, config, "mean");
  EXPECT_EQ(each.batches, 6);
  const std::vector<float> a = host(*network, one.of(Statistic::sum)),
                           b = host(*network, each.of(Statistic::sum)),
                           scale = host(*network, each.of(Statistic::absolute));
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i] / 6.0, 1e-5 * scale[i] + 1e-9) << i;
  for (int64_t size : {1, 4, 18, 100}) {
    config.gradient_batch_size = size;
    const GradientStatistics other = collect_gradients(*network, source, config, "mean");
    EXPECT_EQ(other.batches, (18 + size - 1) / size);
    if (18 % size == 0) {
      const std::vector<float> c = host(*network, other.of(Statistic::sum));
      for (size_t i = 0; i < a.size(); ++i) {
        ASSERT_NEAR(a[i], c[i] / static_cast<double>(other.batches), 1e-5 * scale[i] + 1e-9) << i;
      }
    }
  }
}

TEST(Gradients, OneStatisticAloneIsTheSame) {
  const auto backend = test::open_test_backend(1);
  SmallSource source(Task::language_model, 5);
  const auto network = small_network(*backend, Task::language_model);
  const GradientStatistics all = collect_gradients(*network, source, {}, "mean");
  for (Statistic kind : {Statistic::sum, Statistic::absolute, Statistic::squared}) {
    const GradientStatistics one = collect_gradients(*network, source, {}, "mean", kind);
    EXPECT_TRUE(test::same_bits(host(*network, one.of(kind)), host(*network, all.of(kind))));
    for (Statistic other : {Statistic::sum, Statistic::absolute, Statistic::squared}) {
      EXPECT_EQ(one.of(other).empty(), other != kind);
    }
  }
}

TEST(Gradients, TextIsNotJoined) {
  const auto backend = test::open_test_backend(1);
  SmallSource source(Task::language_model, 6);
  const auto network = small_network(*backend, Task::language_model);
  PruneConfig config;
  config.gradient_batch_size = -1;
  EXPECT_THROW(collect_gradients(*network, source, config, "mean"), Error);
}

TEST(Gradients, ComeBackFromTheFile) {
  const auto backend = test::open_test_backend(1);
  SmallSource source(Task::language_model, 3);
  const auto network = small_network(*backend, Task::language_model);
  const GradientStatistics found = collect_gradients(*network, source, {}, "mean");
  const auto file = std::filesystem::temp_directory_path() /
                    ("coppice-gradients-" + std::to_string(::getpid()) + ".safetensors");
  save_gradients(file, network->store(), found);
  EXPECT_THROW(save_gradients(file, network->store(), found), Error);
  const GradientStatistics read = load_gradients(file, network->store());
  std::filesystem::remove(file);
  EXPECT_EQ(read.batches, 3);
  for (Statistic kind : {Statistic::sum, Statistic::absolute, Statistic::squared}) {
    EXPECT_TRUE(test::same_bits(host(*network, read.of(kind)), host(*network, found.of(kind))));
  }
}

TEST(Gradients, ThatAreNotNumbersAreAnError) {
  const auto backend = test::open_test_backend(1);
  SmallSource source(Task::language_model, 3);
  const auto network = small_network(*backend, Task::language_model);
  const Segment& segment = network->store().segment("decoder.bias");
  network->store().upload(segment, std::vector<float>(static_cast<size_t>(segment.size()), std::nanf("")));
  network->store().values_changed();
  EXPECT_THROW(collect_gradients(*network, source, {}, "mean"), Error);
}

TEST(Gradients, UnknownCriteriaAreListed) {
  try {
    find_criterion("magnitud");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("taylor-absolute"), std::string::npos);
  }
}

}  // namespace
}  // namespace coppice
