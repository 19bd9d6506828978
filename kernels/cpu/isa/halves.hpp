#pragma once

#include <cstdint>

#include "kernels/cpu/select_kernels.hpp"

namespace coppice::cpu {

/// Half precision is widened where it is scored, and cut as it lies: 16 bits an element, f16 or bf16.
struct HalfKernels {
  /// Exact; a NaN stays one.
  void (*widen_f16)(const void* from, int64_t count, float* to);
  void (*widen_bf16)(const void* from, int64_t count, float* to);
  /// As SelectKernels::cut.
  int64_t (*cut)(const ScoreChunk&, void* output, uint64_t* mask);
};

namespace baseline {
const HalfKernels& half_kernels();
}
namespace avx2 {
const HalfKernels& half_kernels();
}
namespace avx512 {
const HalfKernels& half_kernels();
}

}  // namespace coppice::cpu
