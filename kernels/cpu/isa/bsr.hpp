#pragma once

#include <cstdint>

#include "kernels/cpu/isa/values.hpp"

namespace coppice::cpu {

/// A matrix A of blocks of `height` rows by one column, as compressed rows of blocks (BSR).
struct BsrArrays {
  int64_t height = 0;                      ///< 16, 8 or 4
  int64_t rows = 0;                        ///< of A; a last block may be short of rows, and is filled with -0
  const int64_t* block_offsets = nullptr;  ///< [block rows + 1]
  const int32_t* col_indices = nullptr;    ///< [blocks], ascending within a block row
  Values values;                           ///< [blocks][height]
  const int32_t* by_length = nullptr;  ///< [block rows]: the longest first, so that neighbours run in step
};

/// The kernels of one instruction set. Single-threaded; raw pointers only. Every element of y is one chain
/// y = y + a·x, columns ascending, from its starting value: the bits of a dense product.
struct BsrKernels {
  /// Block rows [first, last) of the product with a tile of x (batch_tiles.hpp, one block of all columns),
  /// added to a tile of y whose first row is the first block row's.
  void (*multiply_batch)(const BsrArrays& a, int64_t first, int64_t last, const float* x_tile, int64_t width,
                         float* y_tile);
  /// y[r] = (accumulate ? y[r] : 0) + bias[r] + Σ_c A(r, c)·x(c) for one row of x and the rows r of the block
  /// rows by_length[first] to by_length[last - 1].
  void (*multiply_single)(const BsrArrays& a, int64_t first, int64_t last, const float* x, const float* bias,
                          bool accumulate, float* y);
};

namespace baseline {
const BsrKernels& bsr_kernels();
}
namespace avx2 {
const BsrKernels& bsr_kernels();
}
namespace avx512 {
const BsrKernels& bsr_kernels();
}

}  // namespace coppice::cpu
