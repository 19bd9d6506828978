#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/tensor.hpp"

namespace coppice::cpu {

/// A sparse matrix as the other forms are made from it: compressed sparse rows.
struct CompressedRows {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<int64_t> row_offsets{0};  // [rows + 1]
  std::vector<int32_t> col_indices;     // [nnz], ascending within a row
  std::vector<float> values;            // [nnz]

  int64_t nonzeros() const { return static_cast<int64_t>(values.size()); }
  int64_t bytes() const;
  CompressedRows transposed() const;
};

/// Of a dense matrix; zeros of either sign are left out. Throws Error(bad_input) where row or column numbers
/// need more than 31 bits.
CompressedRows compress_rows(MatrixView<const float> values);

/// From the entries of another form: `for_each_entry(body)` calls body(row, column, value) for each of them,
/// the columns of a row ascending, whatever the order of rows.
template <class ForEachEntry>
CompressedRows compress_entries(int64_t rows, int64_t cols, int64_t nonzeros, ForEachEntry for_each_entry) {
  CompressedRows result;
  result.rows = rows;
  result.cols = cols;
  result.row_offsets.assign(static_cast<size_t>(rows) + 1, 0);
  for_each_entry([&](int64_t row, int64_t, float) { ++result.row_offsets[static_cast<size_t>(row) + 1]; });
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) result.row_offsets[r + 1] += result.row_offsets[r];
  result.col_indices.resize(static_cast<size_t>(nonzeros));
  result.values.resize(static_cast<size_t>(nonzeros));
  std::vector<int64_t> next(result.row_offsets.begin(), result.row_offsets.end() - 1);
  for_each_entry([&](int64_t row, int64_t col, float value) {
    const auto p = static_cast<size_t>(next[static_cast<size_t>(row)]++);
    result.col_indices[p] = static_cast<int32_t>(col);
    result.values[p] = value;
  });
  return result;
}

/// Where share number `share` of `shares` begins, of things that hold offsets[i] to offsets[i + 1]: the
/// shares hold about equally much, whatever the single things do.
inline int64_t first_of_share(const std::vector<int64_t>& offsets, int64_t share, int64_t shares) {
  const int64_t before = offsets.back() * share / shares;
  if (share == shares) return static_cast<int64_t>(offsets.size()) - 1;  // also things that hold nothing
  return std::lower_bound(offsets.begin(), offsets.end() - 1, before) - offsets.begin();
}

/// Where a sparse form takes its values over from: a dense W, or, for Wᵀ, the same read along its columns.
struct DenseValues {
  const float* data;
  int64_t row_step;
  int64_t col_step;
  float at(int64_t row, int64_t col) const { return data[row * row_step + col * col_step]; }
};

}  // namespace coppice::cpu
