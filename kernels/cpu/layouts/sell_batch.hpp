#pragma once

#include <vector>

#include "kernels/cpu/context.hpp"
#include "kernels/cpu/isa/sell_batch.hpp"
#include "kernels/cpu/layouts/batch_tiles.hpp"
#include "kernels/cpu/layouts/compressed_rows.hpp"
#include "kernels/cpu/layouts/entry_sources.hpp"
#include "kernels/cpu/layouts/stored_values.hpp"
#include "kernels/cpu/memory.hpp"

namespace coppice::cpu {

/// A sparse matrix A for products with many rows of x: sliced ELLPACK (Kreutzer et al. 2014, SELL-C-σ) in
/// blocks of columns, as kernels/cpu/isa/sell_batch.hpp describes it. 6 bytes a nonzero, 4 with bfloat16
/// values, and about one in fifty more; offsets fit 16 bits because they count within a block.
class SellBatch {
 public:
  SellBatch(const CpuContext& context, const CompressedRows& matrix, DType values);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t nonzeros() const { return nonzeros_; }
  int64_t bytes() const;

  void refresh(const DenseValues& values, int threads);
  CompressedRows compressed_rows() const;

  /// y (+)= x·Aᵀ (+ bias). x [n, cols], y [n, rows].
  void multiply(const float* x, int64_t x_stride, int64_t n, const float* bias, bool accumulate, float* y,
                int64_t y_stride, int threads) const;

 private:
  SellBatchArrays arrays() const;
  /// Calls body(row, column, entry) for every entry that isn't padding, cell by cell.
  template <class Body>
  void for_each_entry(Body body) const;

  const SellBatchKernels& kernels_;
  const BatchTiles tiles_;
  int64_t rows_, cols_, nonzeros_;
  int64_t block_columns_, blocks_;
  std::vector<int64_t> cell_groups_{0}, cell_entries_{0};
  std::vector<uint16_t> group_trips_, group_rows_;
  LargeVector<uint16_t> offsets_;
  StoredValues values_;
  EntrySources sources_;
};

}  // namespace coppice::cpu
