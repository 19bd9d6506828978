#pragma once

#include <cstdint>

#include "kernels/criteria.hpp"

namespace coppice {

/// Order-preserving map from floats to unsigned integers: a < b ⇔ key(a) < key(b), with −0 and +0 equal,
/// denormals in their place and −∞, +∞ at the ends. NaN has no place in the order: callers refuse it first.
/// The keys below that of −∞ belong to no float; selection uses 0 for what is cut already.
/// Usable on the host and in device code.
COPPICE_HOST_DEVICE constexpr uint32_t ordered_key(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value == 0.0f ? 0.0f : value);
  return (bits & 0x8000'0000u) ? ~bits : bits | 0x8000'0000u;
}

COPPICE_HOST_DEVICE constexpr uint64_t ordered_key(double value) {
  const uint64_t bits = __builtin_bit_cast(uint64_t, value == 0.0 ? 0.0 : value);
  return (bits >> 63) ? ~bits : bits | (uint64_t{1} << 63);
}

COPPICE_HOST_DEVICE constexpr float value_of_key(uint32_t key) {
  return __builtin_bit_cast(float, (key & 0x8000'0000u) ? key & 0x7fff'ffffu : ~key);
}

COPPICE_HOST_DEVICE constexpr double value_of_key(uint64_t key) {
  return __builtin_bit_cast(double, (key >> 63) ? key & ~(uint64_t{1} << 63) : ~key);
}

}  // namespace coppice
