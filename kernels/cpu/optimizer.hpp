#pragma once

#include <vector>

#include "kernels/cpu/context.hpp"
#include "kernels/cpu/isa/optimizer.hpp"

namespace coppice::cpu {

/// Everything here is bound by memory; chunks of fixed size are dealt to the threads as they come, because
/// what an element becomes does not depend on its chunk, and the norm's partial sums are added in the chunks'
/// order.
class CpuOptimizer final : public OptimizerOps {
 public:
  explicit CpuOptimizer(const CpuContext& context);

 private:
  void gradient_norm_impl(VectorView<const float> gradients, VectorView<const uint64_t> mask,
                          VectorView<double> norm) override;
  void update_impl(const OptimizerSettings& settings, float clip, VectorView<const double> norm,
                   VectorView<float> values, VectorView<const float> gradients,
                   VectorView<const uint64_t> mask, VectorView<float> state0,
                   VectorView<float> state1) override;
  void apply_mask_impl(VectorView<float> values, VectorView<const uint64_t> mask) override;
  void accumulate_statistics_impl(VectorView<const float> gradients, VectorView<float> sum,
                                  VectorView<float> absolute, VectorView<float> squared) override;

  CpuContext context_;
  const OptimizerKernels& kernels_;
  const StatisticsKernels& statistics_;
  std::vector<double> partial_;  // the norm's sum of each chunk
};

}  // namespace coppice::cpu
