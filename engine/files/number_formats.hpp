#pragma once

#include <cstdint>

#include "kernels/half_precision.hpp"
#include "kernels/tensor.hpp"

namespace coppice {

/// `count` raw little-endian elements, at any alignment, as numbers. f64 → f32 rounds once to nearest even.
void convert_to_f32(DType type, const void* from, int64_t count, float* to);
void convert_to_f64(DType type, const void* from, int64_t count, double* to);

}  // namespace coppice
