#pragma once

#include "kernels/cuda/context.hpp"
#include "kernels/cuda/cuda_weight.hpp"

namespace coppice::cuda {

/// A dense weight over the caller's values, multiplied by cuBLAS. Nothing is packed, so `refresh` has nothing
/// to renew and a captured product stays good.
class DenseWeight final : public CudaWeight {
 public:
  DenseWeight(CudaContext& context, MatrixView<const float> values);

  std::string_view layout() const override { return "dense"; }
  int64_t nonzeros() const override { return out() * in(); }
  int64_t bytes() const override { return nonzeros() * static_cast<int64_t>(sizeof(float)); }
  /// The caller's values [out, in], as they are now.
  MatrixView<const float> values() const { return values_; }

 protected:
  void refresh_impl(MatrixView<const float> values) override;
  void multiply_impl(MatrixView<const float> x, VectorView<const float> bias, MatrixView<float> y,
                     bool accumulate) override;
  void multiply_transposed_impl(MatrixView<const float> dy, MatrixView<float> dx, bool accumulate) override;
  void accumulate_gradient_impl(MatrixView<const float> dy, MatrixView<const float> x,
                                MatrixView<float> dw) override;

 private:
  CudaContext& context_;
  MatrixView<const float> values_;
};

}  // namespace coppice::cuda
