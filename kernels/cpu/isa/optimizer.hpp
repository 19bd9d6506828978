#pragma once

#include <cstdint>

#include "kernels/optimizer.hpp"

namespace coppice::cpu {

/// One optimizer step's numbers, as the inner loop wants them.
struct UpdateNumbers {
  OptimizerSettings settings;
  float gradient_scale = 1.0f;  // of clipping
  float step_size = 0.0f;       // adam: rate / (1 − β₁ᵗ)
  float root_scale = 1.0f;      // adam: 1 / √(1 − β₂ᵗ)
};

struct OptimizerKernels {
  /// Σ g² over kept elements, in double. `mask` may be null; it starts at element 0 of g.
  double (*sum_of_squares)(const float* gradients, const uint64_t* mask, int64_t n);
  /// The step over n elements; state pointers that the kind doesn't use are null.
  void (*update)(const UpdateNumbers& numbers, float* values, const float* gradients, const uint64_t* mask,
                 float* state0, float* state1, int64_t n);
  void (*apply_mask)(float* values, const uint64_t* mask, int64_t n);
};

/// In the exact list: one rounding per operation.
struct StatisticsKernels {
  /// Any of the three sums may be null.
  void (*accumulate)(const float* gradients, float* sum, float* absolute, float* squared, int64_t n);
};

namespace baseline {
const OptimizerKernels& optimizer_kernels();
const StatisticsKernels& statistics_kernels();
}  // namespace baseline
namespace avx2 {
const OptimizerKernels& optimizer_kernels();
const StatisticsKernels& statistics_kernels();
}  // namespace avx2
namespace avx512 {
const OptimizerKernels& optimizer_kernels();
const StatisticsKernels& statistics_kernels();
}  // namespace avx512

}  // namespace coppice::cpu
