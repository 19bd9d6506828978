#pragma once

#include <cstdint>

#include "kernels/random.hpp"

namespace coppice::cpu {

struct SequenceKernels {
  /// y[i] += x[i].
  void (*add)(const float* x, float* y, int64_t n);
  /// sums[c] += Σ_r x[r·stride + c], rows in order.
  void (*add_column_sums)(const float* x, int64_t stride, int64_t rows, int64_t cols, float* sums);
  /// The largest of n >= 1 values; NaNs are passed over.
  float (*largest)(const float* x, int64_t n);
  /// Σ e^(x[i] − shift); the terms go to `terms` (may be x) unless that is null.
  double (*sum_of_exponentials)(const float* x, int64_t n, float shift, float* terms);
  /// x[i] ×= factor.
  void (*scale)(float* x, int64_t n, float factor);
  /// y[i] = x[i]·factor, or 0 where the upper 24 bits of draw first + i are below `threshold`.
  void (*dropout)(const float* x, float* y, int64_t n, RandomStream stream, uint64_t first,
                  uint32_t threshold, float factor);
};

namespace baseline {
const SequenceKernels& sequence_kernels();
}
namespace avx2 {
const SequenceKernels& sequence_kernels();
}
namespace avx512 {
const SequenceKernels& sequence_kernels();
}

}  // namespace coppice::cpu
