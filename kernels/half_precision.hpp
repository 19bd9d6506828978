#pragma once

#include <cstdint>

#include "kernels/criteria.hpp"

namespace coppice {

/// IEEE binary16 → binary32, exact; denormals, infinities and NaN (payload kept, quiet bit as it is)
/// included. Without a branch, so that a block converts a vector at a time: scaling by 2^112 is exact, makes
/// denormals normal, and takes the exponent of infinities and NaN to 143: those get all its bits.
/// Usable on the host and in device code.
COPPICE_HOST_DEVICE constexpr float half_to_float(uint16_t half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;
  const uint32_t scaled = __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, magnitude) * 0x1p112f);
  const uint32_t special = 0u - static_cast<uint32_t>(magnitude >= 0x0f80'0000u);
  return __builtin_bit_cast(
      float, (scaled | (special & 0x7f80'0000u)) | (static_cast<uint32_t>(half & 0x8000u) << 16));
}

/// The bits of a bfloat16.
using Bfloat16 = uint16_t;

/// bfloat16 is the upper half of a binary32.
COPPICE_HOST_DEVICE constexpr float bfloat16_to_float(Bfloat16 value) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(value) << 16);
}

/// To the nearest, of two the even one; beyond the largest to infinity; a NaN stays one.
COPPICE_HOST_DEVICE constexpr Bfloat16 float_to_bfloat16(float value) {
  const auto bits = __builtin_bit_cast(uint32_t, value);
  if ((bits & 0x7fff'ffffu) > 0x7f80'0000u) return static_cast<Bfloat16>(bits >> 16 | 0x40u);
  return static_cast<Bfloat16>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace coppice
