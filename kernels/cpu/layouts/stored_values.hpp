#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/isa/values.hpp"
#include "kernels/cpu/memory.hpp"
#include "kernels/half_precision.hpp"
#include "kernels/tensor.hpp"

namespace coppice::cpu {

inline float stored_as(float value, float) {
  return value;
}
inline Bfloat16 stored_as(float value, Bfloat16) {
  return float_to_bfloat16(value);
}
inline float as_float(float value) {
  return value;
}
inline float as_float(Bfloat16 value) {
  return bfloat16_to_float(value);
}

/// The values of a sparse form as they are stored: DType::f32, or rounded to DType::bf16.
class StoredValues {
 public:
  explicit StoredValues(DType type) : rounds_(type == DType::bf16) {}

  size_t size() const { return rounds_ ? rounded_.size() : floats_.size(); }
  float get(size_t i) const { return rounds_ ? as_float(rounded_[i]) : floats_[i]; }
  void set(size_t i, float value) {
    visit([&](auto& values) { values[i] = stored_as(value, values[i]); });
  }
  void push_back(float value) { resize(size() + 1, value); }
  void resize(size_t count, float value) {
    rounds_ ? rounded_.resize(count, float_to_bfloat16(value)) : floats_.resize(count, value);
  }
  void shrink_to_fit() {
    visit([](auto& values) { values.shrink_to_fit(); });
  }
  int64_t bytes() const {
    return static_cast<int64_t>(floats_.size() * sizeof(float) + rounded_.size() * sizeof(Bfloat16));
  }
  Values view() const { return rounds_ ? Values{nullptr, rounded_.data()} : Values{floats_.data(), nullptr}; }

  /// body(vector of float or Bfloat16).
  template <class Body>
  void visit(Body body) {
    rounds_ ? body(rounded_) : body(floats_);
  }

 private:
  bool rounds_;
  LargeVector<float> floats_;
  LargeVector<Bfloat16> rounded_;
};

}  // namespace coppice::cpu
