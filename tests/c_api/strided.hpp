#pragma once

#include <coppice/coppice.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "engine/files/number_formats.hpp"

namespace coppice::test {

/// How an array lies in memory.
enum class Layout { plain, unaligned, transposed, sliced, reversed };
inline constexpr Layout kLayouts[] = {Layout::plain, Layout::unaligned, Layout::transposed, Layout::sliced,
                                      Layout::reversed};

inline size_t width_of(coppice_dtype dtype) {
  return dtype == COPPICE_F64 ? 8 : dtype == COPPICE_F32 ? 4 : 2;
}

/// The bits of a number in a type; halves are rounded.
inline std::vector<uint8_t> encoded(coppice_dtype dtype, double value) {
  std::vector<uint8_t> bytes(width_of(dtype));
  const float single = static_cast<float>(value);
  if (dtype == COPPICE_F64) {
    std::memcpy(bytes.data(), &value, 8);
  } else if (dtype == COPPICE_F32) {
    std::memcpy(bytes.data(), &single, 4);
  } else if (dtype == COPPICE_F16) {
    const _Float16 half = static_cast<_Float16>(single);
    std::memcpy(bytes.data(), &half, 2);
  } else {
    uint32_t bits = 0;
    std::memcpy(&bits, &single, 4);
    const uint16_t upper = static_cast<uint16_t>(bits >> 16);
    std::memcpy(bytes.data(), &upper, 2);
  }
  return bytes;
}

inline double decoded(coppice_dtype dtype, const uint8_t* bytes) {
  double value = 0.0;
  convert_to_f64(static_cast<DType>(dtype), bytes, 1, &value);
  return value;
}

/// An array of a caller's with poison around and between its elements.
class StridedArray {
 public:
  StridedArray() = default;
  StridedArray(coppice_dtype dtype, std::vector<int64_t> shape, const std::vector<double>& values,
               Layout layout)
      : dtype_(dtype),
        shape_(std::move(shape)),
        plain_(layout == Layout::plain || layout == Layout::unaligned) {
    strides_.assign(shape_.size(), 1);
    int64_t extent = 1;
    const auto lay = [&](size_t d, int64_t gap) {
      strides_[d] = extent;
      extent *= std::max<int64_t>(shape_[d], 1);
      extent += gap;
    };
    if (layout == Layout::transposed) {
      for (size_t d = 0; d < shape_.size(); ++d) lay(d, 0);
    } else {
      for (size_t d = shape_.size(); d-- > 0;) lay(d, layout == Layout::sliced ? 3 : 0);
      if (layout == Layout::sliced) {
        for (int64_t& stride : strides_) stride *= 2;
        extent *= 2;
      }
    }
    int64_t first = 0;
    if (layout == Layout::reversed) {
      for (size_t d = 0; d < shape_.size(); ++d) {
        first += std::max<int64_t>(shape_[d] - 1, 0) * strides_[d];
        strides_[d] = -strides_[d];
      }
    }
    const size_t width = width_of(dtype);
    shift_ = kMargin + (layout == Layout::unaligned ? 1 : 0) + static_cast<size_t>(first) * width;
    bytes_.assign(2 * kMargin + 1 + static_cast<size_t>(extent) * width, kPoison);
    used_.assign(bytes_.size(), false);
    for (size_t i = 0; i < values.size(); ++i) {
      std::memcpy(at(i), encoded(dtype, values[i]).data(), width);
      for (size_t b = 0; b < width; ++b) used_[static_cast<size_t>(at(i) - bytes_.data()) + b] = true;
    }
  }

  bool empty() const { return bytes_.empty(); }
  void* data() { return bytes_.data() + shift_; }
  uint8_t* at(size_t i) {
    int64_t offset = 0;
    for (size_t d = shape_.size(), rest = i; d-- > 0;) {
      offset += static_cast<int64_t>(rest % static_cast<size_t>(shape_[d])) * strides_[d];
      rest /= static_cast<size_t>(shape_[d]);
    }
    return bytes_.data() + static_cast<int64_t>(shift_) + offset * static_cast<int64_t>(width_of(dtype_));
  }
  coppice_array c() { return {data(), dtype_, plain_ ? nullptr : strides_.data()}; }
  std::vector<uint8_t> element(size_t i) { return {at(i), at(i) + width_of(dtype_)}; }
  double value(size_t i) { return decoded(dtype_, at(i)); }
  /// Nothing but elements was written to.
  void expect_poison() const {
    for (size_t b = 0; b < bytes_.size(); ++b) {
      if (!used_[b]) {
        ASSERT_EQ(bytes_[b], kPoison) << "byte " << b;
      }
    }
  }
  const std::vector<uint8_t>& bytes() const { return bytes_; }
  /// Another array that lies in the same way, poison instead of elements.
  StridedArray blank() const {
    StridedArray copy = *this;
    std::fill(copy.bytes_.begin(), copy.bytes_.end(), kPoison);
    return copy;
  }

 private:
  static constexpr uint8_t kPoison = 0xa5;
  static constexpr size_t kMargin = 16;
  coppice_dtype dtype_ = COPPICE_F32;
  std::vector<int64_t> shape_, strides_;
  bool plain_ = true;
  size_t shift_ = 0;
  std::vector<uint8_t> bytes_;
  std::vector<bool> used_;
};

}  // namespace coppice::test
