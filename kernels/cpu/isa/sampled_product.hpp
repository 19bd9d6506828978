#pragma once

#include <cstdint>

namespace coppice::cpu {

/// Depth of the tiles of x and dy: so many rows of them, which lie side by side for every column.
constexpr int64_t kSampledDepth = 32;
/// Columns of a block of x: 32 KiB of tile, which is L1.
constexpr int64_t kSampledColumns = 256;
/// Rows of a strip of W, which are columns of dy.
constexpr int64_t kSampledRows = 128;

/// The places (row, column) of a sparse W for which dyᵀ·x is wanted. A strip of rows and a block of columns
/// make a cell, cell = strip * blocks + block; within it the entries of a row follow each other, filled up to
/// a whole number of groups by entries that nobody reads.
struct SampledArrays {
  const int64_t* cell_entries = nullptr;  ///< [cells + 1]: its entries
  const uint16_t* row_lengths = nullptr;  ///< [cells][kSampledRows]: entries of each row, without the filling
  const uint16_t* offsets = nullptr;      ///< [entries]: column within the block * kSampledDepth
};

/// The kernels of one instruction set: a sampled product of two dense matrices (SDDMM). Single-threaded; raw
/// pointers only.
///
/// Every sum is one chain s = s + dy(k, row)·x(k, column), k ascending: the bits of the dense gradient. So
/// the lanes can't hold neighbouring k, as a dot product would have it: they hold a group of places, and four
/// k of eight places are transposed in registers on their way.
struct SampledKernels {
  /// Places of a group.
  int64_t group;
  /// tile[column * kSampledDepth + k] = from[k * stride + column] for k < depth <= kSampledDepth; up to the
  /// next multiple of four, `filling`.
  void (*fill)(const float* from, int64_t stride, int64_t depth, int64_t columns, float filling, float* tile);
  /// sums[entry] for a cell's entries, over `depth` (a multiple of four) rows of x and dy.
  void (*add)(const SampledArrays& a, int64_t cell, int64_t rows, int64_t depth, const float* x_tile,
              const float* dy_tile, float* sums);
};

namespace baseline {
const SampledKernels& sampled_kernels();
}
namespace avx2 {
const SampledKernels& sampled_kernels();
}
namespace avx512 {
const SampledKernels& sampled_kernels();
}

}  // namespace coppice::cpu
