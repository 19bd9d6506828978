#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/prune/source.hpp"
#include "kernels/selection.hpp"

namespace coppice {

// Hidden units of recurrent layers. To unit u of a layer and direction belongs everything that makes its
// value (row u of every gate of weight_ih and weight_hh, and of the biases) and everything that reads it
// (column u of weight_hh, and of what reads the layer: both directions of the next one, or what is named).

/// A recurrent layer in one direction.
struct UnitLayer {
  size_t recurrent = 0;  // its weight_hh, [gates · hidden, hidden]
  int64_t gates = 1;
  int64_t hidden = 0;
};

/// Where units stand in a tensor.
struct UnitTensor {
  struct Columns {
    size_t layer = 0;
    int64_t begin = 0;  // `hidden` columns from here on
  };
  size_t tensor = 0;
  std::optional<size_t> row_layer;  // row r is of unit r % hidden of this layer
  std::vector<Columns> columns;
};

struct UnitWiring {
  std::vector<UnitLayer> layers;    // in the byte order of their weight_hh's names
  std::vector<UnitTensor> tensors;  // likewise of their own
};

/// A recurrent tensor's name in parts: prefix "rnn.", kind "weight_hh", layer 0, forwards or not.
struct RecurrentName {
  std::string prefix, kind;
  int64_t layer = 0;
  bool reverse = false;
};
std::optional<RecurrentName> recurrent_name(std::string_view name);

/// The layers whose weight_hh is `chosen`, by PyTorch's names: ….weight_ih_l0, ….weight_hh_l0_reverse,
/// ….bias_ih_l0 and so on. `readers` (by tensor) read the last layer of the stack. Throws Error(bad_input)
/// naming the tensor that is missing or doesn't fit, and where nobody is said to read a last layer.
UnitWiring find_units(std::span<const SourceTensor> tensors, const std::vector<bool>& chosen,
                      const std::vector<bool>& readers);

}  // namespace coppice
