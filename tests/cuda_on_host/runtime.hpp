#pragma once

#include <cuda_runtime_api.h>

#include <mutex>

// What every fake call of the runtime has in common.
namespace coppice::cuda_on_host {

/// Any thread of the host may make calls; one at a time is served.
std::recursive_mutex& runtime_lock();

/// The current device of the calling thread.
int& current_device();

/// Refuses what a kernel can't do, and what a test wants to fail.
cudaError_t begin_call(const char* name);
/// Keeps an error for cudaGetLastError; gives it back.
cudaError_t record_error(cudaError_t status);

/// The body of a call.
template <class Body>
cudaError_t call(const char* name, Body body) {
  const std::scoped_lock lock(runtime_lock());
  cudaError_t status = begin_call(name);
  if (status == cudaSuccess) status = body();
  return record_error(status);
}

/// What the device has; the numbers of the smallest one that the backend is built for.
struct Limits {
  static constexpr int kThreadsPerBlock = 1024;
  static constexpr int kThreadsPerMultiprocessor = 2048;
  static constexpr int kBlocksPerMultiprocessor = 32;
  static constexpr size_t kSharedPerBlock = 48 << 10;
  static constexpr size_t kSharedPerBlockOptin = 163 << 10;
  static constexpr size_t kSharedPerMultiprocessor = 164 << 10;
  static constexpr size_t kSharedReserved = 1 << 10;  // of every block
  static constexpr size_t kArgumentBytes = 4096;
};

}  // namespace coppice::cuda_on_host
