#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <string_view>
#include <unordered_map>

#include "kernels/tensor.hpp"

namespace coppice::cuda {

/// A caching allocator for one device: freed blocks are kept by size and given out again without a call into
/// the driver (cudaFree waits for the whole device). Freed memory may be reused at once, because everything is
/// queued on one stream. A block larger than the budget, or refused by the driver even after the cache was given
/// back, is Error(out_of_memory): what asked for how much, how much is in use, and what the device has.
class DeviceMemory {
 public:
  /// `budget_bytes` 0: all that the device has.
  explicit DeviceMemory(int64_t budget_bytes = 0);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  void* allocate(int64_t bytes, std::string_view what);
  void release(void* data) noexcept;
  /// Gives every cached block back to the driver.
  void trim() noexcept;

  int64_t bytes_in_use() const { return in_use_; }
  int64_t bytes_reserved() const { return in_use_ + cached_; }

 private:
  int64_t budget_;
  int64_t in_use_ = 0;
  int64_t cached_ = 0;
  std::multimap<int64_t, void*> free_;            // by size
  std::unordered_map<void*, int64_t> allocated_;  // size of each block given out
};

/// Scratch of a family of operations on the device, from the caching allocator; grows, never shrinks. Growing is
/// refused while the stream is being captured (the captured graph would keep the old address): size it before.
class Scratch {
 public:
  Scratch(DeviceMemory& memory, std::string_view what) : memory_(memory), what_(what) {}
  ~Scratch() { memory_.release(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  /// At least `count` elements; what was in it is lost when it grows.
  template <class T>
  T* reserve(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (bytes > bytes_) {
      memory_.release(data_);
      data_ = nullptr;
      bytes_ = 0;
      data_ = memory_.allocate(bytes, what_);
      bytes_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  DeviceMemory& memory_;
  std::string_view what_;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

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

}  // namespace coppice::cuda
