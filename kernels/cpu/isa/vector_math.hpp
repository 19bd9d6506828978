#pragma once

#include "kernels/cpu/isa/vector.hpp"

// exp, tanh and the logistic function to at most 2 ulp (tests/ops/recurrence_test.cpp measures them over the
// whole range): x = n·ln 2 + r with |r| <= ln 2 / 2, a polynomial of degree 6 in r, then scaling by 2ⁿ. NaN
// stays NaN.

namespace coppice::cpu::COPPICE_ISA {
namespace {

/// n = round(x / ln 2) as a float, and r = x − n·ln 2; ln 2 in two parts, of which the first has 10 bits, so
/// that n times it is exact even without fused multiply-add.
struct Reduced {
  Floats n;
  Floats r;
};
inline Reduced reduce(Floats x) {
  constexpr float kMagic = 0x1.8p23f;  // adding it rounds to an integer
  const Floats n = (x * 0x1.715476p0f + kMagic) - kMagic;
  return {n, (x - n * 0x1.63p-1f) + n * 0x1.bd0106p-13f};
}

/// e^r − 1 on [−ln 2 / 2, ln 2 / 2]: r + r²·P(r), minimax for the relative error of e^r (4e-9).
inline Floats exp_minus_1_of_reduced(Floats r) {
  Floats p = 0x1.6a23cep-10f * r + 0x1.123a2p-7f;
  p = p * r + 0x1.5558f2p-5f;
  p = p * r + 0x1.555492p-3f;
  p = p * r + 0x1.fffffcp-2f;
  return r * r * p + r;
}

/// 2ⁿ for integral n in −126 .. 127.
inline Floats power_of_two(Floats n) {
  return floats_of((bits_of(n + 0x1.8p23f) + 127) << 23);
}

/// x·2ⁿ for integral n in −252 .. 254; the result may be denormal or infinite.
inline Floats scale(Floats x, Floats n) {
#if defined(__AVX512F__)
  return _mm512_maskz_scalef_ps(kEvery, x, n);
#else
  const Ints whole = bits_of(n + 0x1.8p23f) - 0x4b40'0000;  // the low bits of 1.5·2²³ + n
  const Ints half = whole >> 1;
  return x * floats_of((half + 127) << 23) * floats_of((whole - half + 127) << 23);
#endif
}

/// e^x for x <= 89; denormal results included, 0 below about −104.
inline Floats exponential_up_to_89(Floats x) {
  x = larger(broadcast(-104.5f), x);  // in this order of operands a NaN comes through
  const auto [n, r] = reduce(x);
  return scale(exp_minus_1_of_reduced(r) + 1.0f, n);
}

/// e^x, +∞ above about 88.7.
inline Floats exponential(Floats x) {
  return exponential_up_to_89(smaller(broadcast(89.0f), x));
}

inline Floats magnitude(Floats x) {
  return floats_of(bits_of(x) & 0x7fff'ffff);
}

/// 1 / (1 + e^−x), from e^−|x| so that nothing overflows and small results keep their digits.
inline Floats logistic(Floats x) {
  const Floats e = exponential_up_to_89(-magnitude(x));
  return (x < 0.0f ? e : broadcast(1.0f)) / (1.0f + e);
}

/// tanh |x| = m / (m + 2) with m = e^{2|x|} − 1, which cancels nowhere; the sign is put back.
inline Floats hyperbolic_tangent(Floats x) {
  const Floats y = smaller(broadcast(20.0f), magnitude(x) * 2.0f);  // tanh(10) is 1 in float
  const auto [n, r] = reduce(y);
  const Floats two_n = power_of_two(n);
  const Floats m = exp_minus_1_of_reduced(r) * two_n + (two_n - 1.0f);
  return floats_of(bits_of(m / (m + 2.0f)) | (bits_of(x) & static_cast<int32_t>(0x8000'0000u)));
}

}  // namespace
}  // namespace coppice::cpu::COPPICE_ISA
