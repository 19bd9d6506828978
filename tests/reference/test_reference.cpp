#include <gtest/gtest.h>

#include <random>

#include "tests/reference/cases.hpp"

// The reference itself: the tape's derivatives agree with central differences of the same equations in plain
// double, which know nothing of the tape.

namespace coppice::reference {
namespace {

TEST(Tape, ElementaryDerivatives) {
  Tape tape;
  const Var x = Var::leaf(tape, 0.7), y = Var::leaf(tape, -1.3);
  const Var f = exp(x * y) + tanh(x) / (y - Var(2.0)) + log(x) * relu(x) + relu(y) + log1p(x);
  const std::vector<double> adjoint = tape.backward(f.node);
  const double t = std::tanh(0.7);
  EXPECT_NEAR(adjoint[0], -1.3 * std::exp(-0.91) + (1 - t * t) / -3.3 + 1 + std::log(0.7) + 1 / 1.7, 1e-14);
  EXPECT_NEAR(adjoint[1], 0.7 * std::exp(-0.91) - t / (3.3 * 3.3), 1e-14);
}

TEST(Tape, AgreesWithCentralDifferences) {
  for (const char* cell : {"rnn_tanh", "rnn_relu", "rnn_sigmoid", "lstm", "gru"}) {
    for (const bool classify : {false, true}) {
      Case c;
      c.config.cell = cell;
      c.config.embedding = 3;
      c.config.hidden = 4;
      c.config.layers = 2;
      c.config.bidirectional = classify;
      c.config.dropout = 0.3;
      c.config.loss = classify ? "sigmoid" : "softmax";
      c.data.task = classify ? Task::classification : Task::language_model;
      c.data.inputs = classify ? 3 : 0;
      c.data.vocabulary = classify ? 0 : 6;
      c.data.classes = classify ? 1 : 6;
      c.lengths = c.carried = true;
      const unsigned seed = std::random_device{}();
      SCOPED_TRACE(testing::Message()
                   << cell << (classify ? " classifier" : " language model") << " seed " << seed);
      std::mt19937 generator(seed);
      const Batch batch = random_batch(c, generator);
      Tensors<double> tensors = random_tensors(c, generator);
      const std::vector<double> state = random_state(c, generator);
      const RandomStream random{seed, 3};
      const Tensors<double> gradient = gradients(c.config, c.data, batch, tensors, state, &random, 0.25);
      for (auto& [name, tensor] : tensors) {
        for (size_t i = 0; i < tensor.data.size(); ++i) {
          // A smaller step for relu, which must not jump over its kink.
          const bool kink = std::string(cell) == "rnn_relu";
          const double value = tensor.data[i], h = kink ? 1e-7 : 1e-5;
          const auto loss = [&](double at) {
            tensor.data[i] = at;
            return 0.25 * run(c.config, c.data, batch, tensors, state, &random).loss;
          };
          const double up = loss(value + h), down = loss(value - h);
          tensor.data[i] = value;
          // The difference errs by h² and by eps / h.
          const double tolerance = kink ? 1e-6 : 1e-8;
          ASSERT_NEAR(gradient.at(name).data[i], (up - down) / (2 * h), tolerance) << name << "[" << i << "]";
        }
      }
    }
  }
}

}  // namespace
}  // namespace coppice::reference
