#pragma once

#include "kernels/cpu/layouts/sell.hpp"

namespace coppice::cpu {

/// Balanced sparsity (Yao et al. 2019): in every run of 64 columns each row keeps the same number of values.
/// No row then waits for another in the sliced forms: without padding where a product has many rows, with a
/// little of it at one row, whose windows begin at any multiple of 16 columns.
/// Throws Error(bad_input) where W is not of that pattern (a kept value in a thousand may be zero).
class BalancedWeight final : public SellWeight {
 public:
  BalancedWeight(const CpuContext& context, MatrixView<const float> values, DType type);

  std::string_view layout() const override { return "balanced"; }
};

}  // namespace coppice::cpu
