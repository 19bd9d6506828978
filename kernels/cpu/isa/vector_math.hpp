#pragma once

#include "kernels/cpu/isa/vector.hpp"

// exp, tanh and the logistic function to at most 2 ulp (tests/ops/vector_math_test.cpp measures them over the
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

/// e^r − 1 − r on [−ln 2 / 2, ln 2 / 2]: r²·P(r), minimax for the relative error of e^r (4e-9).
inline Floats exp_curvature(Floats r) {
  Floats p = 0x1.6a23cep-10f * r + 0x1.123a2p-7f;
  p = p * r + 0x1.5558f2p-5f;
  p = p * r + 0x1.555492p-3f;
  p = p * r + 0x1.fffffcp-2f;
  return r * r * p;
}

/// 2ⁿ for integral n in −126 .. 127; anything for a NaN.
inline Floats power_of_two(Floats n) {
  return reinterpret_cast<Floats>((reinterpret_cast<Unsigned>(n + 0x1.8p23f) + 127u) << 23);
}

/// x·2ⁿ for integral n in −252 .. 254; the result may be denormal or infinite.
inline Floats scale(Floats x, Floats n) {
#if defined(COPPICE_ISA_avx512)
  return _mm512_maskz_scalef_ps(kEvery, x, n);
#else
  const Unsigned whole =
      reinterpret_cast<Unsigned>(n + 0x1.8p23f) - 0x4b40'0000u;  // the low bits of 1.5·2²³ + n
  const Unsigned half = reinterpret_cast<Unsigned>(reinterpret_cast<Ints>(whole) >> 1);
  const auto power = [](Unsigned exponent) { return reinterpret_cast<Floats>((exponent + 127u) << 23); };
  return x * power(half) * power(whole - half);
#endif
}

/// e^x for x <= 89; denormal results included, 0 below about −104. To 1 ulp.
inline Floats exponential_up_to_89(Floats x) {
  x = larger(broadcast(-104.5f), x);  // in this order of operands a NaN comes through
  const auto [n, r] = reduce(x);
  return scale(exp_curvature(r) + r + 1.0f, n);
}

/// The same to 0.65 ulp: what 1 + r loses is put back. For results that are rounded further.
inline Floats careful_exponential_up_to_89(Floats x) {
  x = larger(broadcast(-104.5f), x);
  const auto [n, r] = reduce(x);
  const Floats sum = 1.0f + r;
  const Floats lost = r - (sum - 1.0f);
  return scale(sum + (exp_curvature(r) + lost), n);
}

/// e^x, +∞ above about 88.7.
inline Floats exponential(Floats x) {
  return exponential_up_to_89(smaller(broadcast(89.0f), x));
}

inline Floats magnitude(Floats x) {
  return floats_of(bits_of(x) & 0x7fff'ffff);
}

/// 1 / (1 + e^−x), from e = e^−|x| so that nothing overflows and small results keep their digits: 1 − t for
/// positive x and e − e·t for negative, t = e / (1 + e). The quotients themselves, 1 / (1 + e) and t, would
/// be 2.1 ulp.
inline Floats logistic(Floats x) {
  const Floats e = careful_exponential_up_to_89(-magnitude(x));
  const Floats t = e / (1.0f + e);
  const Floats leading = x < 0.0f ? e : broadcast(1.0f);
  return leading - leading * t;
}

/// An odd minimax polynomial below 0.5625, 1 − 2 / (e^{2|x|} + 1) with the sign put back above, where the
/// difference cancels little. (e^{2|x|} − 1) / (e^{2|x|} + 1) for all x is 2.4 ulp, whatever is done for
/// small x.
inline Floats hyperbolic_tangent(Floats x) {
  const Floats size = magnitude(x);
  const Floats square = x * x;
  Floats p = -0x1.95001ap-8f * square + 0x1.582fbp-6f;
  p = p * square - 0x1.b90946p-5f;
  p = p * square + 0x1.110c72p-3f;
  p = p * square - 0x1.555548p-2f;
  const Floats near = p * square * x + x;

  const auto [n, r] = reduce(smaller(broadcast(20.0f), size * 2.0f));  // tanh(10) is 1 in float
  const Floats e = (exp_curvature(r) + r + 1.0f) * power_of_two(n);
  const Floats far = 1.0f - 2.0f / (e + 1.0f);
  const Floats far_signed = floats_of(bits_of(far) | (bits_of(x) & static_cast<int32_t>(0x8000'0000u)));
  return size < 0.5625f ? near : far_signed;
}

}  // namespace
}  // namespace coppice::cpu::COPPICE_ISA
