#pragma once

#include <memory>
#include <optional>

#include "kernels/cpu/cpu_weight.hpp"
#include "kernels/cpu/layouts/sampled_product.hpp"
#include "kernels/cpu/layouts/sell_batch.hpp"
#include "kernels/cpu/layouts/sell_single.hpp"

namespace coppice::cpu {

/// A sparse matrix A and its two sliced forms, each made when a product first wants it: one for a single row
/// of x, one for many. They give the same bits, so which of them runs is a matter of speed alone, and memory
/// holds no more than what is used.
class SellMatrix {
 public:
  SellMatrix(const CpuContext& context, CompressedRows matrix, DType values);

  int64_t nonzeros() const { return nonzeros_; }
  /// Of the forms that are there; before the first product, about what one will take.
  int64_t bytes() const;
  CompressedRows compressed_rows() const;
  void refresh(const DenseValues& values);

  /// Makes the form that a product of `n` rows of x wants. Not within a parallel region.
  void prepare(int64_t n);
  /// y (+)= x·Aᵀ (+ bias) with a form that is there. x [n, cols], y [n, rows].
  void multiply(const float* x, int64_t x_stride, int64_t n, const float* bias, bool accumulate, float* y,
                int64_t y_stride, int threads) const;

 private:
  CpuContext context_;
  DType values_;
  int64_t nonzeros_;
  std::optional<CompressedRows> source_;  // until a form is made
  std::unique_ptr<SellBatch> batch_;
  std::unique_ptr<SellSingle> single_;
};

/// Sliced ELLPACK, for unstructured sparsity. Its products add up the nonzeros in the order of a dense
/// product's terms: for finite inputs they give the bits of the dense product of the same masked matrix.
/// dy·W goes through the forms of Wᵀ, and the gradient at the nonzeros has the dense gradient's bits too.
class SellWeight : public CpuWeight {
 public:
  SellWeight(const CpuContext& context, MatrixView<const float> values, DType type);

  std::string_view layout() const override { return "sell"; }
  int64_t nonzeros() const override { return forward_.nonzeros(); }
  int64_t bytes() const override { return forward_.bytes(); }

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
  void prepare_transposed(int64_t n);

  const CpuContext context_;
  SellMatrix forward_;
  std::optional<SellMatrix> transposed_;    // of Wᵀ, from the first dy·W on
  std::optional<SampledProduct> gradient_;  // from the first gradient on
};

}  // namespace coppice::cpu
