#pragma once

#include "kernels/cpu/isa/vector.hpp"

// Transposing in registers, for files that are compiled once per instruction set.

namespace coppice::cpu::COPPICE_ISA {
namespace {

template <int... I>
struct LaneIndices {};
#if defined(COPPICE_ISA_avx512)
using EveryLane = LaneIndices<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif defined(__AVX2__)
using EveryLane = LaneIndices<0, 1, 2, 3, 4, 5, 6, 7>;
#else
using EveryLane = LaneIndices<0, 1, 2, 3>;
#endif

/// Lane i of `a` where (i & W) is 0, else lane i - W of `b` …
template <int W, int... I>
inline Floats merge_low(Floats a, Floats b, LaneIndices<I...>) {
  return __builtin_shuffle(a, b, Ints{((I & W) != 0 ? kLanes + I - W : I)...});
}
/// … and lane i + W of `a` where (i & W) is 0, else lane i of `b`.
template <int W, int... I>
inline Floats merge_high(Floats a, Floats b, LaneIndices<I...>) {
  return __builtin_shuffle(a, b, Ints{((I & W) != 0 ? kLanes + I : I + W)...});
}

/// Transposes kLanes rows of kLanes elements: log2(kLanes) rounds that swap ever smaller off-diagonal blocks.
template <int W = kLanes / 2>
inline void transpose(Floats* row) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & W) != 0) continue;
    const Floats low = merge_low<W>(row[i], row[i + W], EveryLane{});
    row[i + W] = merge_high<W>(row[i], row[i + W], EveryLane{});
    row[i] = low;
  }
  if constexpr (W > 1) transpose<W / 2>(row);
}

/// Lane i of the result is the sum of row[i]'s lanes, in a fixed tree. Overwrites the rows.
template <int W = kLanes / 2>
inline Floats sums_of_rows(Floats* row) {
#pragma GCC unroll 8
  for (int i = 0; i < W; ++i) {
    row[i] = merge_low<W>(row[i], row[i + W], EveryLane{}) + merge_high<W>(row[i], row[i + W], EveryLane{});
  }
  if constexpr (W > 1) {
    return sums_of_rows<W / 2>(row);
  } else {
    return row[0];
  }
}

/// to[k * step + i] = from[i * stride + k] for i < rows, 0 for rows <= i < kLanes, k < depth. Writes whole
/// vectors, k ascending: what lies beyond `step` is overwritten by the next k, or is the caller's slack of
/// kLanes.
inline void transpose_rows(const float* from, int64_t stride, int64_t rows, int64_t depth, float* to,
                           int64_t step) {
  int64_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) {
    Floats row[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      row[i] = i < rows ? load_as<Floats>(from + i * stride + k) : Floats{};
    }
    transpose(row);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) store_as(to + (k + i) * step, row[i]);
  }
  for (; k < depth; ++k) {
    Floats column{};
    for (int i = 0; i < kLanes; ++i) column[i] = i < rows ? from[i * stride + k] : 0.0f;
    store_as(to + k * step, column);
  }
}

}  // namespace
}  // namespace coppice::cpu::COPPICE_ISA
