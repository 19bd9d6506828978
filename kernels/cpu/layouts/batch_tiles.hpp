#pragma once

#include <algorithm>

#include "kernels/cpu/dispatch.hpp"
#include "kernels/cpu/isa/batch_tiles.hpp"
#include "kernels/cpu/memory.hpp"

namespace coppice::cpu {

/// A matrix's rows go in strips whose sums for a tile of x wait in L2 (64 KiB with AVX-512) while the blocks
/// of its columns pass.
constexpr int64_t kStripRows = 512;
constexpr int64_t strips_of(int64_t rows) {
  return (rows + kStripRows - 1) / kStripRows;
}
constexpr int64_t strip_rows(int64_t rows, int64_t strip) {
  return std::min(kStripRows, rows - strip * kStripRows);
}

/// The products of a sparse matrix A with many rows of x, tile by tile, shared among threads.
class BatchTiles {
 public:
  explicit BatchTiles(Isa isa) : kernels_(COPPICE_KERNELS(isa, batch_tile_kernels)) {}

  struct Shape {
    int64_t rows, cols;     // of A
    int64_t block_columns;  // of a tile of x
    int64_t blocks() const { return (cols + block_columns - 1) / block_columns; }
  };

  int64_t lanes() const { return kernels_.lanes; }

  /// y (+)= x·Aᵀ (+ bias): body(strip, tile of x, width, tile of y) adds A's rows of that strip to the tile
  /// of y. Whichever tiles and threads there are, an element's sum is the body's.
  template <class Body>
  void multiply(const Shape& shape, const float* x, int64_t x_stride, int64_t n, const float* bias,
                bool accumulate, float* y, int64_t y_stride, int64_t threads, Body body) const {
    const int64_t width = width_for(n), tiles = (n + width - 1) / width, strips = strips_of(shape.rows);
    const int64_t x_floats = floats_of_x(shape, width);
    // Each thread transposes the tiles of x that it meets.
    for_each_share(tiles * strips, threads, x_floats + floats_of_y(shape, width),
                   [&](int64_t first, int64_t last, float* x_tile) {
                     float* y_tile = x_tile + x_floats;
                     for (int64_t item = first, filled = -1; item < last; ++item) {
                       const int64_t tile = item / strips, strip = item % strips;
                       const int64_t b = tile * width, batch = std::min(width, n - b),
                                     row = strip * kStripRows;
                       if (tile != filled) {
                         kernels_.fill_x(x + b * x_stride, x_stride, batch, shape.cols, shape.block_columns,
                                         width, x_tile);
                         filled = tile;
                       }
                       float* to = y + b * y_stride + row;
                       const int64_t count = strip_rows(shape.rows, strip);
                       kernels_.start_y(accumulate ? to : nullptr, y_stride, batch, count,
                                        bias != nullptr ? bias + row : nullptr, width, y_tile);
                       body(strip, x_tile, width, y_tile);
                       kernels_.store_y(y_tile, width, batch, count, to, y_stride);
                     }
                   });
  }

 private:
  int64_t width_for(int64_t n) const { return n <= kernels_.lanes ? kernels_.lanes : 2 * kernels_.lanes; }
  static int64_t floats_of_x(const Shape& shape, int64_t width) {
    return shape.blocks() * (shape.block_columns + 1) * width;
  }
  static int64_t floats_of_y(const Shape& shape, int64_t width) {
    return (std::min(kStripRows, shape.rows) + kSpareColumns) * width;
  }

  /// Calls body(first, last, its floats of scratch) for shares of `items`, one a thread.
  template <class Body>
  static void for_each_share(int64_t items, int64_t threads, int64_t scratch_floats, Body body) {
    const int64_t shares = std::max<int64_t>(1, std::min(items, threads));
    scratch_floats = (scratch_floats + 15) / 16 * 16;
    // One allocation here rather than one in each thread: an exception can't leave a parallel region.
    thread_local Scratch tiles;
    float* scratch = tiles.floats(shares * scratch_floats, "a sparse product's working memory");
    if (shares == 1) return body(0, items, scratch);
#pragma omp parallel for num_threads(static_cast <int>(shares)) schedule(static)
    for (int64_t share = 0; share < shares; ++share) {
      body(items * share / shares, items * (share + 1) / shares, scratch + share * scratch_floats);
    }
  }

  const BatchTileKernels& kernels_;
};

}  // namespace coppice::cpu
