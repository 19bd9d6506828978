#pragma once

#include "kernels/cpu/layouts/sell.hpp"

namespace coppice::cpu {

/// Balanced sparsity (Yao et al. 2019): in every run of 64 columns each row keeps the same number of values.
/// Nothing then has to wait for anything in the sliced forms, of which this is the case without padding.
/// Throws Error(bad_input) where W is not of that pattern (a kept value in a thousand may be zero).
class BalancedWeight final : public SellWeight {
 public:
  BalancedWeight(const CpuContext& context, MatrixView<const float> values);

  std::string_view layout() const override { return "balanced"; }
};

}  // namespace coppice::cpu
