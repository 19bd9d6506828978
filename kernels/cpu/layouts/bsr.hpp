#pragma once

#include <optional>
#include <vector>

#include "kernels/cpu/cpu_weight.hpp"
#include "kernels/cpu/isa/bsr.hpp"
#include "kernels/cpu/layouts/batch_tiles.hpp"
#include "kernels/cpu/layouts/sampled_product.hpp"
#include "kernels/cpu/layouts/sell.hpp"
#include "kernels/cpu/layouts/stored_values.hpp"
#include "kernels/cpu/memory.hpp"

namespace coppice::cpu {

/// Block sparse rows: blocks of 16, 8 or 4 rows by one column, the tallest that the matrix is made of. A
/// column of x is read once for the whole block, and its number is stored once. Throws Error(bad_input) where
/// W is not made of such blocks. Its products give the bits of the dense product, as SellWeight's do; dy·W
/// and the gradient, which are asked for in training alone, go through sliced forms.
class BsrWeight final : public CpuWeight {
 public:
  BsrWeight(const CpuContext& context, MatrixView<const float> values, DType type);

  std::string_view layout() const override { return "bsr"; }
  int64_t nonzeros() const override { return nonzeros_; }
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
  int64_t block_rows() const { return static_cast<int64_t>(block_offsets_.size()) - 1; }
  BsrArrays arrays() const;
  CompressedRows compressed_rows() const;
  void multiply(const float* x, int64_t ldx, int64_t n, const float* bias, bool accumulate, float* y,
                int64_t ldy, int threads) const;
  void prepare_transposed(int64_t n);
  /// Calls body(row, column, entry) for every value that isn't padding, block by block.
  template <class Body>
  void for_each_entry(Body body) const;

  const CpuContext context_;
  const BsrKernels& kernels_;
  const BatchTiles tiles_;
  int64_t height_, nonzeros_ = 0;
  std::vector<int64_t> block_offsets_{0};
  std::vector<int32_t> by_length_;
  LargeVector<int32_t> col_indices_;
  StoredValues values_;
  std::optional<SellMatrix> transposed_;    // of Wᵀ, from the first dy·W on
  std::optional<SampledProduct> gradient_;  // from the first gradient on
};

}  // namespace coppice::cpu
