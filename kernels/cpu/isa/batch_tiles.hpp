#pragma once

#include <cstdint>

namespace coppice::cpu {

/// Columns that a tile of y has beyond a strip's, for results that nobody wants.
constexpr int64_t kSpareColumns = 16;

/// How rows of x and y become tiles in which the batch lies in the lanes, so that one value of a sparse
/// matrix meets a whole register of x. A tile's `width` is one or two registers.
///
/// A tile of x holds `width` rows of it, transposed and cut into blocks of columns: tile[block][column within
/// it][row], and after each block's columns one of zeros, for padding to meet. A tile of y holds a strip of
/// its columns, [column][row], and the spare ones.
struct BatchTileKernels {
  int64_t lanes;  ///< of a register
  /// Rows of x beyond `rows` read as 0.
  void (*fill_x)(const float* x, int64_t stride, int64_t rows, int64_t columns, int64_t block_columns,
                 int64_t width, float* tile);
  /// A tile of y from what its sums start with: bias (or 0), plus y itself where `y` isn't null.
  void (*start_y)(const float* y, int64_t stride, int64_t rows, int64_t columns, const float* bias,
                  int64_t width, float* tile);
  /// Writes its first `rows` rows back.
  void (*store_y)(const float* tile, int64_t width, int64_t rows, int64_t columns, float* y, int64_t stride);
};

namespace baseline {
const BatchTileKernels& batch_tile_kernels();
}
namespace avx2 {
const BatchTileKernels& batch_tile_kernels();
}
namespace avx512 {
const BatchTileKernels& batch_tile_kernels();
}

}  // namespace coppice::cpu
