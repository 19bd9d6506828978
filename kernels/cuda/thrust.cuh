#pragma once

#include <thrust/execution_policy.h>
#include <thrust/system_error.h>
#ifdef COPPICE_CUDA_ON_HOST
#include <thrust/system/cpp/execution_policy.h>
#endif

#include "kernels/cuda/context.hpp"
#include "kernels/cuda/memory.hpp"
#include "kernels/error.hpp"

namespace coppice::cuda {

/// What Thrust asks for between its passes, from the caching allocator and within its budget.
class ThrustAllocator {
 public:
  using value_type = char;
  explicit ThrustAllocator(DeviceMemory& memory) : memory_(&memory) {}
  char* allocate(ptrdiff_t bytes) const {
    return static_cast<char*>(memory_->allocate(bytes, "sorting a sparse matrix's numbers"));
  }
  void deallocate(char* data, size_t) const { memory_->release(data); }

 private:
  DeviceMemory* memory_;
};

/// Calls `body(policy)`, whose Thrust algorithms with that policy run in the order of the stream. It is
/// copied: it captures pointers, and no sizes that the stream has yet to find out. On the host
/// (tests/cuda_on_host) it is queued like a kernel, so what it writes to the host is there after a wait for
/// the stream.
template <class Body>
void with_thrust(const CudaContext& context, Body body) {
#ifdef COPPICE_CUDA_ON_HOST
  COPPICE_THRUST_ON_HOST(context.stream, body);
#else
  ThrustAllocator allocator(*context.memory);
  try {
    body(thrust::cuda::par_nosync(allocator).on(context.stream));
  } catch (const thrust::system_error& error) {
    throw Error(ErrorKind::failure, error.what());
  }
#endif
}

}  // namespace coppice::cuda
