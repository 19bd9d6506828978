#include "kernels/cuda/transfer.hpp"

namespace coppice::cuda {

void Transfer::upload(const void* host, void* device, int64_t bytes) {
  const char* from = static_cast<const char*>(host);
  char* to = static_cast<char*>(device);
  for (int64_t at = 0, half = 0; at < bytes; at += kPiece, half = 1 - half) {
    // Both halves may be on their way: from an earlier call, or from this one two pieces ago.
    if (half == 0) wait();
    const int64_t piece = std::min(kPiece, bytes - at);
    std::memcpy(half_of(half), from + at, static_cast<size_t>(piece));
    COPPICE_CUDA(
        cudaMemcpyAsync(to + at, half_of(half), static_cast<size_t>(piece), cudaMemcpyHostToDevice, stream_));
  }
}

void Transfer::download(const void* device, void* host, int64_t bytes) {
  char* to = static_cast<char*>(host);
  download(device, bytes, [&](const void* piece, int64_t piece_bytes) {
    std::memcpy(to, piece, static_cast<size_t>(piece_bytes));
    to += piece_bytes;
  });
}

char* Transfer::half_of(int64_t half) {
  PinnedBuffer& buffer = halves_[static_cast<size_t>(half)];
  if (buffer.bytes() == 0) buffer = PinnedBuffer(kPiece);
  return buffer.as<char>();
}

void Transfer::fetch(int64_t half, const char* device, int64_t bytes) {
  COPPICE_CUDA(
      cudaMemcpyAsync(half_of(half), device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_));
}

void Transfer::wait() {
  COPPICE_CUDA(cudaStreamSynchronize(stream_));
}

}  // namespace coppice::cuda
