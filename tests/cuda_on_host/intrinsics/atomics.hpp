#pragma once

#include <type_traits>

#include "tests/cuda_on_host/device.hpp"

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
