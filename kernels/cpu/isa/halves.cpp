#include "kernels/cpu/isa/halves.hpp"

#include "kernels/half_precision.hpp"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace coppice::cpu::COPPICE_ISA {
namespace {

constexpr int64_t kWord = 64;
constexpr int64_t kLanes = 16;
typedef int16_t Halves __attribute__((vector_size(2 * kLanes)));
typedef int16_t UnalignedHalves __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

/// Elements in a cache line, and how far ahead lines are fetched: as far as the caller's next piece, because
/// it scores this one before it comes back.
constexpr int64_t kLine = 32;
constexpr int64_t kAhead = 1024;

template <class Convert>
[[gnu::always_inline]] inline void widen(const void* from, int64_t count, float* to, Convert convert) {
  const uint16_t* halves = static_cast<const uint16_t*>(from);
  int64_t i = 0;
  for (; i + kLine <= count; i += kLine) {
    __builtin_prefetch(halves + i + kAhead);
    for (int64_t j = 0; j < kLine; j += 8) convert(halves + i + j, to + i + j, 8);
  }
  if (i < count) convert(halves + i, to + i, count - i);
}

void widen_f16(const void* from, int64_t count, float* to) {
  widen(
      from, count, to, [](const uint16_t* halves, float* floats, int64_t n) __attribute__((always_inline)) {
#if defined(__F16C__)
        if (n == 8) {
          _mm256_storeu_ps(floats,
                           _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves))));
          return;
        }
#endif
        for (int64_t i = 0; i < n; ++i) floats[i] = half_to_float(halves[i]);
      });
}

void widen_bf16(const void* from, int64_t count, float* to) {
  widen(
      from, count, to, [](const uint16_t* halves, float* floats, int64_t n) __attribute__((always_inline)) {
        for (int64_t i = 0; i < n; ++i) floats[i] = bfloat16_to_float(halves[i]);
      });
}

/// Whole words; `to` may be `from`.
[[gnu::always_inline]] inline void cut_word(const int16_t* from, int16_t* to, uint64_t keep) {
  const Halves one = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                      1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, -32768};
#pragma GCC unroll 4
  for (int64_t v = 0; v < kWord / kLanes; ++v) {
    const int16_t bits = static_cast<int16_t>(keep >> (kLanes * v));
    const Halves kept = (one & bits) != 0;
    *reinterpret_cast<UnalignedHalves*>(to + kLanes * v) =
        *reinterpret_cast<const UnalignedHalves*>(from + kLanes * v) & kept;
  }
}

int64_t cut(const ScoreChunk& chunk, void* output, uint64_t* mask) {
  const int16_t* const from = static_cast<const int16_t*>(chunk.weights);
  int16_t* const to = static_cast<int16_t*>(output);
  const uint64_t* const kept = chunk.kept;
  const int64_t chunk_count = chunk.count;
  int64_t cut_count = 0, begin = 0, index = 0;
  for (int shift = chunk.mask_bit; begin < chunk_count; shift = 0, ++index) {
    const int64_t count = chunk_count - begin < kWord - shift ? chunk_count - begin : kWord - shift;
    const uint64_t valid = ~uint64_t{0} >> (kWord - count);
    const uint64_t keep = kept == nullptr ? valid : kept[index] >> shift & valid;
    cut_count += count - __builtin_popcountll(keep);
    if (mask != nullptr) mask[index] = (mask[index] & ~(valid << shift)) | (keep << shift);
    if (to != nullptr && (keep != valid || to != from)) {
      if (count == kWord) {
        cut_word(from + begin, to + begin, keep);
      } else {
        for (int64_t i = 0; i < count; ++i) to[begin + i] = (keep >> i & 1) != 0 ? from[begin + i] : 0;
      }
    }
    begin += count;
  }
  return cut_count;
}

constexpr HalfKernels kKernels = {&widen_f16, &widen_bf16, &cut};

}  // namespace

const HalfKernels& half_kernels() {
  return kKernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
