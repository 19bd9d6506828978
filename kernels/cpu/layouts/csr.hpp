#pragma once

#include <optional>
#include <vector>

#include "kernels/cpu/context.hpp"
#include "kernels/cpu/cpu_weight.hpp"
#include "kernels/cpu/isa/csr.hpp"
#include "kernels/cpu/layouts/sampled_product.hpp"

namespace coppice::cpu {

/// Compressed sparse rows: row_offsets [out + 1], col_indices and values [nnz]. dy·W uses a CSR of Wᵀ of its
/// own (made at the first such product, so that inference does not pay for it) whose values are taken over by
/// a permutation: scattering along rows instead would make the order of additions depend on the threads.
class CsrWeight final : public CpuWeight {
 public:
  CsrWeight(const CpuContext& context, MatrixView<const float> values);

  std::string_view layout() const override { return "csr"; }
  int64_t nonzeros() const override { return static_cast<int64_t>(values_.size()); }
  int64_t bytes() const override;

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
  CsrArrays forward() const { return {row_offsets_.data(), col_indices_.data(), values_.data()}; }
  CsrArrays backward() const {
    return {transposed_offsets_.data(), transposed_indices_.data(), transposed_values_.data()};
  }
  void transpose();

  const CpuContext context_;
  const CsrKernels& kernels_;
  std::vector<int64_t> row_offsets_;
  std::vector<int32_t> col_indices_;
  std::vector<float> values_;

  std::vector<int64_t> transposed_offsets_;  // [in + 1], empty before the first use
  std::vector<int32_t> transposed_indices_;
  std::vector<float> transposed_values_;
  std::vector<int64_t> permutation_;  // transposed_values_[p] = values_[permutation_[p]]
  bool transposed_stale_ = true;
  std::optional<SampledProduct> gradient_;  // from the first gradient on
};

}  // namespace coppice::cpu
