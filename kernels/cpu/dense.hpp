#pragma once

#include "kernels/cpu/context.hpp"
#include "kernels/cpu/cpu_weight.hpp"
#include "kernels/cpu/isa/gemm.hpp"
#include "kernels/cpu/memory.hpp"
#include "kernels/half_precision.hpp"

namespace coppice::cpu {

/// A dense weight over the caller's values. Products read packed copies of them (panels of columns), made
/// when a product first needs one after `refresh`: one for W as it multiplies (x·Wᵀ), one for its transpose
/// (dy·W). As bf16 it packs W at once and refers to nothing afterwards.
class DenseWeight final : public CpuWeight {
 public:
  DenseWeight(const CpuContext& context, MatrixView<const float> values, DType type);

  std::string_view layout() const override { return "dense"; }
  int64_t nonzeros() const override { return out() * in(); }
  int64_t bytes() const override { return nonzeros() * size_of(value_type()); }

  void prepare_rows(bool transposed) override;
  void multiply_rows(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                     bool accumulate) const override;
  void multiply_transposed_rows(const float* dy, int64_t ldy, int64_t rows, float* dx, int64_t ldx,
                                bool accumulate) const override;

 protected:
  void refresh_impl(MatrixView<const float> values) override;
  void multiply_impl(MatrixView<const float> x, VectorView<const float> bias, MatrixView<float> y,
                     bool accumulate) override;
  void multiply_transposed_impl(MatrixView<const float> dy, MatrixView<float> dx, bool accumulate) override;
  void accumulate_gradient_impl(MatrixView<const float> dy, MatrixView<const float> x,
                                MatrixView<float> dw) override;

 private:
  void pack_forward();
  void pack_backward();
  void pack_rounded();
  /// The product's B, from what is packed of W to multiply.
  void use_forward(GemmBlock& block) const;

  const CpuContext context_;
  const GemmKernels& kernels_;
  MatrixView<const float> values_;
  Scratch forward_;                // panels of Wᵀ [in, out]
  LargeVector<Bfloat16> rounded_;  // the same as bf16, instead
  Scratch backward_;               // panels of W [out, in]
  bool forward_ready_ = false;     // the panels hold the values as they are
  bool backward_ready_ = false;
  bool forward_used_ = false;  // a product used the values as they are
  bool backward_used_ = false;
};

}  // namespace coppice::cpu
