#pragma once

#include <string>
#include <string_view>

#include "engine/files/weight_file.hpp"

namespace coppice {

/// A recurrent layer's matrix by its name: PyTorch's ….weight_ih_l0, ….weight_hh_l1_reverse, or ….w_ih,
/// enc_w_hh.
bool is_recurrent_weight(std::string_view name);

/// The gates of a tensor of somebody's file, one letter each in the order in which their rows are stacked,
/// told from the recurrent matrix of the same layer: 4·H rows over H columns are an LSTM's (ifgo), 3·H a
/// GRU's (rzn). Empty for any other tensor.
std::string gate_names_of(const WeightFile& file, const FileTensor& tensor);

}  // namespace coppice
