#pragma once

#include <vector>

#include "kernels/cpu/context.hpp"
#include "kernels/cpu/isa/sell_single.hpp"
#include "kernels/cpu/layouts/compressed_rows.hpp"
#include "kernels/cpu/layouts/entry_sources.hpp"
#include "kernels/cpu/layouts/stored_values.hpp"
#include "kernels/cpu/memory.hpp"

namespace coppice::cpu {

/// A sparse matrix A for the product with a single row of x: sliced ELLPACK as well, but with A's rows in the
/// lanes (kernels/cpu/isa/sell_single.hpp). 5.1 bytes an entry; at 80, 90 and 95 % zeros at random about 84,
/// 73 and 58 % of the entries are nonzeros with AVX-512's windows, 68 (small ones), 66 and 51 % with AVX2's
/// (simulated, not counted here).
class SellSingle {
 public:
  SellSingle(const CpuContext& context, const CompressedRows& matrix, DType values);

  int64_t bytes() const;

  void refresh(const DenseValues& values, int threads);
  CompressedRows compressed_rows() const;

  /// y (+)= x·Aᵀ (+ bias) for one row x [cols], y [rows].
  void multiply(const float* x, const float* bias, bool accumulate, float* y, int threads) const;

 private:
  SellSingleArrays arrays() const;
  int64_t slices() const { return static_cast<int64_t>(slice_turns_.size()) - 1; }
  /// Calls body(row, column, entry) for every entry that isn't padding, slice by slice.
  template <class Body>
  void for_each_entry(Body body) const;

  const SellSingleKernels& kernels_;
  int64_t rows_, cols_, nonzeros_;
  std::vector<int64_t> slice_turns_{0};
  LargeVector<int32_t> window_columns_;
  LargeVector<uint8_t> indices_;
  StoredValues values_;
  EntrySources sources_;
};

}  // namespace coppice::cpu
