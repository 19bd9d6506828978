#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "engine/config/recipe.hpp"
#include "engine/data/batch.hpp"
#include "kernels/random.hpp"
#include "tests/reference/tape.hpp"

// The layers and whole models once more, in double (or on the tape: S = Var), from the textbook's equations
// one scalar at a time. Nothing of the engine is used but the descriptions of model and batch, and the
// counter-based draws of dropout.
namespace coppice::reference {

template <class S>
struct Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<S> data;

  Matrix() = default;
  Matrix(int64_t r, int64_t c) : rows(r), cols(c), data(static_cast<size_t>(r * c), S(0.0)) {}
  S& operator()(int64_t r, int64_t c) { return data[static_cast<size_t>(r * cols + c)]; }
  const S& operator()(int64_t r, int64_t c) const { return data[static_cast<size_t>(r * cols + c)]; }
};

template <class S>
using Tensors = std::map<std::string, Matrix<S>>;

template <class S>
S sigmoid(const S& a) {
  using std::exp;
  return S(1.0) / (S(1.0) + exp(S(0.0) - a));
}

/// y = x·Wᵀ + b.
template <class S>
Matrix<S> linear(const Matrix<S>& x, const Matrix<S>& w, const Matrix<S>& b) {
  Matrix<S> y(x.rows, w.rows);
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t o = 0; o < w.rows; ++o) {
      S sum = b.data[static_cast<size_t>(o)];
      for (int64_t i = 0; i < w.cols; ++i) sum = sum + x(r, i) * w(o, i);
      y(r, o) = sum;
    }
  }
  return y;
}

/// One direction of one layer. `h` and `c` [B, H]: the initial state, then the last.
template <class S>
Matrix<S> recurrent(const std::string& cell, bool reverse, int64_t steps, int64_t batch,
                    const std::vector<int32_t>& lengths, const Matrix<S>& x, const Matrix<S>& w_ih,
                    const Matrix<S>& w_hh, const Matrix<S>& b_ih, const Matrix<S>& b_hh, Matrix<S>& h,
                    Matrix<S>& c) {
  using std::tanh;
  const int64_t n = h.cols;
  Matrix<S> output(steps * batch, n);
  const Matrix<S> from_input = linear(x, w_ih, b_ih);
  for (int64_t s = 0; s < steps; ++s) {
    const int64_t t = reverse ? steps - 1 - s : s;
    const Matrix<S> from_state = linear(h, w_hh, b_hh);
    for (int64_t b = 0; b < batch; ++b) {
      if (!lengths.empty() && t >= lengths[static_cast<size_t>(b)]) continue;
      const int64_t row = t * batch + b;
      const auto gate = [&](int64_t g, int64_t j) {
        return from_input(row, g * n + j) + from_state(b, g * n + j);
      };
      for (int64_t j = 0; j < n; ++j) {
        if (cell == "lstm") {
          const S i = sigmoid(gate(0, j)), f = sigmoid(gate(1, j));
          const S g = tanh(gate(2, j)), o = sigmoid(gate(3, j));
          c(b, j) = f * c(b, j) + i * g;
          h(b, j) = o * tanh(c(b, j));
        } else if (cell == "gru") {
          const S r = sigmoid(gate(0, j)), z = sigmoid(gate(1, j));
          const S candidate = tanh(from_input(row, 2 * n + j) + r * from_state(b, 2 * n + j));
          h(b, j) = (S(1.0) - z) * candidate + z * h(b, j);
        } else if (cell == "rnn_tanh") {
          h(b, j) = tanh(gate(0, j));
        } else if (cell == "rnn_relu") {
          h(b, j) = relu(gate(0, j));
        } else {
          h(b, j) = sigmoid(gate(0, j));
        }
        output(row, j) = h(b, j);
      }
    }
  }
  return output;
}

/// Draw r · cols + c of the layer's stream drops element (r, c) when it lies below the probability.
template <class S>
void dropout(Matrix<S>& x, double probability, RandomStream stream) {
  const float p = static_cast<float>(probability);
  for (int64_t i = 0; i < x.rows * x.cols; ++i) {
    const bool kept = random_uniform(stream, static_cast<uint64_t>(i)) >= p;
    x.data[static_cast<size_t>(i)] = kept ? x.data[static_cast<size_t>(i)] * S(1.0 / (1.0 - p)) : S(0.0);
  }
}

template <class S>
struct Outcome {
  Matrix<S> logits;
  S loss = S(0.0);  // Σ over targets that count
  double correct = 0.0;
  double close = 0.0;  // rows so close to a tie that float32 may see the other winner
  double count = 0.0;
  std::vector<S> state;  // of each recurrent layer [B, per direction h (, c)]
};

template <class S>
void add_losses(const std::string& kind, const std::vector<int32_t>& targets, Outcome<S>& outcome) {
  using std::exp;
  using std::log;
  using std::log1p;
  for (int64_t r = 0; r < outcome.logits.rows; ++r) {
    const int32_t target = targets[static_cast<size_t>(r)];
    if (target < 0) continue;
    outcome.count += 1;
    if (kind == "sigmoid") {
      const S z = outcome.logits(r, 0);
      // log(1 + e^−|z|) + max(z, 0) − z·target
      const double sign = value_of(z) > 0 ? 1.0 : -1.0;
      outcome.loss = outcome.loss + log1p(exp(S(-sign) * z)) + relu(z) - z * S(target);
      outcome.correct += (value_of(z) > 0) == (target == 1) ? 1 : 0;
      outcome.close += std::abs(value_of(z)) < 1e-5 ? 1 : 0;
      continue;
    }
    int64_t largest = 0;
    for (int64_t k = 1; k < outcome.logits.cols; ++k) {
      if (value_of(outcome.logits(r, k)) > value_of(outcome.logits(r, largest))) largest = k;
    }
    const double shift = value_of(outcome.logits(r, largest));
    double runner_up = -1e300;
    for (int64_t k = 0; k < outcome.logits.cols; ++k) {
      if (k != largest) runner_up = std::max(runner_up, value_of(outcome.logits(r, k)));
    }
    outcome.close += shift - runner_up < 1e-5 ? 1 : 0;
    S sum = S(0.0);
    for (int64_t k = 0; k < outcome.logits.cols; ++k) sum = sum + exp(outcome.logits(r, k) - S(shift));
    outcome.loss = outcome.loss + log(sum) + S(shift) - outcome.logits(r, target);
    outcome.correct += largest == target ? 1 : 0;
  }
}

/// A whole model on one batch. `state` as `Outcome::state`, or empty: zeros. `random`: dropout draws; null:
/// none.
template <class S>
Outcome<S> run(const ModelConfig& config, const DataShape& data, const Batch& batch,
               const Tensors<S>& tensors, const std::vector<double>& state, const RandomStream* random) {
  const int64_t steps = batch.steps, streams = batch.batch, rows = steps * streams, n = config.hidden;
  uint64_t dropouts = 0;
  const auto drop = [&](Matrix<S>& x) {
    if (config.dropout == 0.0) return;
    if (random != nullptr) dropout(x, config.dropout, {derive_key(random->key, dropouts), random->counter});
    ++dropouts;
  };
  Outcome<S> outcome;
  Matrix<S> x;
  if (data.inputs == 0) {
    const Matrix<S>& table = tensors.at("embedding.weight");
    x = Matrix<S>(rows, config.embedding);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t e = 0; e < config.embedding; ++e) x(r, e) = table(batch.ids[static_cast<size_t>(r)], e);
    }
    drop(x);
  } else {
    x = Matrix<S>(rows, data.inputs);
    for (size_t i = 0; i < batch.features.size(); ++i) x.data[i] = S(batch.features[i]);
  }
  const int64_t directions = config.bidirectional ? 2 : 1, parts = config.cell == "lstm" ? 2 : 1;
  size_t offset = 0;  // of the layer in `state`
  for (int64_t l = 0; l < config.layers; ++l) {
    Matrix<S> y(rows, n * directions);
    Matrix<S> last(streams, n * directions * parts);
    for (int64_t d = 0; d < directions; ++d) {
      const std::string suffix = "_l" + std::to_string(l) + (d == 1 ? "_reverse" : "");
      Matrix<S> h(streams, n), c(streams, n);
      const auto column = [&](int64_t part, int64_t j) { return (d * parts + part) * n + j; };
      if (!state.empty()) {
        for (int64_t b = 0; b < streams; ++b) {
          for (int64_t j = 0; j < n; ++j) {
            const auto at = [&](int64_t part) {
              return state[offset + static_cast<size_t>(b * last.cols + column(part, j))];
            };
            h(b, j) = S(at(0));
            if (parts == 2) c(b, j) = S(at(1));
          }
        }
      }
      const Matrix<S> output =
          recurrent(config.cell, d == 1, steps, streams, batch.lengths, x,
                    tensors.at("rnn.weight_ih" + suffix), tensors.at("rnn.weight_hh" + suffix),
                    tensors.at("rnn.bias_ih" + suffix), tensors.at("rnn.bias_hh" + suffix), h, c);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t j = 0; j < n; ++j) y(r, d * n + j) = output(r, j);
      }
      for (int64_t b = 0; b < streams; ++b) {
        for (int64_t j = 0; j < n; ++j) {
          last(b, column(0, j)) = h(b, j);
          if (parts == 2) last(b, column(1, j)) = c(b, j);
        }
      }
    }
    offset += last.data.size();
    outcome.state.insert(outcome.state.end(), last.data.begin(), last.data.end());
    x = y;
    if (data.task == Task::classification && l + 1 == config.layers) {
      x = Matrix<S>(streams, n * directions);
      for (int64_t b = 0; b < streams; ++b) {
        const int64_t length = batch.lengths.empty() ? steps : batch.lengths[static_cast<size_t>(b)];
        for (int64_t j = 0; length > 0 && j < n * directions; ++j) {
          x(b, j) = y((j < n ? length - 1 : 0) * streams + b, j);
        }
      }
    }
    drop(x);
  }
  outcome.logits = linear(x, tensors.at("decoder.weight"), tensors.at("decoder.bias"));
  add_losses(config.loss, batch.targets, outcome);
  return outcome;
}

/// d(scale · Σ loss) / d(every parameter), by the tape.
inline Tensors<double> gradients(const ModelConfig& config, const DataShape& data, const Batch& batch,
                                 const Tensors<double>& tensors, const std::vector<double>& state,
                                 const RandomStream* random, double scale) {
  Tape tape;
  Tensors<Var> variables;
  for (const auto& [name, tensor] : tensors) {
    Matrix<Var>& variable = variables[name] = Matrix<Var>(tensor.rows, tensor.cols);
    for (size_t i = 0; i < tensor.data.size(); ++i) variable.data[i] = Var::leaf(tape, tensor.data[i]);
  }
  const Var loss = run(config, data, batch, variables, state, random).loss * Var(scale);
  Tensors<double> result;
  const std::vector<double> adjoint = loss.node < 0 ? std::vector<double>() : tape.backward(loss.node);
  for (const auto& [name, variable] : variables) {
    Matrix<double>& gradient = result[name] = Matrix<double>(variable.rows, variable.cols);
    if (adjoint.empty()) continue;
    for (size_t i = 0; i < variable.data.size(); ++i) {
      gradient.data[i] = adjoint[static_cast<size_t>(variable.data[i].node)];
    }
  }
  return result;
}

}  // namespace coppice::reference
