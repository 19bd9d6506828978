#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "tests/cuda_on_host/device.hpp"

// Barriers, fences and warp functions. The places where threads wait carry their source location: lanes or
// threads that wait for each other at different places are a mistake.

#define COPPICE_HERE const ::coppice::cuda_on_host::Location& here = std::source_location::current()

inline constexpr int warpSize = 32;

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

namespace coppice::cuda_on_host {

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

#undef COPPICE_HERE
