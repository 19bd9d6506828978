#include "kernels/cpu/layouts/sell_batch.hpp"

#include <algorithm>
#include <numeric>

#include "kernels/cpu/dispatch.hpp"

namespace coppice::cpu {
namespace {

/// A block's columns of a tile of two registers take 32 KiB or less, which is L1; half more where a row has
/// so few nonzeros that starting its loop costs as much as what it saves.
int64_t choose_block_columns(int64_t lanes, int64_t rows, int64_t cols, int64_t nonzeros) {
  const int64_t columns = lanes == 16 ? 256 : 512;
  const bool thin = nonzeros * columns < 16 * rows * cols;
  return std::clamp<int64_t>(cols, 1, thin ? columns + columns / 2 : columns);
}

}  // namespace

SellBatch::SellBatch(const CpuContext& context, const CompressedRows& matrix, DType values)
    : kernels_(COPPICE_KERNELS(context.isa, sell_batch_kernels)),
      tiles_(context.isa),
      rows_(matrix.rows),
      cols_(matrix.cols),
      nonzeros_(matrix.nonzeros()),
      block_columns_(choose_block_columns(tiles_.lanes(), rows_, cols_, nonzeros_)),
      blocks_((cols_ + block_columns_ - 1) / block_columns_),
      values_(values) {
  const auto step = static_cast<uint16_t>(tiles_.lanes() * static_cast<int64_t>(sizeof(float)));
  const auto height = static_cast<size_t>(kernels_.group_rows);
  const auto zero_column = static_cast<uint16_t>(block_columns_ * step);
  std::vector<int64_t> next(matrix.row_offsets.begin(), matrix.row_offsets.end() - 1);
  for (int64_t strip = 0; strip < strips_of(rows_); ++strip) {
    const auto count = static_cast<size_t>(strip_rows(rows_, strip));
    const auto first_row = static_cast<size_t>(strip * kStripRows);
    for (int64_t block = 0; block < blocks_; ++block) {
      std::vector<int64_t> begin(count), length(count);
      std::vector<uint16_t> order(count);
      std::iota(order.begin(), order.end(), uint16_t{0});
      for (size_t r = 0; r < count; ++r) {
        int64_t& p = next[first_row + r];
        begin[r] = p;
        const int64_t end = matrix.row_offsets[first_row + r + 1];
        while (p < end && matrix.col_indices[static_cast<size_t>(p)] < (block + 1) * block_columns_) ++p;
        length[r] = p - begin[r];
      }
      std::stable_sort(order.begin(), order.end(),
                       [&](uint16_t a, uint16_t b) { return length[a] > length[b]; });
      for (size_t g = 0; g < count && length[order[g]] > 0; g += height) {
        const auto trips = static_cast<size_t>(length[order[g]]);
        const size_t first = values_.size();
        group_trips_.push_back(static_cast<uint16_t>(trips));
        values_.resize(first + trips * height, -0.0f);
        offsets_.resize(first + trips * height, zero_column);
        for (size_t i = 0; i < height; ++i) {
          if (g + i >= count) {
            group_rows_.push_back(static_cast<uint16_t>(count));
            continue;
          }
          const uint16_t r = order[g + i];
          group_rows_.push_back(r);
          for (size_t t = 0; t < static_cast<size_t>(length[r]); ++t) {
            const size_t p = static_cast<size_t>(begin[r]) + t;
            values_.set(first + t * height + i, matrix.values[p]);
            const int64_t column = matrix.col_indices[p] - block * block_columns_;
            offsets_[first + t * height + i] = static_cast<uint16_t>(column * step);
          }
        }
      }
      cell_groups_.push_back(static_cast<int64_t>(group_trips_.size()));
      cell_entries_.push_back(static_cast<int64_t>(values_.size()));
    }
  }
  values_.shrink_to_fit();
  offsets_.shrink_to_fit();
}

SellBatchArrays SellBatch::arrays() const {
  SellBatchArrays a;
  a.blocks = blocks_;
  a.block_columns = block_columns_;
  a.cell_groups = cell_groups_.data();
  a.cell_entries = cell_entries_.data();
  a.group_trips = group_trips_.data();
  a.group_rows = group_rows_.data();
  a.values = values_.view();
  a.offsets = offsets_.data();
  return a;
}

int64_t SellBatch::bytes() const {
  return static_cast<int64_t>((cell_groups_.size() + cell_entries_.size()) * sizeof(int64_t) +
                              (group_trips_.size() + group_rows_.size() + offsets_.size()) *
                                  sizeof(uint16_t)) +
         values_.bytes();
}

template <class Body>
void SellBatch::for_each_entry(Body body) const {
  const int64_t step = tiles_.lanes() * static_cast<int64_t>(sizeof(float));
  const auto height = static_cast<size_t>(kernels_.group_rows);
  for (int64_t cell = 0; cell + 1 < static_cast<int64_t>(cell_entries_.size()); ++cell) {
    const int64_t first_row = cell / blocks_ * kStripRows, first_column = cell % blocks_ * block_columns_;
    auto entry = static_cast<size_t>(cell_entries_[static_cast<size_t>(cell)]);
    for (auto g = static_cast<size_t>(cell_groups_[static_cast<size_t>(cell)]);
         g < static_cast<size_t>(cell_groups_[static_cast<size_t>(cell) + 1]); ++g) {
      for (size_t t = 0; t < group_trips_[g]; ++t) {
        for (size_t i = 0; i < height; ++i, ++entry) {
          const int64_t column = offsets_[entry] / step;
          if (column == block_columns_) continue;
          body(first_row + group_rows_[g * height + i], first_column + column, entry);
        }
      }
    }
  }
}

void SellBatch::refresh(const DenseValues& values, int threads) {
  sources_.take(values, values_, threads, [&](auto body) { for_each_entry(body); });
}

CompressedRows SellBatch::compressed_rows() const {
  return compress_entries(rows_, cols_, nonzeros_, [&](auto body) {
    for_each_entry([&](int64_t row, int64_t col, size_t entry) { body(row, col, values_.get(entry)); });
  });
}

void SellBatch::multiply(const float* x, int64_t x_stride, int64_t n, const float* bias, bool accumulate,
                         float* y, int64_t y_stride, int threads) const {
  const SellBatchArrays a = arrays();
  tiles_.multiply({rows_, cols_, block_columns_}, x, x_stride, n, bias, accumulate, y, y_stride,
                  threads_for(threads, nonzeros_ * n),
                  [&](int64_t strip, const float* x_tile, int64_t width, float* y_tile) {
                    kernels_.multiply(a, strip, x_tile, width, y_tile);
                  });
}

}  // namespace coppice::cpu
