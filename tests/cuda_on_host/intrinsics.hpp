#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>

#include "tests/cuda_on_host/device.hpp"

// The device's built-in functions. Overloads exist for exactly the types that the device has, so that what
// compiles here compiles there. The places where threads wait carry their source location: lanes or threads
// that wait for each other at different places are a mistake.

#define COPPICE_HERE const ::coppice::cuda_on_host::Location& here = std::source_location::current()

inline constexpr int warpSize = 32;

// ---- Barriers
// -------------------------------------------------------------------------------------------------

inline void __syncthreads(COPPICE_HERE) {
  coppice::cuda_on_host::block_barrier(false, coppice::cuda_on_host::BarrierResult::any, here);
}
inline int __syncthreads_count(int predicate, COPPICE_HERE) {
  return coppice::cuda_on_host::block_barrier(predicate != 0, coppice::cuda_on_host::BarrierResult::count,
                                              here);
}
inline int __syncthreads_and(int predicate, COPPICE_HERE) {
  return coppice::cuda_on_host::block_barrier(predicate != 0, coppice::cuda_on_host::BarrierResult::all,
                                              here);
}
inline int __syncthreads_or(int predicate, COPPICE_HERE) {
  return coppice::cuda_on_host::block_barrier(predicate != 0, coppice::cuda_on_host::BarrierResult::any,
                                              here);
}
inline void __syncwarp(unsigned mask = 0xffff'ffffu, COPPICE_HERE) {
  coppice::cuda_on_host::rendezvous(mask, coppice::cuda_on_host::WarpOperation::synchronise, 0, here);
}
inline void __threadfence() {
  coppice::cuda_on_host::fence();
}
inline void __threadfence_block() {
  coppice::cuda_on_host::fence();
}
inline void __threadfence_system() {
  coppice::cuda_on_host::fence();
}
inline void __nanosleep(unsigned) {
  coppice::cuda_on_host::at_atomic();
}

// ---- Warp operations
// ------------------------------------------------------------------------------------------

namespace coppice::cuda_on_host {

template <class T, class... Others>
concept OneOf = (std::same_as<T, Others> || ...);
/// What can be shuffled and matched.
template <class T>
concept WarpValue =
    OneOf<T, int, unsigned, long, unsigned long, long long, unsigned long long, float, double>;

template <class T>
uint64_t to_bits(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

[[noreturn]] void shuffle_outside(unsigned mask, int source);

/// `source` is a lane of the warp; where it lies outside of the caller's segment, the caller keeps its own
/// value.
template <class T>
T shuffle(unsigned mask, T value, int source, bool in_segment, const Location& location) {
  const uint64_t* values = rendezvous(mask, WarpOperation::shuffle, to_bits(value), location);
  if (!in_segment) return value;
  if (source < 0 || source >= 32 || (mask >> source & 1) == 0) shuffle_outside(mask, source);
  return from_bits<T>(values[source]);
}

template <class T, class Combine>
T reduce(unsigned mask, T value, Combine combine, const Location& location) {
  const uint64_t* values = rendezvous(mask, WarpOperation::reduce, to_bits(value), location);
  int first = std::countr_zero(mask);
  T result = from_bits<T>(values[first]);
  for (int other = first + 1; other < 32; ++other)
    if (mask >> other & 1) result = combine(result, from_bits<T>(values[other]));
  return result;
}

}  // namespace coppice::cuda_on_host

template <coppice::cuda_on_host::WarpValue T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, COPPICE_HERE) {
  const int lane = static_cast<int>(coppice::cuda_on_host::lane());
  const int first = lane & ~(width - 1);
  return coppice::cuda_on_host::shuffle(mask, value, first | (source & (width - 1)), true, here);
}
template <coppice::cuda_on_host::WarpValue T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, COPPICE_HERE) {
  const int lane = static_cast<int>(coppice::cuda_on_host::lane());
  const bool in_segment = (lane & (width - 1)) + static_cast<int>(delta) < width;
  return coppice::cuda_on_host::shuffle(mask, value, lane + static_cast<int>(delta), in_segment, here);
}
template <coppice::cuda_on_host::WarpValue T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, COPPICE_HERE) {
  const int lane = static_cast<int>(coppice::cuda_on_host::lane());
  const bool in_segment = (lane & (width - 1)) >= static_cast<int>(delta);
  return coppice::cuda_on_host::shuffle(mask, value, lane - static_cast<int>(delta), in_segment, here);
}
template <coppice::cuda_on_host::WarpValue T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, COPPICE_HERE) {
  const int lane = static_cast<int>(coppice::cuda_on_host::lane());
  const int source = lane ^ lanes;
  const bool in_segment = source < (lane & ~(width - 1)) + width;
  return coppice::cuda_on_host::shuffle(mask, value, source, in_segment, here);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, COPPICE_HERE) {
  using namespace coppice::cuda_on_host;
  const uint64_t* votes = rendezvous(mask, WarpOperation::vote, predicate != 0, here);
  unsigned result = 0;
  for (int lane = 0; lane < 32; ++lane)
    if ((mask >> lane & 1) && votes[lane] != 0) result |= 1u << lane;
  return result;
}
inline int __any_sync(unsigned mask, int predicate, COPPICE_HERE) {
  return __ballot_sync(mask, predicate, here) != 0;
}
inline int __all_sync(unsigned mask, int predicate, COPPICE_HERE) {
  return __ballot_sync(mask, predicate, here) == mask;
}
template <coppice::cuda_on_host::WarpValue T>
unsigned __match_any_sync(unsigned mask, T value, COPPICE_HERE) {
  using namespace coppice::cuda_on_host;
  const uint64_t* values = rendezvous(mask, WarpOperation::match, to_bits(value), here);
  unsigned result = 0;
  for (int lane = 0; lane < 32; ++lane)
    if ((mask >> lane & 1) && values[lane] == to_bits(value)) result |= 1u << lane;
  return result;
}
template <coppice::cuda_on_host::WarpValue T>
unsigned __match_all_sync(unsigned mask, T value, int* all, COPPICE_HERE) {
  *all = __match_any_sync(mask, value, here) == mask;
  return *all ? mask : 0;
}
/// Any set of lanes that includes the caller may be the active one; the smallest is the one that a kernel
/// can't lean on by mistake.
inline unsigned __activemask() {
  return 1u << coppice::cuda_on_host::lane();
}

#define COPPICE_REDUCE(name, T, expression)                                      \
  inline T name(unsigned mask, T value, COPPICE_HERE) {                          \
    return coppice::cuda_on_host::reduce(                                        \
        mask, value, [](T a, T b) { return static_cast<T>(expression); }, here); \
  }
COPPICE_REDUCE(__reduce_add_sync, unsigned, a + b)
COPPICE_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
COPPICE_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
COPPICE_REDUCE(__reduce_and_sync, unsigned, a& b)
COPPICE_REDUCE(__reduce_or_sync, unsigned, a | b)
COPPICE_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
COPPICE_REDUCE(__reduce_add_sync, int, static_cast<unsigned>(a) + static_cast<unsigned>(b))
COPPICE_REDUCE(__reduce_min_sync, int, a < b ? a : b)
COPPICE_REDUCE(__reduce_max_sync, int, a > b ? a : b)
#undef COPPICE_REDUCE

// ---- Atomics
// --------------------------------------------------------------------------------------------------

// Of whole numbers only: sums of floats in an order that changes from run to run are not wanted here.
// Relaxed, as on the device, and really atomic, so that ThreadSanitizer knows them as such.
namespace coppice::cuda_on_host {

template <class T>
concept Integer32 = OneOf<T, int, unsigned>;
template <class T>
concept AtomicInteger = Integer32<T> || OneOf<T, unsigned long long>;
template <class T>
concept OrderedAtomic = AtomicInteger<T> || OneOf<T, long long>;

template <class T, class Update>
T update_atomically(T* address, Update update) {
  at_atomic();
  T seen = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (
      !__atomic_compare_exchange_n(address, &seen, update(seen), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return seen;
}

}  // namespace coppice::cuda_on_host

template <coppice::cuda_on_host::AtomicInteger T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  coppice::cuda_on_host::at_atomic();
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <coppice::cuda_on_host::Integer32 T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  coppice::cuda_on_host::at_atomic();
  return __atomic_fetch_sub(address, value, __ATOMIC_RELAXED);
}
template <coppice::cuda_on_host::AtomicInteger T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  coppice::cuda_on_host::at_atomic();
  return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}
inline float atomicExch(float* address, float value) {
  coppice::cuda_on_host::at_atomic();
  float before;
  __atomic_exchange(address, &value, &before, __ATOMIC_RELAXED);
  return before;
}
template <coppice::cuda_on_host::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  coppice::cuda_on_host::at_atomic();
  __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
template <coppice::cuda_on_host::OrderedAtomic T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return coppice::cuda_on_host::update_atomically(address,
                                                  [=](T seen) { return seen < value ? seen : value; });
}
template <coppice::cuda_on_host::OrderedAtomic T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return coppice::cuda_on_host::update_atomically(address,
                                                  [=](T seen) { return seen > value ? seen : value; });
}
template <coppice::cuda_on_host::AtomicInteger T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  coppice::cuda_on_host::at_atomic();
  return __atomic_fetch_and(address, value, __ATOMIC_RELAXED);
}
template <coppice::cuda_on_host::AtomicInteger T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  coppice::cuda_on_host::at_atomic();
  return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}
template <coppice::cuda_on_host::AtomicInteger T>
T atomicXor(T* address, std::type_identity_t<T> value) {
  coppice::cuda_on_host::at_atomic();
  return __atomic_fetch_xor(address, value, __ATOMIC_RELAXED);
}
inline unsigned atomicInc(unsigned* address, unsigned last) {
  return coppice::cuda_on_host::update_atomically(address,
                                                  [=](unsigned seen) { return seen >= last ? 0 : seen + 1; });
}
inline unsigned atomicDec(unsigned* address, unsigned last) {
  return coppice::cuda_on_host::update_atomically(
      address, [=](unsigned seen) { return seen == 0 || seen > last ? last : seen - 1; });
}

// ---- Loads and stores with a cache hint
// -----------------------------------------------------------------------

// Vector types are read as a whole: a misaligned address is a fault on the device, and here.
#define COPPICE_LOAD(name)                                       \
  template <class T>                                             \
  T name(const T* address) {                                     \
    coppice::cuda_on_host::require_aligned(address, alignof(T)); \
    return *address;                                             \
  }
#define COPPICE_STORE(name)                                      \
  template <class T>                                             \
  void name(T* address, std::type_identity_t<T> value) {         \
    coppice::cuda_on_host::require_aligned(address, alignof(T)); \
    *address = value;                                            \
  }
COPPICE_LOAD(__ldg)
COPPICE_LOAD(__ldca)
COPPICE_LOAD(__ldcg)
COPPICE_LOAD(__ldcs)
COPPICE_LOAD(__ldcv)
COPPICE_LOAD(__ldlu)
COPPICE_STORE(__stcg)
COPPICE_STORE(__stcs)
COPPICE_STORE(__stwb)
COPPICE_STORE(__stwt)
#undef COPPICE_LOAD
#undef COPPICE_STORE

// ---- Bits
// -----------------------------------------------------------------------------------------------------

inline int __float_as_int(float value) {
  return std::bit_cast<int>(value);
}
inline float __int_as_float(int value) {
  return std::bit_cast<float>(value);
}
inline unsigned __float_as_uint(float value) {
  return std::bit_cast<unsigned>(value);
}
inline float __uint_as_float(unsigned value) {
  return std::bit_cast<float>(value);
}
inline long long __double_as_longlong(double value) {
  return std::bit_cast<long long>(value);
}
inline double __longlong_as_double(long long value) {
  return std::bit_cast<double>(value);
}
inline int __double2hiint(double value) {
  return static_cast<int>(std::bit_cast<uint64_t>(value) >> 32);
}
inline int __double2loint(double value) {
  return static_cast<int>(std::bit_cast<uint64_t>(value));
}
inline double __hiloint2double(int high, int low) {
  return std::bit_cast<double>(uint64_t{static_cast<unsigned>(high)} << 32 | static_cast<unsigned>(low));
}

inline int __popc(unsigned value) {
  return std::popcount(value);
}
inline int __popcll(unsigned long long value) {
  return std::popcount(value);
}
inline int __clz(int value) {
  return std::countl_zero(static_cast<unsigned>(value));
}
inline int __clzll(long long value) {
  return std::countl_zero(static_cast<unsigned long long>(value));
}
inline int __ffs(int value) {
  return __builtin_ffs(value);
}
inline int __ffsll(long long value) {
  return __builtin_ffsll(value);
}
inline unsigned __brev(unsigned value) {
  unsigned result = 0;
  for (int bit = 0; bit < 32; ++bit) result |= (value >> bit & 1) << (31 - bit);
  return result;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
inline int __mulhi(int a, int b) {
  return static_cast<int>(static_cast<int64_t>(a) * b >> 32);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(Wide{a} * b >> 64);
}

// ---- Arithmetic
// -----------------------------------------------------------------------------------------------

// One rounding each. The fast approximations are as exact as the host has them: no test may count on their
// error.
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __frcp_rn(float a) {
  return 1.0f / a;
}
inline float __fsqrt_rn(float a) {
  return std::sqrt(a);
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline double __dadd_rn(double a, double b) {
  return a + b;
}
inline double __dsub_rn(double a, double b) {
  return a - b;
}
inline double __dmul_rn(double a, double b) {
  return a * b;
}
inline double __ddiv_rn(double a, double b) {
  return a / b;
}
inline double __drcp_rn(double a) {
  return 1.0 / a;
}
inline double __dsqrt_rn(double a) {
  return std::sqrt(a);
}
inline double __fma_rn(double a, double b, double c) {
  return std::fma(a, b, c);
}

inline float __double2float_rn(double value) {
  return static_cast<float>(value);
}
inline float __int2float_rn(int value) {
  return static_cast<float>(value);
}
inline float __uint2float_rn(unsigned value) {
  return static_cast<float>(value);
}
inline float __ll2float_rn(long long value) {
  return static_cast<float>(value);
}
inline double __ll2double_rn(long long value) {
  return static_cast<double>(value);
}
inline int __float2int_rn(float value) {
  return static_cast<int>(std::nearbyint(value));
}
inline int __float2int_rz(float value) {
  return static_cast<int>(value);
}
inline long long __double2ll_rn(double value) {
  return static_cast<long long>(std::nearbyint(value));
}

// glibc declares some functions of these names, though it defines none of them.
#define __expf(x) (::std::exp(static_cast<float>(x)))
#define __logf(x) (::std::log(static_cast<float>(x)))
#define __log2f(x) (::std::log2(static_cast<float>(x)))
#define __powf(x, y) (::std::pow(static_cast<float>(x), static_cast<float>(y)))
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __saturatef(float a) {
  return a > 0 ? (a < 1 ? a : 1.0f) : 0.0f;
}
inline float rsqrtf(float a) {
  return 1.0f / std::sqrt(a);
}
inline double rsqrt(double a) {
  return 1.0 / std::sqrt(a);
}

// Of floats they drop a NaN, unlike the standard library's.
template <class A, class B>
requires std::integral<A> && std::integral<B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
}
template <class A, class B>
requires std::integral<A> && std::integral<B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(a) > static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
}
inline float min(float a, float b) {
  return std::fmin(a, b);
}
inline float max(float a, float b) {
  return std::fmax(a, b);
}
inline double min(double a, double b) {
  return std::fmin(a, b);
}
inline double max(double a, double b) {
  return std::fmax(a, b);
}

#undef COPPICE_HERE
