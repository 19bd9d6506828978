#pragma once

#include <cstdint>

#include "kernels/cpu/isa/values.hpp"

namespace coppice::cpu {

/// A sparse matrix A as the product with a single row of x reads it: `kSellSliceRows` neighbouring rows, a
/// slice, lie in the lanes. In a step each row of the slice takes its next nonzero, if that lies within their
/// window of x. Windows start near the hindmost row, so that rows may run ahead of each other a little, and a
/// byte says where in the window an entry lies. How large a window is, and how many steps share it, is the
/// kernels' to say: what their permutes reach.
struct SellSingleArrays {
  int64_t rows = 0;
  int64_t columns = 0;
  const int64_t* slice_turns = nullptr;     ///< [slices + 1]: its turns, of SellWindows::steps each
  const int32_t* window_columns = nullptr;  ///< [turns]: a window's first column
  /// [turns][steps][kSellSliceRows]: of an entry kSellActive + column within the window, 0 of a row that
  /// waits; the rows' order is the kernels' `places`.
  const uint8_t* indices = nullptr;
  Values values;  ///< the same in the rows' own order; -0 of a row that waits
};

constexpr int64_t kSellSliceRows = 32;
constexpr uint8_t kSellActive = 0x80;

struct SellWindows {
  int64_t columns;    ///< at most kSellActive
  int64_t steps;      ///< that share one
  int64_t alignment;  ///< windows start at multiples of it
};

/// The kernels of one instruction set. Single-threaded; raw pointers only. Every element of y is one chain
/// y = y + a·x over the row's nonzeros, columns ascending, as in SellBatchKernels, to the bit.
struct SellSingleKernels {
  SellWindows windows;
  uint8_t places[kSellSliceRows];  ///< where a step keeps the index of a row
  /// Floats that `prepare_x` fills for a row of `columns`.
  int64_t (*prepared_floats)(int64_t columns);
  void (*prepare_x)(const float* x, int64_t columns, float* prepared);
  /// y[r] = (accumulate ? y[r] : 0) + bias[r] + Σ_c A(r, c)·x(c) for the rows of slices [first, last).
  void (*multiply)(const SellSingleArrays& a, int64_t first, int64_t last, const float* prepared_x,
                   const float* bias, bool accumulate, float* y);
};

/// Small windows take fewer instructions, large ones leave fewer entries empty, which counts for more the
/// more zeros there are.
struct SellSingleChoice {
  double small_from_density;  ///< the share of nonzeros
  SellSingleKernels small, large;
};

namespace baseline {
const SellSingleChoice& sell_single_kernels();
}
namespace avx2 {
const SellSingleChoice& sell_single_kernels();
}
namespace avx512 {
const SellSingleChoice& sell_single_kernels();
}

}  // namespace coppice::cpu
