#pragma once

#include <cstdint>

namespace coppice::cpu {

/// The stored values of a matrix: one of the two is there, bfloat16 as its bits.
struct Values {
  const float* floats = nullptr;
  const uint16_t* rounded = nullptr;
};

}  // namespace coppice::cpu
