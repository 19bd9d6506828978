#pragma once

#include <list>
#include <memory>
#include <utility>

#include "kernels/cuda/context.hpp"
#include "kernels/cuda/cuda_weight.hpp"
#include "kernels/cuda/handles.hpp"
#include "kernels/cuda/layouts/compressed_rows.hpp"

namespace coppice::cuda {

using SparseDescription = std::unique_ptr<cusparseSpMatDescr, Ender<cusparseDestroySpMat>>;

/// Compressed rows multiplied by NVIDIA's library: what the layout "csr" has to beat. dy·W uses compressed
/// rows of Wᵀ, because the library's own transposed product may differ from run to run, and the algorithms
/// are those that it documents as deterministic (CSR_ALG3 for many rows of x, CSR_ALG2 for one).
class CusparseWeight final : public CudaWeight {
 public:
  CusparseWeight(CudaContext& context, MatrixView<const float> values);

  std::string_view layout() const override { return "cusparse"; }
  int64_t nonzeros() const override { return forward_.a.nonzeros; }
  int64_t bytes() const override { return forward_.a.bytes(); }

 protected:
  void refresh_impl(MatrixView<const float> values) override;
  void multiply_impl(MatrixView<const float> x, VectorView<const float> bias, MatrixView<float> y,
                     bool accumulate) override;
  void multiply_transposed_impl(MatrixView<const float> dy, MatrixView<float> dx, bool accumulate) override;
  void accumulate_gradient_impl(MatrixView<const float> dy, MatrixView<const float> x,
                                MatrixView<float> dw) override;

 private:
  /// A product with one number of rows of x. The library looks at the pattern once and leaves what it found
  /// in the description and in the workspace, which therefore belong together and to no other product.
  struct Plan {
    SparseDescription description;
    DeviceArray<char> workspace;
    bool prepared = false;
  };
  /// By rows of x. Batches come in a few sizes; of more than these the one that was used longest ago goes.
  class Plans {
   public:
    static constexpr size_t kMost = 8;
    Plan& find(int64_t rows, CusparseWeight& weight);

   private:
    std::list<std::pair<int64_t, Plan>> plans_;  // the last one used is the first
  };
  struct Side {
    CompressedRows a;
    Plans plans;
  };

  void product(Side& side, MatrixView<const float> x, bool accumulate, MatrixView<float> y);

  CudaContext& context_;
  Side forward_;
  Side backward_;  // empty before the first use
  DeviceArray<int32_t> permutation_;
  Plans gradient_plans_;
  DeviceArray<float> gradient_;  // of the stored values, before they are added in their places
};

}  // namespace coppice::cuda
