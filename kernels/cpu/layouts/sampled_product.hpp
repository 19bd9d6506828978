#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/context.hpp"
#include "kernels/cpu/isa/sampled_product.hpp"
#include "kernels/tensor.hpp"

namespace coppice::cpu {

/// The gradient of a sparse W: dyᵀ·x where W has values, and nowhere else, whatever W's layout. Holds the
/// places alone, 2 bytes each and what fills up the rows; made from compressed sparse rows, columns
/// ascending.
class SampledProduct {
 public:
  SampledProduct(const CpuContext& context, int64_t rows, int64_t cols, std::span<const int64_t> row_offsets,
                 std::span<const int32_t> col_indices);

  /// dw += dyᵀ·x at the places, each by one chain of additions that begins at its dw: the dense gradient's
  /// bits. dy [n, rows], x [n, cols], dw [rows, cols].
  void add(MatrixView<const float> dy, MatrixView<const float> x, MatrixView<float> dw) const;

 private:
  /// Calls body(row, column, entry) for the places of strips [first, last).
  template <class Body>
  void for_each_place(int64_t first_strip, int64_t last_strip, Body body) const;
  int64_t first_entry(int64_t strip) const { return cell_entries_[static_cast<size_t>(strip * blocks_)]; }
  void fetch(MatrixView<const float> dy, int64_t first, int64_t strip) const;
  int64_t rows_of(int64_t strip) const;

  const CpuContext context_;
  const SampledKernels& kernels_;
  int64_t rows_, cols_, blocks_, strips_, places_;
  std::vector<int64_t> cell_entries_{0};
  std::vector<uint16_t> row_lengths_, offsets_;
};

}  // namespace coppice::cpu
