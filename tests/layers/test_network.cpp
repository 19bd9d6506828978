#include <gtest/gtest.h>

#include <random>

#include "engine/builtins.hpp"
#include "engine/model/loss.hpp"
#include "kernels/error.hpp"
#include "tests/layers/compare.hpp"

// Whole models against the reference: forward, carried state, and the gradient of every parameter.

namespace coppice::test {
namespace {

using reference::Case;

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const CellEntry& cell : builtin_cells()) {
    for (const bool bidirectional : {false, true}) {
      for (const int64_t layers : {1, 2, 3}) {
        for (const bool lengths : {false, true}) {
          for (const bool carried : {false, true}) {
            Case c;
            c.config.cell = std::string(cell.name);
            c.config.layers = layers;
            c.config.bidirectional = bidirectional;
            c.lengths = lengths;
            c.carried = carried;
            // A model that reads both ways classifies; the others take turns as language models.
            const bool classify = bidirectional || (layers == 2 && lengths);
            c.data.task = classify ? Task::classification : Task::language_model;
            c.config.embedding = 7;
            c.config.hidden = layers == 3 ? 3 : 9;
            c.data.inputs = classify && layers != 2 ? 5 : 0;
            c.data.vocabulary = c.data.inputs == 0 ? 11 : 0;
            c.data.classes = classify ? (carried ? 1 : 3) : 11;
            c.config.loss = c.data.classes == 1 ? "sigmoid" : "softmax";
            c.config.dropout = carried ? 0.25 : 0.0;
            c.steps = lengths ? 5 : 3;
            c.batch = layers == 1 ? 4 : 3;
            c.name = fmt::format("{}_{}{}{}{}", cell.name, layers, bidirectional ? "_bidirectional" : "",
                                 lengths ? "_lengths" : "", carried ? "_carried" : "");
            cases.push_back(c);
          }
        }
      }
    }
  }
  // Single steps, single streams, single units, sizes around the vector width, and one at which the rows of an
  // LSTM's gates are set apart.
  for (const char* cell : {"rnn_tanh", "lstm", "gru"}) {
    for (const int64_t size : {1, 31, 32, 33, 64}) {
      Case c;
      c.config.cell = cell;
      c.config.embedding = c.config.hidden = size;
      c.data.vocabulary = c.data.classes = size + 1;
      c.steps = size == 31 ? 1 : 2;
      c.batch = size == 33 ? 1 : 3;
      c.name = fmt::format("{}_size_{}", cell, size);
      cases.push_back(c);
    }
  }
  return cases;
}

class Networks : public testing::TestWithParam<Case> {};

TEST_P(Networks, MatchTheReference) {
  const Case& c = GetParam();
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 generator(seed);
  const Batch batch = random_batch(c, generator);
  const reference::Tensors<double> tensors = random_tensors(c, generator);
  const std::vector<double> state = random_state(c, generator);
  const RandomStream random{seed, 5};

  const auto backend = open_test_backend();
  Network network(*backend, c.config, c.data);
  upload(network, tensors);
  const auto set_state = [&] {
    network.reset_state();
    if (c.carried) network.upload_state(std::vector<float>(state.begin(), state.end()), c.batch);
  };

  // Inference: no dropout.
  const auto plain = reference::run(c.config, c.data, batch, tensors, state, nullptr);
  set_state();
  expect_close("logits", network.logits(batch), plain.logits.data);
  expect_close("state", network.download_state(), plain.state);
  set_state();
  network.evaluate(batch);
  LossTotals totals = network.take_totals();
  EXPECT_NEAR(totals.loss, plain.loss, 1e-5 * std::max(1.0, plain.loss));
  EXPECT_EQ(totals.count, plain.count);
  EXPECT_NEAR(totals.correct, plain.correct, plain.close);

  // Training, twice from the same state: parameter gradients accumulate, activation gradients don't.
  const auto trained = reference::run(c.config, c.data, batch, tensors, state, &random);
  for (const char* reduction : {"mean", "sum_steps"}) {
    const double scale = std::string(reduction) == "mean" ? (trained.count > 0 ? 1.0 / trained.count : 0.0)
                                                          : 1.0 / static_cast<double>(c.batch);
    const auto expected = gradients(c.config, c.data, batch, tensors, state, &random, scale);
    network.zero_gradients();
    for (const double passes : {1.0, 2.0}) {
      set_state();
      network.accumulate_gradients(batch, reduction, random);
      totals = network.take_totals();
      EXPECT_NEAR(totals.loss, trained.loss, 1e-5 * std::max(1.0, trained.loss));
      EXPECT_EQ(totals.count, trained.count);
      expect_close("state", network.download_state(), trained.state);
      for (const Segment& segment : network.store().segments()) {
        std::vector<double> gradient = expected.at(segment.name).data;
        for (double& value : gradient) value *= passes;
        expect_close(segment.name, download_gradient(network.store(), segment), gradient, 2e-5, 0.05 * scale);
      }
    }
  }

  // Without dropout: what scores are made of.
  const double scale = plain.count > 0 ? 1.0 / plain.count : 0.0;
  const auto expected = gradients(c.config, c.data, batch, tensors, state, nullptr, scale);
  network.zero_gradients();
  set_state();
  network.accumulate_gradients(batch, "mean");
  for (const Segment& segment : network.store().segments()) {
    expect_close(segment.name, download_gradient(network.store(), segment), expected.at(segment.name).data,
                 2e-5, 0.05 * scale);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Networks, testing::ValuesIn(all_cases()),
                         [](const auto& info) { return info.param.name; });

Case language_model() {
  Case c;
  c.config.cell = "lstm";
  c.config.embedding = 13;
  c.config.hidden = 17;
  c.config.layers = 2;
  c.data.vocabulary = c.data.classes = 19;
  c.steps = 6;
  c.batch = 5;
  return c;
}

TEST(Network, TwoCarriedBatchesAreOneLongSequence) {
  for (const CellEntry& cell : builtin_cells()) {
    Case c = language_model();
    c.config.cell = std::string(cell.name);
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE(testing::Message() << cell.name << " seed " << seed);
    std::mt19937 generator(seed);
    const Batch whole = random_batch(c, generator);
    const auto backend = open_test_backend();
    Network network(*backend, c.config, c.data);
    upload(network, random_tensors(c, generator));
    const std::vector<float> expected = network.logits(whole);
    std::vector<float> joined;
    const auto half = static_cast<std::ptrdiff_t>(whole.ids.size() / 2);
    for (const int part : {0, 1}) {
      Batch batch;
      batch.steps = c.steps / 2;
      batch.batch = c.batch;
      batch.carries_state = part == 1;
      batch.ids.assign(whole.ids.begin() + part * half, whole.ids.begin() + (part + 1) * half);
      batch.targets.assign(whole.targets.begin() + part * half, whole.targets.begin() + (part + 1) * half);
      const std::vector<float> logits = network.logits(batch);
      joined.insert(joined.end(), logits.begin(), logits.end());
    }
    expect_close("logits", joined, expected, 2e-5);
    EXPECT_EQ(network.state_batch(), c.batch);
    network.reset_state();
    EXPECT_TRUE(network.download_state().empty());
  }
}

TEST(Network, SavedStateGoesOnWithTheSameBits) {
  const Case c = language_model();
  std::mt19937 generator(1);
  Batch batch = random_batch(c, generator);
  const auto backend = open_test_backend();
  Network network(*backend, c.config, c.data);
  network.initialise(7);
  network.evaluate(batch);
  const std::vector<float> state = network.download_state();
  batch.carries_state = true;
  const std::vector<float> expected = network.logits(batch);
  network.reset_state();
  network.upload_state(state, c.batch);
  EXPECT_EQ(network.logits(batch), expected);
}

TEST(Network, SameBitsForAnyNumberOfThreads) {
  Case c = language_model();
  c.config.hidden = c.config.embedding = 65;
  c.data.vocabulary = c.data.classes = 301;
  c.config.dropout = 0.5;
  c.steps = 9;
  c.batch = 11;
  std::mt19937 generator(3);
  const Batch batch = random_batch(c, generator);
  std::vector<float> expected;
  for (const int threads : {1, 2, 3}) {
    const auto backend = open_test_backend(threads);
    Network network(*backend, c.config, c.data);
    network.initialise(7);
    network.accumulate_gradients(batch, "mean", {11, 1});
    std::vector<float> gradients = backend->download(network.store().gradients());
    if (threads == 1) expected = gradients;
    EXPECT_EQ(gradients, expected) << threads << " threads";
  }
}

TEST(Network, RunsSparse) {
  Case c = language_model();
  c.config.hidden = 64;
  std::mt19937 generator(5);
  const Batch batch = random_batch(c, generator);
  const auto backend = open_test_backend();
  Network network(*backend, c.config, c.data);
  reference::Tensors<double> tensors = random_tensors(c, generator);
  for (auto& [name, tensor] : tensors) {
    if (name.find("weight") == std::string::npos || name == "embedding.weight") continue;
    for (double& value : tensor.data) value = generator() % 10 == 0 ? value : 0.0;
  }
  upload(network, tensors);
  const std::vector<float> dense = network.logits(batch);
  const int64_t bytes = network.weight_bytes();
  network.use_layout("csr");
  expect_close("logits", network.logits(batch), dense, 2e-5);
  EXPECT_LT(network.weight_bytes(), bytes / 2);
  // Other values, other zeros: the layout follows the store.
  upload(network, random_tensors(c, generator));
  const std::vector<float> sparse = network.logits(batch);
  network.use_layout("dense");
  expect_close("logits", sparse, network.logits(batch), 2e-5);
}

TEST(Network, LearnsNothingFromTargetsThatDoNotCount) {
  const Case c = language_model();
  std::mt19937 generator(9);
  Batch batch = random_batch(c, generator);
  std::fill(batch.targets.begin(), batch.targets.end(), -1);
  const auto backend = open_test_backend();
  Network network(*backend, c.config, c.data);
  network.initialise(1);
  network.accumulate_gradients(batch, "mean", {});
  for (const float value : backend->download(network.store().gradients())) ASSERT_EQ(value, 0.0f);
  const LossTotals totals = network.take_totals();
  EXPECT_EQ(totals.count, 0.0);
  EXPECT_EQ(totals.mean(), 0.0);
}

TEST(Loss, Scales) {
  Batch batch;
  batch.steps = 3;
  batch.batch = 4;
  batch.targets = {0, 1, -1, 2, 0, -1, -1, 1, 1, 1, 0, -1};
  EXPECT_EQ(loss_scale(batch, "mean"), 1.0 / 8);
  EXPECT_EQ(loss_scale(batch, "sum_steps"), 1.0 / 4);
  EXPECT_THROW(loss_scale(batch, "median"), Error);
}

template <class F>
std::string message_of(F&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    return error.what();
  }
  return "no error";
}

TEST(Network, RefusesModelsThatMakeNoSense) {
  const auto backend = open_test_backend();
  const auto expect = [&](const char* part, auto&& change) {
    Case c = language_model();
    change(c);
    const std::string message = message_of([&] { Network(*backend, c.config, c.data); });
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect("unknown cell \"transformer\"; expected one of rnn_tanh",
         [](Case& c) { c.config.cell = "transformer"; });
  expect("model.hidden", [](Case& c) { c.config.hidden = 0; });
  expect("model.layers", [](Case& c) { c.config.layers = -1; });
  expect("model.dropout", [](Case& c) { c.config.dropout = 1.0; });
  expect("model.init", [](Case& c) { c.config.init = "magic"; });
  expect("model.loss", [](Case& c) { c.config.loss = "hinge"; });
  expect("model.loss", [](Case& c) { c.config.loss = "sigmoid"; });
  expect("model.embedding", [](Case& c) { c.config.embedding = 0; });
  expect("model.bidirectional", [](Case& c) { c.config.bidirectional = true; });
}

TEST(Network, RefusesBatchesThatDoNotFit) {
  const Case c = language_model();
  const auto backend = open_test_backend();
  Network network(*backend, c.config, c.data);
  const auto expect = [&](const char* part, auto&& change) {
    std::mt19937 generator(2);
    Batch batch = random_batch(c, generator);
    change(batch);
    const std::string message = message_of([&] { network.evaluate(batch); });
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect("id 19", [](Batch& b) { b.ids[7] = 19; });
  expect("id -1", [](Batch& b) { b.ids[7] = -1; });
  expect("target 19", [](Batch& b) { b.targets[7] = 19; });
  expect("28 ids", [](Batch& b) { b.ids.resize(28); });
  expect("5 features", [](Batch& b) { b.features.resize(5); });
  expect("length 7", [](Batch& b) { b.lengths = {1, 2, 3, 7, 0}; });
  expect("0 steps", [](Batch& b) { b.steps = 0; });
}

}  // namespace
}  // namespace coppice::test
