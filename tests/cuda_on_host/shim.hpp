#pragma once

// Included before everything else when a file of kernels is compiled as plain C++ for the host. Types,
// signatures and launch attributes are the toolkit's own headers; what only nvcc knows is supplied here: the
// built-in variables and functions, shared memory, and a launch that keeps the kernel's type.

#include <cuda_runtime.h>

#include "tests/cuda_on_host/device.hpp"
#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/intrinsics.hpp"

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__
#define __shared__ static_assert(false, "write COPPICE_SHARED or COPPICE_DYNAMIC_SHARED");
#undef __constant__
#define __constant__ static
#undef __grid_constant__
#define __grid_constant__
/// A fresh object for every block.
#define COPPICE_SHARED(T, name, dims)             \
  static const char name##_key = 0;               \
  using name##_type = T dims;                     \
  name##_type& name = *static_cast<name##_type*>( \
      ::coppice::cuda_on_host::shared_object(&name##_key, sizeof(name##_type), alignof(name##_type)))
#define COPPICE_DYNAMIC_SHARED(T, name) \
  T* const name = static_cast<T*>(::coppice::cuda_on_host::dynamic_shared())

#define COPPICE_GRID_BARRIER() ::coppice::cuda_on_host::grid_barrier(std::source_location::current())

/// Queues a call of Thrust algorithms; their C++ system executes them.
#define COPPICE_THRUST_ON_HOST(stream, body) \
  ::coppice::cuda_on_host::enqueue(stream, [body] { body(thrust::cpp::par); }, "Thrust")

// The headers take kernels by their type for nvcc only.
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute, int value) {
  return ::cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <class... Parameters>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*kernel)(Parameters...)) {
  return ::cudaFuncGetAttributes(attributes, reinterpret_cast<const void*>(kernel));
}
#define cudaLaunchKernelEx ::coppice::cuda_on_host::launch_kernel
