#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace coppice::cpu {

/// Uninitialised memory on a `kAlignment` boundary; runs of 2 MiB and more start on such a boundary and ask
/// for transparent huge pages (a product walks a matrix in many streams at once: 4 KiB pages cost it a tenth
/// of its speed in address translation). Never null. Throws Error(out_of_memory) naming `what`.
void* allocate(int64_t bytes, std::string_view what);
void release(void* data) noexcept;

/// A vector in such memory, for what a product walks.
template <class T>
struct LargePages {
  using value_type = T;
  LargePages() = default;
  template <class U>
  LargePages(const LargePages<U>&) {}
  T* allocate(size_t count) {
    return static_cast<T*>(cpu::allocate(static_cast<int64_t>(count * sizeof(T)), "a sparse weight"));
  }
  void deallocate(T* data, size_t) noexcept { release(data); }
  bool operator==(const LargePages&) const { return true; }
};
template <class T>
using LargeVector = std::vector<T, LargePages<T>>;

/// A grow-only array of floats that its owner reuses; growing loses the contents.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { release(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* floats(int64_t count, std::string_view what) {
    if (count > capacity_) {
      release(data_);
      data_ = nullptr;
      capacity_ = 0;
      data_ = static_cast<float*>(allocate(count * static_cast<int64_t>(sizeof(float)), what));
      capacity_ = count;
    }
    return data_;
  }
  const float* data() const { return data_; }

 private:
  float* data_ = nullptr;
  int64_t capacity_ = 0;
};

}  // namespace coppice::cpu
