#pragma once

#include <cstddef>
#include <vector>

#include "engine/files/weight_file.hpp"

namespace coppice {

/// Tensors of a file that hold the same bits (tied weights that were stored twice): groups of two or more, by
/// number, each in the byte order of names. Only matrices are looked at, and constant ones are not tied.
std::vector<std::vector<size_t>> find_tied(const WeightFile& file);

}  // namespace coppice
