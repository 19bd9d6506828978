#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "engine/builtins.hpp"
#include "engine/model/layers.hpp"
#include "tests/layers/compare.hpp"

// Each layer alone: the contract of gradients (parameters +=, activations =), outputs written whatever was
// there, and what a layer does without training or when nobody wants dx.

namespace coppice::test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Subject {
  std::string kind;
  std::unique_ptr<Layer> layer;
  int64_t inputs = 0;
};

std::vector<Subject> subjects() {
  std::vector<Subject> list;
  list.push_back({"embedding", make_embedding("embedding", 9, 5), 0});
  for (const CellEntry& cell : builtin_cells()) {
    for (const bool bidirectional : {false, true}) {
      list.push_back(
          {"recurrent",
           make_recurrent({.cell = cell.cell, .inputs = 3, .hidden = 7, .bidirectional = bidirectional}), 3});
    }
  }
  list.push_back({"dense", make_dense("decoder", 5, 3), 5});
  list.push_back({"dropout", make_dropout(5, 0.4, 0), 5});
  list.push_back({"last_step", make_last_step(6, false), 6});
  list.push_back({"last_step", make_last_step(6, true), 6});
  return list;
}

/// Device copies of a batch's parts, and matrices poisoned with NaN.
struct Bench {
  explicit Bench(Backend& device) : backend(&device) {}
  MatrixView<float> matrix(int64_t rows, int64_t cols, const std::vector<float>& values) {
    buffers.emplace_back(*backend, std::max<int64_t>(rows * cols, 1) * 4, "test");
    if (!values.empty()) backend->upload(values, buffers.back().vector<float>(rows * cols));
    return buffers.back().matrix<float>(rows, cols);
  }
  MatrixView<float> poisoned(int64_t rows, int64_t cols) {
    return matrix(rows, cols, std::vector<float>(static_cast<size_t>(rows * cols), kNan));
  }
  VectorView<const int32_t> integers(const std::vector<int32_t>& values) {
    buffers.emplace_back(*backend, static_cast<int64_t>(values.size()) * 4, "test");
    backend->upload(values.data(), buffers.back().data(), buffers.back().bytes());
    return buffers.back().vector<const int32_t>(static_cast<int64_t>(values.size()));
  }
  std::vector<float> read(MatrixView<const float> m) const {
    return backend->download(VectorView<const float>{m.data, m.rows * m.cols, m.device});
  }
  Backend* backend;
  std::vector<Buffer> buffers;
};

TEST(Layers, EveryBuiltinIsTestedHere) {
  for (const std::string_view kind : builtin_layers()) {
    bool found = false;
    for (const Subject& subject : subjects()) {
      found = found || subject.kind == kind;
      EXPECT_EQ(subject.layer->kind(), subject.kind);
    }
    EXPECT_TRUE(found) << kind;
  }
}

TEST(Layers, GradientContract) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  const auto random = [&](int64_t size) {
    std::vector<float> values(static_cast<size_t>(size));
    for (float& value : values) value = normal(generator);
    return values;
  };
  const auto backend = open_test_backend();
  for (Subject& subject : subjects()) {
    Layer& layer = *subject.layer;
    SCOPED_TRACE(testing::Message() << subject.kind << " of " << layer.outputs());
    std::vector<Segment> segments = layer.segments();
    if (segments.empty()) segments.push_back({.name = "none", .shape = {1}});
    ParameterStore store(*backend, segments);
    layer.bind(store);
    for (const Segment& segment : store.segments()) store.upload(segment, random(segment.size()));

    Bench bench(*backend);
    SequenceShape shape{.steps = 4, .batch = 3};
    shape.ids = bench.integers({1, 0, 8, 3, 3, 2, 1, 8, 0, 5, 4, 6});
    shape.lengths = bench.integers({4, 0, 2});
    const auto x = bench.matrix(12, subject.inputs, random(12 * subject.inputs));
    const int64_t rows = layer.output_rows(shape, 12), width = layer.outputs();
    const auto dy = bench.matrix(rows, width, random(rows * width));
    const Pass pass{
        .training = true, .dropout = true, .input_gradient = subject.inputs > 0, .random = {seed, 1}};
    Arena arena(*backend);
    arena.reserve(layer.saved_bytes(shape, true));

    // Twice: from poison, and from what the first time left behind.
    const auto y = bench.poisoned(rows, width), dx = bench.poisoned(12, subject.inputs);
    std::vector<float> first_y, first_dx, first_gradients;
    fill_gradients(store, 0.0f);
    for (const int round : {1, 2}) {
      arena.reset();
      layer.forward(shape, x, y, arena, pass);
      layer.backward(shape, x, dy, dx, pass);
      const std::vector<float> gradients = backend->download(store.gradients());
      for (const float value : bench.read(y)) ASSERT_TRUE(std::isfinite(value));
      for (const float value : bench.read(dx)) ASSERT_TRUE(std::isfinite(value));
      if (round == 1) {
        first_y = bench.read(y);
        first_dx = bench.read(dx);
        first_gradients = gradients;
        continue;
      }
      EXPECT_EQ(bench.read(y), first_y);
      EXPECT_EQ(bench.read(dx), first_dx);
      for (size_t i = 0; i < gradients.size(); ++i) {
        ASSERT_NEAR(gradients[i], 2 * first_gradients[i], 1e-5 * (1 + std::abs(first_gradients[i]))) << i;
      }
    }

    // Nobody wants dx: it is not written, and the parameters' gradients are the same bits.
    const auto untouched = bench.poisoned(12, subject.inputs);
    fill_gradients(store, 0.0f);
    arena.reset();
    layer.forward(shape, x, y, arena, pass);
    layer.backward(shape, x, dy, layer.in_place() ? dy : MatrixView<float>{},
                   {.training = true, .dropout = true, .input_gradient = false, .random = pass.random});
    EXPECT_EQ(backend->download(store.gradients()), first_gradients);
    for (const float value : bench.read(untouched)) ASSERT_TRUE(std::isnan(value));

    // Inference takes no more memory than it says.
    Arena scratch(*backend);
    scratch.reserve(layer.saved_bytes(shape, false));
    if (!layer.in_place()) {
      EXPECT_NO_THROW(layer.forward(shape, x, y, scratch, {}));
    }
  }
}

TEST(Layers, BidirectionalLastStepTakesBothEnds) {
  const auto backend = open_test_backend();
  const auto layer = make_last_step(4, true);
  ParameterStore store(*backend, {{.name = "none", .shape = {1}}});
  layer->bind(store);
  Bench bench(*backend);
  std::vector<float> values(3 * 2 * 4);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const auto x = bench.matrix(6, 4, values);
  SequenceShape shape{.steps = 3, .batch = 2};
  shape.lengths = bench.integers({2, 3});
  Arena arena(*backend);
  const auto y = bench.poisoned(2, 4), dx = bench.poisoned(6, 4);
  layer->forward(shape, x, y, arena, {});
  // Stream 0: forwards row (1, 0), backwards row (0, 0); stream 1: forwards row (2, 1), backwards row (0, 1).
  EXPECT_EQ(bench.read(y), (std::vector<float>{8, 9, 2, 3, 20, 21, 6, 7}));
  layer->backward(shape, x, y, dx, {});
  std::vector<float> expected(24, 0.0f);
  for (const size_t i : {8, 9, 2, 3, 20, 21, 6, 7}) expected[i] = static_cast<float>(i);
  EXPECT_EQ(bench.read(dx), expected);
}

TEST(Layers, DropoutKeepsTheMean) {
  const auto backend = open_test_backend();
  const auto layer = make_dropout(100, 0.3, 2);
  ParameterStore store(*backend, {{.name = "none", .shape = {1}}});
  layer->bind(store);
  Bench bench(*backend);
  Arena arena(*backend);
  const SequenceShape shape{.steps = 100, .batch = 10};
  const std::vector<float> ones(100'000, 1.0f);
  std::vector<float> before;
  for (const uint64_t step : {1, 2}) {
    const auto x = bench.matrix(1000, 100, ones);
    layer->forward(shape, x, x, arena, {.training = true, .dropout = true, .random = {5, step}});
    const std::vector<float> y = bench.read(x);
    double sum = 0.0;
    for (const float value : y) {
      ASSERT_TRUE(value == 0.0f || value == 1.0f / (1.0f - 0.3f)) << value;
      sum += value;
    }
    EXPECT_NEAR(sum / 1e5, 1.0, 0.015);  // seven standard deviations
    EXPECT_NE(y, before);                // another mask at every step
    before = y;
  }
  const auto x = bench.matrix(1000, 100, ones);
  layer->forward(shape, x, x, arena, {});
  EXPECT_EQ(bench.read(x), ones);
}

}  // namespace
}  // namespace coppice::test
