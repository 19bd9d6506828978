#include "kernels/cuda/memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cuda/status.hpp"

namespace coppice::cuda {

DeviceMemory::~DeviceMemory() {
  trim();
}

void* DeviceMemory::allocate(int64_t bytes, std::string_view what) {
  if (bytes < 0) refuse(bytes, what);
  const int64_t wanted = std::max(bytes, kAlignment);
  if (options_.stream != nullptr) {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    COPPICE_CUDA(cudaStreamIsCapturing(options_.stream, &capture));
    if (capture != cudaStreamCaptureStatusNone) {
      failure("{} asked for {} bytes of the GPU while a graph is captured, which would keep their address",
              what, bytes);
    }
  }
  void* data = from_cache(wanted);
  if (data == nullptr) data = from_driver(wanted);
  if (data == nullptr) refuse(bytes, what);
  return data;
}

/// The smallest free block that is large enough, unless an eighth of it or more would lie idle.
void* DeviceMemory::from_cache(int64_t bytes) {
  const auto found = free_.lower_bound(bytes);
  if (found == free_.end() || found->first > bytes + bytes / 8) return nullptr;
  const auto [size, data] = *found;
  allocated_.emplace(data, size);
  free_.erase(found);
  cached_ -= size;
  in_use_ += size;
  return data;
}

void* DeviceMemory::from_driver(int64_t bytes) {
  const int64_t budget = options_.budget_bytes;
  if (budget > 0 && (bytes > budget || in_use_ > budget - bytes)) return nullptr;
  if (budget > 0 && in_use_ + cached_ > budget - bytes) trim();
  void* data = nullptr;
  cudaError_t status = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation && cached_ > 0) {
    cudaGetLastError();
    trim();
    status = cudaMalloc(&data, static_cast<size_t>(bytes));
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  COPPICE_CUDA(status);
  try {
    allocated_.emplace(data, bytes);
  } catch (...) {
    cudaFree(data);
    throw;
  }
  in_use_ += bytes;
  return data;
}

void DeviceMemory::refuse(int64_t bytes, std::string_view what) const {
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  const std::string budget =
      options_.budget_bytes > 0 ? fmt::format(" of the {} allowed", options_.budget_bytes) : "";
  throw Error(
      ErrorKind::out_of_memory,
      fmt::format("no memory on the GPU for {}: {} bytes wanted, {} in use{}, {} of {} free on the device",
                  what, bytes, in_use_, budget, free, total));
}

void DeviceMemory::release(void* data) noexcept {
  if (data == nullptr) return;
  const auto found = allocated_.find(data);
  if (found == allocated_.end()) return;
  const int64_t size = found->second;
  allocated_.erase(found);
  in_use_ -= size;
  if (options_.caching) {
    try {
      free_.emplace(size, data);
      cached_ += size;
      return;
    } catch (const std::bad_alloc&) {
      // Then the driver gets it back, which needs no memory of ours.
    }
  }
  cudaFree(data);
}

void DeviceMemory::trim() noexcept {
  for (const auto& [size, data] : free_) cudaFree(data);
  free_.clear();
  cached_ = 0;
}

PinnedBuffer::PinnedBuffer(int64_t bytes) : bytes_(bytes) {
  COPPICE_CUDA(cudaMallocHost(&data_, static_cast<size_t>(std::max<int64_t>(bytes, 1))));
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

UploadRing::~UploadRing() {
  for (Piece& piece : pieces_) cudaEventSynchronize(piece.copied.get());
}

UploadRing::Piece& UploadRing::next_piece() {
  if (!pieces_.empty()) {
    current_ = pieces_.size() < kPieces ? pieces_.size() : (current_ + 1) % kPieces;
  }
  if (current_ == pieces_.size()) pieces_.push_back({PinnedBuffer(kPieceBytes), make_event(), 0});
  Piece& piece = pieces_[current_];
  COPPICE_CUDA(cudaEventSynchronize(piece.copied.get()));  // at once for an event that was never recorded
  piece.used = 0;
  return piece;
}

void UploadRing::upload(const void* host, void* device, int64_t bytes) {
  const char* from = static_cast<const char*>(host);
  char* to = static_cast<char*>(device);
  while (bytes > 0) {
    const bool fits =
        !pieces_.empty() && kPieceBytes - pieces_[current_].used >= std::min(bytes, kPieceBytes);
    Piece& piece = fits ? pieces_[current_] : next_piece();
    const int64_t now = std::min(bytes, kPieceBytes - piece.used);
    char* const staged = piece.memory.as<char>() + piece.used;
    std::memcpy(staged, from, static_cast<size_t>(now));
    COPPICE_CUDA(cudaMemcpyAsync(to, staged, static_cast<size_t>(now), cudaMemcpyHostToDevice, stream_));
    COPPICE_CUDA(cudaEventRecord(piece.copied.get(), stream_));
    // The next one starts on a boundary of its own: unaligned sources halve the speed of a copy.
    piece.used = std::min(kPieceBytes, (piece.used + now + kAlignment - 1) / kAlignment * kAlignment);
    from += now;
    to += now;
    bytes -= now;
  }
}

}  // namespace coppice::cuda
