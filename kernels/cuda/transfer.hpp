#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "kernels/cuda/memory.hpp"
#include "kernels/cuda/status.hpp"

namespace coppice::cuda {

/// Copies between the device and ordinary host memory by way of two page-locked halves, so that the host
/// consumes (or fills) one while the other is under way. Page-locking the memory of every vector that comes
/// along would cost more than the copies.
class Transfer {
 public:
  explicit Transfer(cudaStream_t stream) : stream_(stream) {}

  /// Host → device, queued; the host memory may be reused when the call returns.
  void upload(const void* host, void* device, int64_t bytes);

  /// Waits for what is queued and calls visit(piece, bytes) for consecutive pieces of device memory, each but
  /// the last `kPiece` bytes long.
  template <class Visit>
  void download(const void* device, int64_t bytes, Visit visit) {
    const char* from = static_cast<const char*>(device);
    if (bytes > 0) fetch(0, from, std::min(kPiece, bytes));
    for (int64_t at = 0, half = 0; at < bytes; at += kPiece, half = 1 - half) {
      wait();
      const int64_t next = at + kPiece;
      if (next < bytes) fetch(1 - half, from + next, std::min(kPiece, bytes - next));
      visit(static_cast<const void*>(half_of(half)), std::min(kPiece, bytes - at));
    }
  }
  void download(const void* device, void* host, int64_t bytes);

  static constexpr int64_t kPiece = int64_t{1} << 20;

 private:
  char* half_of(int64_t half);
  void fetch(int64_t half, const char* device, int64_t bytes);
  void wait();

  cudaStream_t stream_;
  std::array<PinnedBuffer, 2> halves_;  // made when first needed
};

}  // namespace coppice::cuda
