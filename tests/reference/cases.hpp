#pragma once

#include <random>
#include <string>
#include <vector>

#include "tests/reference/model.hpp"

// Random models and batches for the tests of the reference and of the engine.
namespace coppice::reference {

struct Case {
  ModelConfig config;
  DataShape data;
  int64_t steps = 5;
  int64_t batch = 3;
  bool lengths = false;
  bool carried = false;  // a random initial state
  std::string name;
};

inline int64_t state_floats(const Case& c) {
  return c.config.layers * c.config.hidden * (c.config.bidirectional ? 2 : 1) *
         (c.config.cell == "lstm" ? 2 : 1);
}

template <class Generator>
Batch random_batch(const Case& c, Generator& generator) {
  Batch batch;
  batch.steps = c.steps;
  batch.batch = c.batch;
  batch.carries_state = c.carried;
  const auto below = [&](int64_t bound) {
    return static_cast<int32_t>(std::uniform_int_distribution<int64_t>(0, bound - 1)(generator));
  };
  const int64_t rows = c.steps * c.batch;
  if (c.data.inputs == 0) {
    for (int64_t i = 0; i < rows; ++i) batch.ids.push_back(below(c.data.vocabulary));
  } else {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < rows * c.data.inputs; ++i) batch.features.push_back(normal(generator));
  }
  if (c.lengths) {
    for (int64_t b = 0; b < c.batch; ++b) batch.lengths.push_back(below(c.steps + 1));
    batch.lengths[0] = static_cast<int32_t>(c.steps);  // one that is full, one that is empty
    if (c.batch > 2) batch.lengths[1] = 0;
  }
  const bool each_step = c.data.task == Task::language_model;
  for (int64_t i = 0; i < (each_step ? rows : c.batch); ++i) {
    const bool padded =
        c.lengths && each_step && i / c.batch >= batch.lengths[static_cast<size_t>(i % c.batch)];
    batch.targets.push_back(padded || below(8) == 0 ? -1 : below(std::max<int64_t>(c.data.classes, 2)));
  }
  return batch;
}

/// Every tensor of the model, uniform in ±range: names and shapes as PyTorch has them.
template <class Generator>
Tensors<double> random_tensors(const Case& c, Generator& generator, double range = 0.4) {
  std::uniform_real_distribution<float> uniform(static_cast<float>(-range), static_cast<float>(range));
  Tensors<double> tensors;
  const auto add = [&](const std::string& name, int64_t rows, int64_t cols) {
    Matrix<double>& m = tensors[name] = Matrix<double>(rows, cols);
    for (double& value : m.data)
      value = uniform(generator);  // float values: the engine gets the same numbers
  };
  const ModelConfig& config = c.config;
  int64_t width = c.data.inputs;
  if (width == 0) {
    width = config.embedding;
    add("embedding.weight", c.data.vocabulary, width);
  }
  const int64_t gates = config.cell == "lstm" ? 4 : config.cell == "gru" ? 3 : 1;
  const int64_t n = config.hidden;
  for (int64_t l = 0; l < config.layers; ++l) {
    for (int64_t d = 0; d < (config.bidirectional ? 2 : 1); ++d) {
      const std::string suffix = "_l" + std::to_string(l) + (d == 1 ? "_reverse" : "");
      add("rnn.weight_ih" + suffix, gates * n, width);
      add("rnn.weight_hh" + suffix, gates * n, n);
      add("rnn.bias_ih" + suffix, 1, gates * n);
      add("rnn.bias_hh" + suffix, 1, gates * n);
    }
    width = n * (config.bidirectional ? 2 : 1);
  }
  add("decoder.weight", c.data.classes, width);
  add("decoder.bias", 1, c.data.classes);
  return tensors;
}

template <class Generator>
std::vector<double> random_state(const Case& c, Generator& generator) {
  std::vector<double> state;
  if (!c.carried) return state;
  std::uniform_real_distribution<float> uniform(-0.9f, 0.9f);
  for (int64_t i = 0; i < state_floats(c) * c.batch; ++i) state.push_back(uniform(generator));
  return state;
}

}  // namespace coppice::reference
