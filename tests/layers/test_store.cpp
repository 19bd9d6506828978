#include <gtest/gtest.h>

#include <cmath>

#include "engine/builtins.hpp"
#include "engine/model/initialise.hpp"
#include "kernels/error.hpp"
#include "tests/layers/compare.hpp"

namespace coppice::test {
namespace {

TEST(ParameterStore, LaysSegmentsOnBlocks) {
  const auto backend = open_test_backend();
  ParameterStore store(
      *backend, {{.name = "a", .shape = {3, 5}}, {.name = "b", .shape = {65}}, {.name = "c", .shape = {64}}});
  EXPECT_EQ(store.segment("a").offset, 0);
  EXPECT_EQ(store.segment("b").offset, 64);
  EXPECT_EQ(store.segment("c").offset, 192);
  EXPECT_EQ(store.size(), 256);
  EXPECT_EQ(store.parameter_count(), 15 + 65 + 64);
  for (const float value : backend->download(store.values())) ASSERT_EQ(value, 0.0f);
  EXPECT_THROW(store.segment("d"), Error);
  EXPECT_THROW(store.upload(store.segment("a"), std::vector<float>(14)), Error);

  const uint64_t version = store.version();
  std::vector<float> values(15);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) - 7.0f;
  store.upload(store.segment("a"), values);
  EXPECT_NE(store.version(), version);
  EXPECT_EQ(store.download(store.segment("a")), values);
  const std::vector<float> all = backend->download(store.values());
  for (size_t i = 15; i < all.size(); ++i) ASSERT_EQ(all[i], 0.0f);
}

TEST(ParameterStore, MaskBits) {
  const auto backend = open_test_backend();
  ParameterStore store(*backend, {{.name = "a", .shape = {70}}, {.name = "b", .shape = {64}}});
  const uint64_t ones = ~uint64_t{0};
  EXPECT_FALSE(store.masked());
  EXPECT_TRUE(store.mask().empty());
  EXPECT_EQ(store.download_mask(store.segment("a")), (std::vector<uint64_t>{ones, ones}));
  store.upload_mask(store.segment("a"), std::vector<uint64_t>{5, 2});
  EXPECT_TRUE(store.masked());
  // The six bits of the second word are the segment's; behind it everything counts as kept.
  EXPECT_EQ(store.download_mask(store.segment("a")), (std::vector<uint64_t>{5, 2 | (ones << 6)}));
  EXPECT_EQ(store.download_mask(store.segment("b")), (std::vector<uint64_t>{ones}));
  EXPECT_EQ(backend->download(store.mask()), (std::vector<uint64_t>{5, 2 | (ones << 6), ones}));
  EXPECT_THROW(store.upload_mask(store.segment("b"), std::vector<uint64_t>{1, 2}), Error);
  store.disable_mask();
  EXPECT_FALSE(store.masked());
}

TEST(ParameterStore, NamesShapesAndGatesArePyTorchs) {
  const auto backend = open_test_backend();
  reference::Case c;
  c.config.cell = "gru";
  c.config.hidden = 5;
  c.config.layers = 2;
  c.config.bidirectional = true;
  c.data.task = Task::classification;
  c.data.inputs = 3;
  c.data.classes = 2;
  Network network(*backend, c.config, c.data);
  std::vector<std::string> names;
  for (const Segment& segment : network.store().segments()) names.push_back(segment.name);
  EXPECT_EQ(names,
            (std::vector<std::string>{
                "rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0",
                "rnn.weight_ih_l0_reverse", "rnn.weight_hh_l0_reverse", "rnn.bias_ih_l0_reverse",
                "rnn.bias_hh_l0_reverse", "rnn.weight_ih_l1", "rnn.weight_hh_l1", "rnn.bias_ih_l1",
                "rnn.bias_hh_l1", "rnn.weight_ih_l1_reverse", "rnn.weight_hh_l1_reverse",
                "rnn.bias_ih_l1_reverse", "rnn.bias_hh_l1_reverse", "decoder.weight", "decoder.bias"}));
  const Segment& input = network.store().segment("rnn.weight_ih_l1");
  EXPECT_EQ(input.shape, (std::vector<int64_t>{15, 10}));
  EXPECT_EQ(input.gates, 3);
  EXPECT_EQ(input.gate_names, "rzn");
  EXPECT_TRUE(input.prunable);
  EXPECT_FALSE(network.store().segment("rnn.bias_ih_l1").prunable);
  EXPECT_FALSE(network.store().segment("decoder.weight").prunable);
}

reference::Case model(const char* init, const char* cell = "lstm") {
  reference::Case c;
  c.config.cell = cell;
  c.config.init = init;
  c.config.init_range = 0.05;
  c.config.embedding = 24;
  c.config.hidden = 32;
  c.config.layers = 2;
  c.data.vocabulary = c.data.classes = 50;
  return c;
}

struct Moments {
  double mean = 0.0, variance = 0.0, low = 0.0, high = 0.0;
};
Moments moments(const std::vector<float>& values) {
  Moments m;
  for (const float value : values) {
    m.mean += value / static_cast<double>(values.size());
    m.low = std::min<double>(m.low, value);
    m.high = std::max<double>(m.high, value);
  }
  for (const float value : values)
    m.variance += (value - m.mean) * (value - m.mean) / static_cast<double>(values.size());
  return m;
}

void expect_uniform(const Network& network, const char* name, double range) {
  const std::vector<float> values = network.store().download(network.store().segment(name));
  const Moments m = moments(values);
  const double n = static_cast<double>(values.size());
  EXPECT_GE(m.low, -range) << name;
  EXPECT_LE(m.high, range) << name;
  // Six standard deviations of mean and variance; the seed is fixed, so this can't flicker.
  EXPECT_NEAR(m.mean, 0.0, 6 * range / std::sqrt(3 * n)) << name;
  EXPECT_NEAR(m.variance / (range * range / 3), 1.0, 6 * std::sqrt(0.8 / n)) << name;
}

TEST(Initialise, PyTorch) {
  const auto backend = open_test_backend();
  const auto c = model("pytorch");
  Network network(*backend, c.config, c.data);
  network.initialise(3);
  const double bound = 1 / std::sqrt(32.0);
  for (const char* name : {"rnn.weight_ih_l0", "rnn.weight_hh_l1", "rnn.bias_ih_l0", "rnn.bias_hh_l1",
                           "decoder.weight", "decoder.bias"}) {
    expect_uniform(network, name, bound);
  }
  const Moments m = moments(network.store().download(network.store().segment("embedding.weight")));
  EXPECT_NEAR(m.mean, 0.0, 6 / std::sqrt(1200.0));
  EXPECT_NEAR(m.variance, 1.0, 6 * std::sqrt(2 / 1200.0));
}

TEST(Initialise, Uniform) {
  const auto backend = open_test_backend();
  const auto c = model("uniform");
  Network network(*backend, c.config, c.data);
  network.initialise(3);
  for (const Segment& segment : network.store().segments())
    expect_uniform(network, segment.name.c_str(), 0.05);
}

TEST(Initialise, Keras) {
  const auto backend = open_test_backend();
  for (const char* cell : {"lstm", "rnn_tanh", "gru"}) {
    const auto c = model("keras", cell);
    Network network(*backend, c.config, c.data);
    network.initialise(3);
    const auto values = [&](const char* name) {
      return network.store().download(network.store().segment(name));
    };
    const Segment& input = network.store().segment("rnn.weight_ih_l0");
    expect_uniform(network, "rnn.weight_ih_l0",
                   std::sqrt(6.0 / static_cast<double>(input.rows() + input.cols())));
    expect_uniform(network, "decoder.weight", std::sqrt(6.0 / (50 + 32)));
    // Columns of W_hh [G·H, H] are orthonormal.
    const Segment& segment = network.store().segment("rnn.weight_hh_l0");
    const std::vector<float> w = network.store().download(segment);
    for (int64_t a = 0; a < 32; ++a) {
      for (int64_t b = 0; b <= a; ++b) {
        double dot = 0.0;
        for (int64_t r = 0; r < segment.rows(); ++r) {
          dot += static_cast<double>(w[static_cast<size_t>(r * 32 + a)]) * w[static_cast<size_t>(r * 32 + b)];
        }
        ASSERT_NEAR(dot, a == b ? 1.0 : 0.0, 1e-6);
      }
    }
    const std::vector<float> bias = values("rnn.bias_ih_l1");
    for (size_t i = 0; i < bias.size(); ++i) {
      EXPECT_EQ(bias[i], std::string(cell) == "lstm" && i / 32 == 1 ? 1.0f : 0.0f);
    }
    for (const float value : values("rnn.bias_hh_l1")) EXPECT_EQ(value, 0.0f);
    for (const float value : values("decoder.bias")) EXPECT_EQ(value, 0.0f);
  }
}

TEST(Initialise, DependsOnSeedAndNameAlone) {
  const auto backend = open_test_backend();
  auto c = model("pytorch");
  Network two(*backend, c.config, c.data);
  two.initialise(3);
  c.config.layers = 1;
  Network one(*backend, c.config, c.data);
  one.initialise(3);
  const auto values = [](const Network& network, const char* name) {
    return network.store().download(network.store().segment(name));
  };
  EXPECT_EQ(values(one, "rnn.weight_hh_l0"), values(two, "rnn.weight_hh_l0"));
  EXPECT_NE(values(two, "rnn.weight_hh_l0"), values(two, "rnn.weight_hh_l1"));
  one.initialise(4);
  EXPECT_NE(values(one, "rnn.weight_hh_l0"), values(two, "rnn.weight_hh_l0"));
}

}  // namespace
}  // namespace coppice::test
