#pragma once

#include <memory>
#include <string_view>

#include "kernels/tensor.hpp"

namespace coppice {

/// A matrix W [out, in] as a layer sees it: it multiplies, and how it is laid out is nobody's business above
/// this line. *Dense* refers to the caller's values and keeps packed copies of them (in bf16, these alone); a
/// *sparse layout* owns its nonzeros. Masked is not a third kind: a masked dense matrix is dense with zeros
/// in it.
///
/// The public functions check shapes and devices once (Error(bad_input)) and call the protected ones.
/// Every product is deterministic, and the same for any number of threads.
class Weight {
 public:
  virtual ~Weight() = default;
  Weight(const Weight&) = delete;
  Weight& operator=(const Weight&) = delete;

  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  Device device() const { return device_; }
  /// f32; or bf16: the values rounded to the nearest, once, when they are taken over. Its products are those
  /// of the rounded values, in float32 as ever, for inference alone: it has no transposed product and no
  /// gradient (Error(bad_input)).
  DType value_type() const { return value_type_; }
  /// It reads the values that it was made from, which must outlive it; every other owns what it multiplies.
  bool refers_to_values() const { return layout() == "dense" && value_type_ == DType::f32; }

  /// "dense", "csr", …: the name under which `Backend::make_weight` finds it.
  virtual std::string_view layout() const = 0;
  /// Stored values: out * in for dense.
  virtual int64_t nonzeros() const = 0;
  /// Bytes that inference touches, indices included.
  virtual int64_t bytes() const = 0;

  /// The values [out, in] changed but (for a sparse layout) not which of them are zero. Must be called
  /// after every change of the values: packed copies are renewed, at the latest when they are next used.
  void refresh(MatrixView<const float> values);

  /// y = x·Wᵀ (+ bias) (+ y when `accumulate`). x [n, in], y [n, out], bias [out] or empty.
  void multiply(MatrixView<const float> x, VectorView<const float> bias, MatrixView<float> y,
                bool accumulate = false);

  /// dx = dy·W (+ dx when `accumulate`). dy [n, out], dx [n, in].
  void multiply_transposed(MatrixView<const float> dy, MatrixView<float> dx, bool accumulate = false);

  /// dw += dyᵀ·x, dw [out, in] dense. A sparse layout touches only the places where it has values.
  void accumulate_gradient(MatrixView<const float> dy, MatrixView<const float> x, MatrixView<float> dw);

  /// Throws Error(bad_input) that names the operation unless the values are f32.
  void check_trainable(const char* operation) const;

 protected:
  Weight(int64_t out, int64_t in, Device device, DType value_type = DType::f32)
      : out_(out), in_(in), device_(device), value_type_(value_type) {}

  virtual void refresh_impl(MatrixView<const float> values) = 0;
  virtual void multiply_impl(MatrixView<const float> x, VectorView<const float> bias, MatrixView<float> y,
                             bool accumulate) = 0;
  virtual void multiply_transposed_impl(MatrixView<const float> dy, MatrixView<float> dx,
                                        bool accumulate) = 0;
  virtual void accumulate_gradient_impl(MatrixView<const float> dy, MatrixView<const float> x,
                                        MatrixView<float> dw) = 0;

 private:
  int64_t out_;
  int64_t in_;
  Device device_;
  DType value_type_;
};

}  // namespace coppice
