#pragma once

#include <vector>

#include "kernels/cpu/context.hpp"
#include "kernels/cpu/isa/sequence.hpp"

namespace coppice::cpu {

/// Rows or columns are shared among threads so that every sum is made by one thread in one order.
class CpuSequence final : public SequenceOps {
 public:
  explicit CpuSequence(const CpuContext& context);

 private:
  void embed_impl(MatrixView<const float> table, VectorView<const int32_t> ids, MatrixView<float> y) override;
  void embed_backward_impl(VectorView<const int32_t> ids, MatrixView<const float> dy,
                           MatrixView<float> d_table) override;
  void add_column_sums_impl(MatrixView<const float> x, VectorView<float> sums) override;
  void dropout_impl(MatrixView<const float> x, float probability, RandomStream stream,
                    MatrixView<float> y) override;
  void last_step_impl(MatrixView<const float> x, VectorView<const int32_t> lengths,
                      MatrixView<float> y) override;
  void last_step_backward_impl(MatrixView<const float> dy, VectorView<const int32_t> lengths,
                               MatrixView<float> dx) override;
  void softmax_cross_entropy_impl(MatrixView<const float> logits, VectorView<const int32_t> targets,
                                  float scale, MatrixView<float> d_logits,
                                  VectorView<double> totals) override;
  void sigmoid_cross_entropy_impl(MatrixView<const float> logits, VectorView<const int32_t> targets,
                                  float scale, MatrixView<float> d_logits,
                                  VectorView<double> totals) override;

  CpuContext context_;
  const SequenceKernels& kernels_;
  std::vector<double> row_loss_;  // [rows] of the last softmax: added in row order afterwards
  std::vector<uint8_t> row_correct_;
};

}  // namespace coppice::cpu
