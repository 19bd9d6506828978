#pragma once

#include <cstdint>

#include "kernels/cpu/isa/values.hpp"

namespace coppice::cpu {

/// A sparse matrix A as the products with many rows of x read it. Its rows are cut into strips, its columns
/// into blocks; a strip and a block make a cell, cell = strip * blocks + block. In each cell the rows are
/// sorted by their number of nonzeros and taken `group_rows` at a time: the rows of a group run in step, so
/// that no loop ends where the processor didn't expect it. Shorter rows of a group are filled with -0 at a
/// column of zeros, which changes no bit of a sum.
struct SellBatchArrays {
  int64_t blocks = 0;
  int64_t block_columns = 0;
  const int64_t* cell_groups = nullptr;   ///< [cells + 1]: its groups
  const int64_t* cell_entries = nullptr;  ///< [cells + 1]: its entries
  const uint16_t* group_trips = nullptr;  ///< [groups]: entries of each of its rows
  const uint16_t* group_rows = nullptr;   ///< [groups][group_rows]: within the strip
  Values values;                          ///< [entries]: in a group [trips][group_rows]
  const uint16_t* offsets = nullptr;      ///< [entries]: column within the block * bytes of a register
};

/// The kernels of one instruction set, on tiles of x and y (batch_tiles.hpp). Single-threaded; raw pointers
/// only.
///
/// Every element of y is one chain y = y + a·x over the row's nonzeros, columns ascending, from its starting
/// value: the bits of a dense product, whatever the blocks, strips and widths.
struct SellBatchKernels {
  int64_t group_rows;
  /// A strip's rows of the product, added to its tile of y.
  void (*multiply)(const SellBatchArrays& a, int64_t strip, const float* x_tile, int64_t width,
                   float* y_tile);
};

namespace baseline {
const SellBatchKernels& sell_batch_kernels();
}
namespace avx2 {
const SellBatchKernels& sell_batch_kernels();
}
namespace avx512 {
const SellBatchKernels& sell_batch_kernels();
}

}  // namespace coppice::cpu
