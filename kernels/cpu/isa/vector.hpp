#pragma once

#include <cstdint>

#include "kernels/cpu/isa/values.hpp"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

// One register of floats and its arithmetic, for files that are compiled once per instruction set: GCC's
// vector extensions where they suffice, intrinsics where they don't (tails, square roots, widening products).
// All of it lies in an anonymous namespace: no copy of it may be merged across instruction sets.

namespace coppice::cpu::COPPICE_ISA {
namespace {

#if defined(COPPICE_ISA_avx512)
constexpr int kLanes = 16;
// The unmasked intrinsics start from an undefined register, of which g++ 12 warns; a full mask compiles to
// the same.
constexpr __mmask16 kEvery = 0xffff;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

using Floats = float __attribute__((vector_size(4 * kLanes)));
using Ints = int32_t __attribute__((vector_size(4 * kLanes)));
using Unsigned = uint32_t __attribute__((vector_size(4 * kLanes)));  // wrap around, as the bits of a NaN may
using HalfFloats = float __attribute__((vector_size(2 * kLanes)));
using Doubles = double __attribute__((vector_size(4 * kLanes)));
using Words = uint64_t __attribute__((vector_size(4 * kLanes)));

/// How many lanes of a register a load or store touches: all, or the first `count` (a row's tail).
struct AllLanes {};
struct FirstLanes {
  int64_t count;
};

inline Floats broadcast(float x) {
  return x - Floats{};
}
inline Ints bits_of(Floats x) {
  return reinterpret_cast<Ints>(x);
}
inline Floats floats_of(Ints x) {
  return reinterpret_cast<Floats>(x);
}

template <class Register, class T>
inline Register load_as(const T* from) {
  Register x;
  __builtin_memcpy(&x, from, sizeof(x));
  return x;
}
template <class Register, class T>
inline void store_as(T* to, Register x) {
  __builtin_memcpy(to, &x, sizeof(x));
}

inline Floats load(const float* from, AllLanes) {
  return load_as<Floats>(from);
}
inline void store(float* to, Floats x, AllLanes) {
  store_as(to, x);
}

/// A register of stored values: floats as they are; bfloat16, whose bits are the upper half of a float's,
/// widened.
inline Floats load_stored(const float* from) {
  return load_as<Floats>(from);
}
inline Floats load_stored(const uint16_t* from) {
#if defined(COPPICE_ISA_avx512)
  const auto bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return reinterpret_cast<Floats>(reinterpret_cast<Unsigned>(_mm512_maskz_cvtepu16_epi32(kEvery, bits))
                                  << 16);
#elif defined(__AVX2__)
  const auto bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return reinterpret_cast<Floats>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
#elif defined(__x86_64__)
  const auto bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return reinterpret_cast<Floats>(_mm_unpacklo_epi16(_mm_setzero_si128(), bits));
#else
  Unsigned bits;
  for (int i = 0; i < kLanes; ++i) bits[i] = from[i];
  return reinterpret_cast<Floats>(bits << 16);
#endif
}

/// The values that are there of a type.
inline const float* of_type(const Values& values, const float*) {
  return values.floats;
}
inline const uint16_t* of_type(const Values& values, const uint16_t*) {
  return values.rounded;
}
template <class Stored>
inline const Stored* stored(const Values& values) {
  return of_type(values, static_cast<const Stored*>(nullptr));
}

inline Ints lane_numbers() {
  Ints lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}

/// The lanes beyond `count` read as 0 and are not touched in memory.
inline Floats load(const float* from, FirstLanes lanes) {
#if defined(COPPICE_ISA_avx512)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << lanes.count) - 1), from);
#elif defined(__AVX2__)
  return _mm256_maskload_ps(from,
                            reinterpret_cast<__m256i>(lane_numbers() < static_cast<int32_t>(lanes.count)));
#else
  Floats x{};
  for (int64_t i = 0; i < lanes.count; ++i) x[i] = from[i];
  return x;
#endif
}
inline void store(float* to, Floats x, FirstLanes lanes) {
#if defined(COPPICE_ISA_avx512)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << lanes.count) - 1), x);
#elif defined(__AVX2__)
  _mm256_maskstore_ps(to, reinterpret_cast<__m256i>(lane_numbers() < static_cast<int32_t>(lanes.count)), x);
#else
  for (int64_t i = 0; i < lanes.count; ++i) to[i] = x[i];
#endif
}

/// Calls body(i, lanes) for consecutive registers covering [0, n).
template <class Body>
inline void for_each_register(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, AllLanes{});
  if (i < n) body(i, FirstLanes{n - i});
}

/// a where a > b, else b (b also when either is NaN).
inline Floats larger(Floats a, Floats b) {
#if defined(COPPICE_ISA_avx512)
  return _mm512_maskz_max_ps(kEvery, a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
/// a where a < b, else b (b also when either is NaN).
inline Floats smaller(Floats a, Floats b) {
#if defined(COPPICE_ISA_avx512)
  return _mm512_maskz_min_ps(kEvery, a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

/// Whether any bit of any lane is 1.
inline bool any_bit(Ints x) {
#if defined(COPPICE_ISA_avx512)
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(x)) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(x));
#else
  int32_t any = 0;
  for (int i = 0; i < kLanes; ++i) any |= x[i];
  return any != 0;
#endif
}

inline Floats square_root(Floats x) {
#if defined(COPPICE_ISA_avx512)
  return _mm512_maskz_sqrt_ps(kEvery, x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#elif defined(__x86_64__)
  return _mm_sqrt_ps(x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

/// The lower 32 bits of each lane multiplied, as 64 bits.
inline Words multiply_low(Words a, Words b) {
#if defined(COPPICE_ISA_avx512)
  return reinterpret_cast<Words>(
      _mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__x86_64__)
  return reinterpret_cast<Words>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return (a & 0xffff'ffffu) * (b & 0xffff'ffffu);
#endif
}

/// Exactly. Not __builtin_convertvector where there is an instruction: g++ 12 makes quarters and joins them
/// again.
inline Doubles widen(HalfFloats x) {
#if defined(COPPICE_ISA_avx512)
  return _mm512_maskz_cvtps_pd(0xff, x);
#elif defined(__AVX2__)
  return _mm256_cvtps_pd(x);
#else
  return __builtin_convertvector(x, Doubles);
#endif
}

/// Sums in a fixed tree: the same bits for the same lanes, whoever calls.
inline float sum_of_lanes(Floats x) {
  float lanes[kLanes];
  store_as(lanes, x);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}
inline double sum_of_lanes(Doubles x) {
  double lanes[kLanes / 2];
  store_as(lanes, x);
  for (int width = kLanes / 4; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

/// N neighbours in memory (N a multiple of 4), each to be had in all lanes. With AVX-512 a broadcast from
/// memory costs a whole load of a register, of which a processor does one or two a cycle: four values a load
/// instead, spread by shuffles, which other units do.
template <int N, class Stored>
struct SpreadValues;

template <int N>
struct SpreadValues<N, float> {
#if defined(COPPICE_ISA_avx512)
  Floats quads[N / 4];
  explicit SpreadValues(const float* from) {
#pragma GCC unroll 4
    for (int q = 0; q < N / 4; ++q) {
      quads[q] = _mm512_maskz_broadcast_f32x4(kEvery, _mm_loadu_ps(from + 4 * q));
    }
  }
  template <int I>
  Floats get() const {
    return _mm512_maskz_permute_ps(kEvery, quads[I / 4], I % 4 * 0x55);
  }
#else
  const float* values;
  explicit SpreadValues(const float* from) : values(from) {}
  template <int I>
  Floats get() const {
    return broadcast(values[I]);
  }
#endif
};

#if defined(__AVX2__)
/// Of four neighbours in every 64 bits of a register, the number I in all lanes, widened.
template <int I>
inline Floats spread_quarter(Words quads) {
  constexpr int kBytes = (2 * I + 1) << 24 | 2 * I << 16 | 0x8080;  // 0x80: a zero
#if defined(COPPICE_ISA_avx512)
  return reinterpret_cast<Floats>(_mm512_maskz_shuffle_epi8(~__mmask64{0}, reinterpret_cast<__m512i>(quads),
                                                            reinterpret_cast<__m512i>(kBytes + Ints{})));
#else
  return reinterpret_cast<Floats>(
      _mm256_shuffle_epi8(reinterpret_cast<__m256i>(quads), reinterpret_cast<__m256i>(kBytes + Ints{})));
#endif
}
#endif

/// With AVX-512 four values a load as well, else two, for which no shuffle is needed.
template <int N>
struct SpreadValues<N, uint16_t> {
#if defined(COPPICE_ISA_avx512)
  Words quads[N / 4];
  explicit SpreadValues(const uint16_t* from) {
#pragma GCC unroll 4
    for (int q = 0; q < N / 4; ++q) quads[q] = load_as<uint64_t>(from + 4 * q) - Words{};
  }
  template <int I>
  Floats get() const {
    return spread_quarter<I % 4>(quads[I / 4]);
  }
#else
  const uint16_t* values;
  explicit SpreadValues(const uint16_t* from) : values(from) {}
  template <int I>
  Floats get() const {
    const Unsigned pair = load_as<uint32_t>(values + I / 2 * 2) - Unsigned{};
    return reinterpret_cast<Floats>(I % 2 == 0 ? pair << 16 : pair & 0xffff'0000u);
  }
#endif
};

}  // namespace
}  // namespace coppice::cpu::COPPICE_ISA
