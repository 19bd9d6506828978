#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace coppice {

/// Where memory lives. Views carry it so that the checked wrappers of the operations can refuse a host
/// pointer handed to a device kernel instead of crashing in it.
struct Device {
  enum class Type : uint8_t { cpu, cuda };
  Type type = Type::cpu;
  uint8_t index = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

/// "cpu", "cuda:0".
std::string to_string(Device device);

/// Element types of tensors in files and of the arrays that selection reads.
enum class DType : uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

constexpr int64_t size_of(DType type) {
  switch (type) {
    case DType::f64: case DType::i64: case DType::u64: return 8;
    case DType::f32: case DType::i32: case DType::u32: return 4;
    case DType::f16: case DType::bf16: case DType::i16: case DType::u16: return 2;
    case DType::i8: case DType::u8: case DType::boolean: return 1;
  }
  return 0;
}

/// "f32", "bf16", "bool", …
std::string_view to_string(DType type);

constexpr bool is_floating(DType type) {
  return type == DType::f64 || type == DType::f32 || type == DType::f16 || type == DType::bf16;
}

/// Every allocation of a backend starts on such a boundary: one cache line, one AVX-512 register.
inline constexpr int64_t kAlignment = 64;

/// A contiguous run of elements. Does not own; no arithmetic.
template <class T>
struct VectorView {
  T* data = nullptr;
  int64_t size = 0;
  Device device{};

  bool empty() const { return size == 0; }
  VectorView slice(int64_t begin, int64_t count) const { return {data + begin, count, device}; }
  operator VectorView<const T>() const requires(!std::is_const_v<T>) { return {data, size, device}; }
};

/// Row-major [rows, cols]; element (r, c) is data[r * stride + c], stride >= cols. Does not own.
template <class T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
  Device device{};

  bool empty() const { return rows == 0 || cols == 0; }
  T* row(int64_t r) const { return data + r * stride; }
  MatrixView row_slice(int64_t begin, int64_t count) const {
    return {data + begin * stride, count, cols, stride, device};
  }
  MatrixView col_slice(int64_t begin, int64_t count) const {
    return {data + begin, rows, count, stride, device};
  }
  operator MatrixView<const T>() const requires(!std::is_const_v<T>) {
    return {data, rows, cols, stride, device};
  }
};

class Backend;

/// Owns bytes on one device; move-only, so that no copy is ever made by accident.
class Buffer {
 public:
  Buffer() = default;
  /// Uninitialised memory, aligned to `kAlignment`. Throws Error(out_of_memory) naming `what` and the bytes.
  Buffer(Backend& backend, int64_t bytes, std::string_view what);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

  /// The elements [offset, offset + size) of the buffer seen as an array of T.
  template <class T>
  VectorView<T> vector(int64_t size, int64_t offset = 0) const {
    return {static_cast<T*>(data_) + offset, size, device_};
  }
  template <class T>
  MatrixView<T> matrix(int64_t rows, int64_t cols, int64_t offset = 0) const {
    return {static_cast<T*>(data_) + offset, rows, cols, cols, device_};
  }

 private:
  Backend* backend_ = nullptr;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  Device device_{};
};

}  // namespace coppice
