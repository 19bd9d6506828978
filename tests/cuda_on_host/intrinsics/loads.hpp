#pragma once

#include <type_traits>

#include "tests/cuda_on_host/device.hpp"

// Loads and stores with a cache hint.
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
