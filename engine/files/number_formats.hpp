#pragma once

#include <bit>
#include <cstdint>

#include "kernels/tensor.hpp"

namespace coppice {

/// IEEE binary16 → binary32, exact; denormals, infinities and NaN (payload kept, quiet bit as it is)
/// included.
constexpr float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t fraction = half & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f80'0000u | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // a multiple of the least denormal
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

/// bfloat16 is the upper half of a binary32.
constexpr float bfloat16_to_float(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

/// `count` raw little-endian elements, at any alignment, as numbers. f64 → f32 rounds once to nearest even.
void convert_to_f32(DType type, const void* from, int64_t count, float* to);
void convert_to_f64(DType type, const void* from, int64_t count, double* to);

}  // namespace coppice
