#pragma once

#include <cstdint>

namespace coppice {

/// Floats from one row to the next of a matrix of `cols` columns that is walked along its columns as well, as
/// the gates of a batch are: cols, or a cache line more where whole multiples of 1 KiB would put the rows
/// into the same few sets of a cache.
constexpr int64_t row_stride(int64_t cols) {
  constexpr int64_t kLine = 16, kSets = 256;
  return cols % kSets == 0 ? cols + kLine : cols;
}

}  // namespace coppice
