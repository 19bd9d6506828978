#pragma once

#include "kernels/cuda/context.hpp"
#include "kernels/cuda/cuda_weight.hpp"
#include "kernels/cuda/layouts/compressed_rows.hpp"
#include "kernels/cuda/layouts/spread_rows.hpp"

namespace coppice::cuda {

/// Compressed rows and the order in which they are dealt to the multiprocessors.
struct OrderedRows {
  CompressedRows a;
  /// Bundles of 32 neighbouring rows, the longest bundles first and the longest rows of a bundle first; −1
  /// fills up the bundle that holds the matrix's last rows. Longest first, so that the tail of a launch is
  /// short; neighbours together, so that what a block writes is whole cache lines.
  DeviceArray<int32_t> order;
  std::vector<int32_t> offsets;  // those of `a`, on the host
};

/// Compressed rows and the blocks of a persistent kernel that keep them.
struct SpreadCsr {
  const CompressedRows& rows;
  const SpreadRows& blocks;
};

/// Compressed sparse rows with kernels of our own. dy·W uses compressed rows of Wᵀ (made at the first such
/// product, so that inference does not pay for them) whose values are taken over by a permutation: scattering
/// along rows instead would make the order of additions depend on the threads.
class CsrWeight final : public CudaWeight {
 public:
  CsrWeight(CudaContext& context, MatrixView<const float> values);

  std::string_view layout() const override { return "csr"; }
  int64_t nonzeros() const override { return forward_.a.nonzeros; }
  int64_t bytes() const override { return forward_.a.bytes() + forward_.order.bytes(); }

  /// For a recurrence that keeps the weight [G·H, H] at hand: its rows, by units, and those of Wᵀ [H, G·H].
  /// The first call of each prepares them and waits for the device. Values are those of the last refresh,
  /// always.
  SpreadCsr spread();
  SpreadCsr spread_transposed();

 protected:
  void refresh_impl(MatrixView<const float> values) override;
  void multiply_impl(MatrixView<const float> x, VectorView<const float> bias, MatrixView<float> y,
                     bool accumulate) override;
  void multiply_transposed_impl(MatrixView<const float> dy, MatrixView<float> dx, bool accumulate) override;
  void accumulate_gradient_impl(MatrixView<const float> dy, MatrixView<const float> x,
                                MatrixView<float> dw) override;

 private:
  const OrderedRows& transposed();

  CudaContext& context_;
  OrderedRows forward_;
  OrderedRows backward_;  // empty before the first use
  DeviceArray<int32_t> permutation_;
  SpreadRows forward_units_, backward_units_;  // the same
};

}  // namespace coppice::cuda
