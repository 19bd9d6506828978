#pragma once

#include <memory>
#include <string>

#include "engine/model/layer.hpp"

namespace coppice {

// The layers, each in a file of its own. engine/builtins.cpp lists them and puts a model together.

/// ids → rows of a table. Tensor "<name>.weight" [vocabulary, width].
std::unique_ptr<Layer> make_embedding(std::string name, int64_t vocabulary, int64_t width);

/// One layer of torch.nn.RNN, LSTM or GRU, in one or both directions; outputs [forwards | backwards]. Tensors
/// "<name>.weight_ih_l<index>" [G·H, inputs], "weight_hh" [G·H, H], "bias_ih" and "bias_hh" [G·H], and the
/// same with "_reverse". Both biases are kept, as in PyTorch: one alone would learn at half the rate.
struct RecurrentConfig {
  std::string name = "rnn";
  int64_t index = 0;
  Cell cell = Cell::lstm;
  int64_t inputs = 0;
  int64_t hidden = 0;
  bool bidirectional = false;
};
std::unique_ptr<Layer> make_recurrent(RecurrentConfig config);

/// y = x·Wᵀ + b. Tensors "<name>.weight" [outputs, inputs], "<name>.bias" [outputs].
std::unique_ptr<Layer> make_dense(std::string name, int64_t inputs, int64_t outputs);

/// In training, elements are zeroed with `probability` and the others scaled up; else nothing happens.
/// `index` tells the dropout layers of a model apart, so that each draws its own mask.
std::unique_ptr<Layer> make_dropout(int64_t width, double probability, int64_t index);

/// [T·B, width] → [B, width]: what each direction says when it has read all: forwards at the last valid step,
/// backwards at the first (torch's h_n, Keras's Bidirectional without return_sequences).
std::unique_ptr<Layer> make_last_step(int64_t width, bool bidirectional);

}  // namespace coppice
