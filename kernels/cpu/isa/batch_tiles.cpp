#include "kernels/cpu/isa/batch_tiles.hpp"

#include "kernels/cpu/isa/transpose.hpp"

// Compiled once per instruction set. Everything but the table at the end is local to the file.
namespace coppice::cpu::COPPICE_ISA {
namespace {

inline int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}

void fill_x(const float* x, int64_t stride, int64_t rows, int64_t columns, int64_t block_columns,
            int64_t width, float* tile) {
  for (int64_t c0 = 0; c0 < columns; c0 += block_columns) {
    const int64_t count = min(block_columns, columns - c0);
    for (int64_t b = 0; b < width; b += kLanes) {
      const int64_t here = rows - b;
      transpose_rows(x + min(b, rows) * stride + c0, stride, here < 0 ? 0 : min(here, kLanes), count,
                     tile + b, width);
    }
    tile += block_columns * width;
    for (int64_t b = 0; b < width; ++b) *tile++ = 0.0f;
  }
}

void start_y(const float* y, int64_t stride, int64_t rows, int64_t count, const float* bias, int64_t width,
             float* tile) {
  if (y == nullptr) {
    for (int64_t r = 0; r < count; ++r) {
      const Floats start = broadcast(bias != nullptr ? 0.0f + bias[r] : 0.0f);
      for (int64_t b = 0; b < width; b += kLanes) store_as(tile + r * width + b, start);
    }
  } else {
    for (int64_t b = 0; b < width; b += kLanes) {
      const int64_t here = rows - b;
      transpose_rows(y + min(b, rows) * stride, stride, here < 0 ? 0 : min(here, kLanes), count, tile + b,
                     width);
    }
    for (int64_t r = 0; bias != nullptr && r < count; ++r) {
      for (int64_t b = 0; b < width; b += kLanes) {
        float* at = tile + r * width + b;
        store_as(at, load_as<Floats>(at) + broadcast(bias[r]));
      }
    }
  }
  for (int64_t i = 0; i < kSpareColumns * width; ++i) tile[count * width + i] = 0.0f;
}

void store_y(const float* tile, int64_t width, int64_t rows, int64_t count, float* y, int64_t stride) {
  for (int64_t b0 = 0; b0 < rows; b0 += kLanes) {
    const int64_t here = min(kLanes, rows - b0);
    int64_t r = 0;
    for (; r + kLanes <= count; r += kLanes) {
      Floats row[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) row[i] = load_as<Floats>(tile + (r + i) * width + b0);
      transpose(row);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (i < here) store_as(y + (b0 + i) * stride + r, row[i]);
      }
    }
    for (; r < count; ++r) {
      for (int64_t b = b0; b < b0 + here; ++b) y[b * stride + r] = tile[r * width + b];
    }
  }
}

}  // namespace

const BatchTileKernels& batch_tile_kernels() {
  static constexpr BatchTileKernels kernels{kLanes, fill_x, start_y, store_y};
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
