#pragma once

#include "kernels/weight.hpp"

namespace coppice::cpu {

/// What the CPU's recurrence asks of a weight, whatever its layout: products of a few rows by one thread, so
/// that each thread owns a slice of the batch for the whole sequence and no barrier stands inside the time
/// loop. A row's result never depends on which other rows it is computed with.
class CpuWeight : public Weight {
 public:
  using Weight::Weight;

  /// Call once, outside parallel regions, before the functions below: renews what is packed for them.
  virtual void prepare_rows(bool transposed) = 0;
  /// y[r] (+)= x[r]·Wᵀ for `rows` rows; x [rows, in] with stride ldx, y [rows, out] with stride ldy.
  virtual void multiply_rows(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                             bool accumulate) const = 0;
  /// dx[r] (+)= dy[r]·W.
  virtual void multiply_transposed_rows(const float* dy, int64_t ldy, int64_t rows, float* dx, int64_t ldx,
                                        bool accumulate) const = 0;
};

}  // namespace coppice::cpu
