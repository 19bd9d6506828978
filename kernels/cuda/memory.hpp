#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/cuda/handles.hpp"
#include "kernels/tensor.hpp"

namespace coppice::cuda {

struct MemoryOptions {
  int64_t budget_bytes = 0;       // the most that may be reserved; 0: all that the device has
  cudaStream_t stream = nullptr;  // allocating while it is being captured is refused: a graph keeps addresses
  bool caching = true;  // false: each block is the driver's own, so that a memory checker sees its ends
};

/// A caching allocator for one device: freed blocks are kept by size and given out again without a call into
/// the driver (cudaFree waits for the whole device). Freed memory may be reused at once, because everything
/// is queued on one stream. A block larger than the budget, or refused by the driver even after the cache was
/// given back, is Error(out_of_memory): what asked for how much, how much is in use, and what the device has.
class DeviceMemory {
 public:
  explicit DeviceMemory(const MemoryOptions& options = {}) : options_(options) {}
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  /// Uninitialised, aligned to 256 bytes, never null.
  void* allocate(int64_t bytes, std::string_view what);
  void release(void* data) noexcept;
  /// Gives every cached block back to the driver.
  void trim() noexcept;

  int64_t bytes_in_use() const { return in_use_; }
  int64_t bytes_reserved() const { return in_use_ + cached_; }

 private:
  void* from_cache(int64_t bytes);
  void* from_driver(int64_t bytes);
  [[noreturn]] void refuse(int64_t bytes, std::string_view what) const;

  MemoryOptions options_;
  int64_t in_use_ = 0;
  int64_t cached_ = 0;
  std::multimap<int64_t, void*> free_;            // by size
  std::unordered_map<void*, int64_t> allocated_;  // size of each block given out
};

/// Scratch of a family of operations on the device, from the caching allocator; grows, never shrinks. Growing
/// is refused while the stream is being captured (the captured graph would keep the old address): size it
/// before.
class Scratch {
 public:
  Scratch(DeviceMemory& memory, std::string_view what) : memory_(memory), what_(what) {}
  ~Scratch() {
    memory_.release(data_);
    for (void* outgrown : outgrown_) memory_.release(outgrown);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  /// At least `count` elements; what was in it is lost when it grows.
  template <class T>
  T* reserve(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (bytes > bytes_) {
      void* const grown = memory_.allocate(bytes, what_);
      if (data_ != nullptr && keeps_outgrown_) {
        outgrown_.push_back(data_);
      } else {
        memory_.release(data_);
      }
      data_ = grown;
      bytes_ = bytes;
    }
    return static_cast<T*>(data_);
  }

  /// For scratch that captured graphs refer to: blocks that it outgrows stay until the end, because a graph
  /// that is replayed later still writes to the one it was captured with.
  Scratch& keep_outgrown() {
    keeps_outgrown_ = true;
    return *this;
  }

 private:
  DeviceMemory& memory_;
  std::string_view what_;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  bool keeps_outgrown_ = false;
  std::vector<void*> outgrown_;
};

/// Device memory of fixed size with an owner, for what a weight keeps.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  DeviceArray(DeviceMemory& memory, int64_t count, std::string_view what)
      : memory_(&memory),
        data_(static_cast<T*>(memory.allocate(count * static_cast<int64_t>(sizeof(T)), what))),
        count_(count) {}
  ~DeviceArray() {
    if (memory_ != nullptr) memory_->release(data_);
  }
  DeviceArray(DeviceArray&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        count_(std::exchange(other.count_, 0)) {}
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }

  T* data() const { return data_; }
  int64_t count() const { return count_; }
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }

 private:
  DeviceMemory* memory_ = nullptr;
  T* data_ = nullptr;
  int64_t count_ = 0;
};

/// What a weight keeps, from the host. Waits until it is there.
template <class T>
DeviceArray<T> to_device(DeviceMemory& memory, cudaStream_t stream, std::span<const T> values,
                         std::string_view what) {
  DeviceArray<T> array(memory, static_cast<int64_t>(values.size()), what);
  COPPICE_CUDA(
      cudaMemcpyAsync(array.data(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice, stream));
  COPPICE_CUDA(cudaStreamSynchronize(stream));
  return array;
}

/// Page-locked host memory: the only kind that the device copies to and from while the host goes on.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;

  int64_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// Host → device without waiting for the device: the bytes are copied into page-locked pieces that take
/// turns. Small uploads share a piece; the host waits only for the copies out of the piece that it comes
/// round to.
class UploadRing {
 public:
  explicit UploadRing(cudaStream_t stream) : stream_(stream) {}
  /// Waits for the copies under way: the pieces go with the ring.
  ~UploadRing();
  UploadRing(const UploadRing&) = delete;
  UploadRing& operator=(const UploadRing&) = delete;

  void upload(const void* host, void* device, int64_t bytes);

 private:
  static constexpr int64_t kPieceBytes = int64_t{1} << 20;  // from about here on a bus is at its full speed
  static constexpr size_t kPieces = 4;

  struct Piece {
    PinnedBuffer memory;
    Event copied;  // after the last copy out of it
    int64_t used = 0;
  };
  Piece& next_piece();

  cudaStream_t stream_;
  std::vector<Piece> pieces_;  // made as they are first needed
  size_t current_ = 0;
};

}  // namespace coppice::cuda
