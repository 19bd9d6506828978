#pragma once

#include <cstdint>

namespace coppice::cpu {

/// A CSR matrix A [rows, ·] as the kernels see it.
struct CsrArrays {
  const int64_t* row_offsets = nullptr;  ///< [rows + 1]
  const int32_t* col_indices = nullptr;  ///< ascending within a row
  const float* values = nullptr;
};

/// The CSR kernels of one instruction set. Single-threaded; raw pointers only. An element of a product is
/// four chains, over the row's nonzeros 0, 4, 8, …; 1, 5, 9, …; …, added as (0 + 1) + (2 + 3), whatever the
/// number of batch rows: latency would bind a single chain, and a vector path must not round otherwise than a
/// scalar one.
struct CsrKernels {
  /// A tile is x transposed: tile[c * width + b] = x[b * stride + c] for b < rows, 0 for the other b. Its
  /// width is `lanes` (one vector, for few rows) or 2 * `lanes`, one load of a value then serving two.
  int64_t lanes;
  void (*transpose_tile)(const float* x, int64_t stride, int64_t rows, int64_t cols, int64_t width,
                         float* to);
  /// y(b, r) (+)= Σ_c A(r, c)·x(b, c) (+ bias(r)) for A's rows [first, last) and the `batch` <= width rows of
  /// x in a tile.
  void (*multiply_tile)(const CsrArrays& a, int64_t first, int64_t last, const float* x_tile, int64_t width,
                        int64_t batch, const float* bias, bool accumulate, float* y, int64_t y_stride);
  /// The same for one row of x as it lies.
  void (*multiply_row)(const CsrArrays& a, int64_t first, int64_t last, const float* x, const float* bias,
                       bool accumulate, float* y);
};

namespace baseline {
const CsrKernels& csr_kernels();
}
namespace avx2 {
const CsrKernels& csr_kernels();
}
namespace avx512 {
const CsrKernels& csr_kernels();
}

}  // namespace coppice::cpu
