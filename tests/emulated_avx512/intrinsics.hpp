#pragma once

// The instructions of AVX-512 in C++, so that the kernels compiled for it run on a processor without:
// COPPICE_EMULATE_AVX512 includes this file first in each of them and compiles them for AVX2. Most are
// SIMDe's (https://github.com/simd-everywhere/simde), whose macros take the names of the compiler's own.
// Those that its release 0.7.4 lacks follow, by the operation that Intel's Intrinsics Guide gives for each.
// An instruction that is in neither doesn't compile: the compiler won't inline its own without -mavx512.

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

namespace coppice::emulated_avx512 {
namespace {

using Bytes32 = uint8_t __attribute__((vector_size(32)));
using Words16 = uint16_t __attribute__((vector_size(32)));
using Words32 = uint16_t __attribute__((vector_size(64)));
using Ints16 = int32_t __attribute__((vector_size(64)));
using Unsigned16 = uint32_t __attribute__((vector_size(64)));
using Longs8 = int64_t __attribute__((vector_size(64)));

/// A mask whose bit i is compare(i).
template <int lanes, class Compare>
inline uint32_t mask_of(Compare compare) {
  uint32_t mask = 0;
  for (int i = 0; i < lanes; ++i) mask |= uint32_t{compare(i)} << i;
  return mask;
}

/// A register whose lane i is value(i) where bit i of the mask is 1, else zero. value(i) is not asked there.
template <class Vector, class Value>
inline Vector where(uint64_t mask, Value value) {
  Vector result{};
  for (size_t i = 0; i < sizeof(result) / sizeof(result[0]); ++i) {
    if ((mask >> i & 1) != 0) result[i] = value(i);
  }
  return result;
}

inline __mmask16 cmplt_epi32_mask(__m512i a, __m512i b) {
  const auto x = reinterpret_cast<Ints16>(a), y = reinterpret_cast<Ints16>(b);
  return static_cast<__mmask16>(mask_of<16>([&](int i) { return x[i] < y[i]; }));
}
inline __mmask8 cmplt_epi64_mask(__m512i a, __m512i b) {
  const auto x = reinterpret_cast<Longs8>(a), y = reinterpret_cast<Longs8>(b);
  return static_cast<__mmask8>(mask_of<8>([&](int i) { return x[i] < y[i]; }));
}

inline __m512 maskz_loadu_ps(__mmask16 k, const void* from) {
  return where<__m512>(k, [&](size_t i) {
    float x;
    __builtin_memcpy(&x, static_cast<const char*>(from) + 4 * i, 4);
    return x;
  });
}
inline void mask_storeu_ps(void* to, __mmask16 k, __m512 a) {
  for (int i = 0; i < 16; ++i) {
    const float x = a[i];
    if ((k >> i & 1) != 0) __builtin_memcpy(static_cast<char*>(to) + 4 * i, &x, 4);
  }
}

inline __m256i maskz_cvtepi32_epi16(__mmask16 k, __m512i a) {
  const auto x = reinterpret_cast<Unsigned16>(a);
  return reinterpret_cast<__m256i>(where<Words16>(k, [&](size_t i) { return static_cast<uint16_t>(x[i]); }));
}
inline __m512i maskz_cvtepu8_epi16(__mmask32 k, __m256i a) {
  const auto x = reinterpret_cast<Bytes32>(a);
  return reinterpret_cast<__m512i>(where<Words32>(k, [&](size_t i) { return uint16_t{x[i]}; }));
}
inline __m512i maskz_cvtepu16_epi32(__mmask16 k, __m256i a) {
  const auto x = reinterpret_cast<Words16>(a);
  return reinterpret_cast<__m512i>(where<Unsigned16>(k, [&](size_t i) { return uint32_t{x[i]}; }));
}
inline __m512d maskz_cvtps_pd(__mmask8 k, __m256 a) {
  return where<__m512d>(k, [&](size_t i) { return double{a[i]}; });
}

/// Two bits of the immediate choose one of the four in the same quarter.
inline __m512 maskz_permute_ps(__mmask16 k, __m512 a, int choice) {
  return where<__m512>(k, [&](size_t i) { return a[(i & ~size_t{3}) + (choice >> (2 * (i & 3)) & 3)]; });
}

/// SIMDe's multiplies by exp2f(floor(b)), which is infinite at 128 and zero at -150, where x * 2^n need not
/// be. In double neither happens to a float, and the product is rounded once.
inline __m512 maskz_scalef_ps(__mmask16 k, __m512 a, __m512 b) {
  return where<__m512>(k, [&](size_t i) {
    if (b[i] != b[i]) return b[i];
    const double n = __builtin_floor(double{b[i]});
    const double bounded = n < -1000 ? -1000 : n > 1000 ? 1000 : n;
    return static_cast<float>(__builtin_ldexp(double{a[i]}, static_cast<int>(bounded)));
  });
}

inline __m512 maskz_sqrt_ps(__mmask16 k, __m512 a) {
  return where<__m512>(k, [&](size_t i) { return __builtin_sqrtf(a[i]); });
}
inline __m512i maskz_srli_epi32(__mmask16 k, __m512i a, unsigned count) {
  const auto x = reinterpret_cast<Unsigned16>(a);
  return reinterpret_cast<__m512i>(
      where<Unsigned16>(k, [&](size_t i) { return count > 31 ? 0 : x[i] >> count; }));
}

}  // namespace
}  // namespace coppice::emulated_avx512

#undef _mm512_maskz_permute_ps
#undef _mm512_maskz_scalef_ps
#undef _mm512_maskz_srli_epi32
#define _mm512_cmplt_epi32_mask(...) ::coppice::emulated_avx512::cmplt_epi32_mask(__VA_ARGS__)
#define _mm512_cmplt_epi64_mask(...) ::coppice::emulated_avx512::cmplt_epi64_mask(__VA_ARGS__)
#define _mm512_mask_storeu_ps(...) ::coppice::emulated_avx512::mask_storeu_ps(__VA_ARGS__)
#define _mm512_maskz_cvtepi32_epi16(...) ::coppice::emulated_avx512::maskz_cvtepi32_epi16(__VA_ARGS__)
#define _mm512_maskz_cvtepu16_epi32(...) ::coppice::emulated_avx512::maskz_cvtepu16_epi32(__VA_ARGS__)
#define _mm512_maskz_cvtepu8_epi16(...) ::coppice::emulated_avx512::maskz_cvtepu8_epi16(__VA_ARGS__)
#define _mm512_maskz_cvtps_pd(...) ::coppice::emulated_avx512::maskz_cvtps_pd(__VA_ARGS__)
#define _mm512_maskz_loadu_ps(...) ::coppice::emulated_avx512::maskz_loadu_ps(__VA_ARGS__)
#define _mm512_maskz_permute_ps(...) ::coppice::emulated_avx512::maskz_permute_ps(__VA_ARGS__)
#define _mm512_maskz_scalef_ps(...) ::coppice::emulated_avx512::maskz_scalef_ps(__VA_ARGS__)
#define _mm512_maskz_sqrt_ps(...) ::coppice::emulated_avx512::maskz_sqrt_ps(__VA_ARGS__)
#define _mm512_maskz_srli_epi32(...) ::coppice::emulated_avx512::maskz_srli_epi32(__VA_ARGS__)
