#include "kernels/cpu/layouts/compressed_rows.hpp"

#include <limits>

#include "kernels/error.hpp"

namespace coppice::cpu {

int64_t CompressedRows::bytes() const {
  return static_cast<int64_t>(row_offsets.size() * sizeof(int64_t) + col_indices.size() * sizeof(int32_t) +
                              values.size() * sizeof(float));
}

CompressedRows CompressedRows::transposed() const {
  CompressedRows t;
  t.rows = cols;
  t.cols = rows;
  t.row_offsets.assign(static_cast<size_t>(cols) + 1, 0);
  for (const int32_t c : col_indices) ++t.row_offsets[static_cast<size_t>(c) + 1];
  for (size_t c = 0; c < static_cast<size_t>(cols); ++c) t.row_offsets[c + 1] += t.row_offsets[c];
  t.col_indices.resize(col_indices.size());
  t.values.resize(values.size());
  std::vector<int64_t> next(t.row_offsets.begin(), t.row_offsets.end() - 1);
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    for (auto p = static_cast<size_t>(row_offsets[r]); p < static_cast<size_t>(row_offsets[r + 1]); ++p) {
      const auto q = static_cast<size_t>(next[static_cast<size_t>(col_indices[p])]++);
      t.col_indices[q] = static_cast<int32_t>(r);
      t.values[q] = values[p];
    }
  }
  return t;
}

CompressedRows compress_rows(MatrixView<const float> values) {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  if (values.rows > kLargest || values.cols > kLargest) {
    bad_input("a sparse weight of [{}, {}] needs row or column numbers beyond 31 bits", values.rows,
              values.cols);
  }
  CompressedRows result;
  result.rows = values.rows;
  result.cols = values.cols;
  result.row_offsets.reserve(static_cast<size_t>(values.rows) + 1);
  for (int64_t r = 0; r < values.rows; ++r) {
    const float* row = values.row(r);
    for (int64_t c = 0; c < values.cols; ++c) {
      if (row[c] == 0.0f) continue;
      result.col_indices.push_back(static_cast<int32_t>(c));
      result.values.push_back(row[c]);
    }
    result.row_offsets.push_back(result.nonzeros());
  }
  return result;
}

}  // namespace coppice::cpu
