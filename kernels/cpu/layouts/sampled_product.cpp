#include "kernels/cpu/layouts/sampled_product.hpp"

#include <algorithm>

#include "kernels/cpu/dispatch.hpp"
#include "kernels/cpu/memory.hpp"

namespace coppice::cpu {

SampledProduct::SampledProduct(const CpuContext& context, int64_t rows, int64_t cols,
                               std::span<const int64_t> row_offsets, std::span<const int32_t> col_indices)
    : context_(context),
      kernels_(COPPICE_KERNELS(context.isa, sampled_kernels)),
      rows_(rows),
      cols_(cols),
      blocks_((cols + kSampledColumns - 1) / kSampledColumns),
      strips_((rows + kSampledRows - 1) / kSampledRows),
      places_(static_cast<int64_t>(col_indices.size())) {
  const auto group = static_cast<size_t>(kernels_.group);
  row_lengths_.resize(static_cast<size_t>(strips_ * blocks_ * kSampledRows));
  std::vector<int64_t> next(row_offsets.begin(), row_offsets.end() - 1);
  for (int64_t strip = 0; strip < strips_; ++strip) {
    for (int64_t block = 0; block < blocks_; ++block) {
      uint16_t* lengths = row_lengths_.data() + (strip * blocks_ + block) * kSampledRows;
      for (int64_t r = 0; r < rows_of(strip); ++r) {
        const auto row = static_cast<size_t>(strip * kSampledRows + r);
        for (int64_t& p = next[row]; p < row_offsets[row + 1]; ++p, ++lengths[r]) {
          const int64_t column = col_indices[static_cast<size_t>(p)] - block * kSampledColumns;
          if (column >= kSampledColumns) break;
          offsets_.push_back(static_cast<uint16_t>(column * kSampledDepth));
        }
        offsets_.resize((offsets_.size() + group - 1) / group * group);
      }
      cell_entries_.push_back(static_cast<int64_t>(offsets_.size()));
    }
  }
  offsets_.shrink_to_fit();
}

int64_t SampledProduct::rows_of(int64_t strip) const {
  return std::min(kSampledRows, rows_ - strip * kSampledRows);
}

template <class Body>
void SampledProduct::for_each_place(int64_t first_strip, int64_t last_strip, Body body) const {
  for (int64_t cell = first_strip * blocks_; cell < last_strip * blocks_; ++cell) {
    const int64_t strip = cell / blocks_, first_column = cell % blocks_ * kSampledColumns;
    auto entry = static_cast<size_t>(cell_entries_[static_cast<size_t>(cell)]);
    for (int64_t r = 0; r < rows_of(strip); ++r) {
      const int64_t length = row_lengths_[static_cast<size_t>(cell * kSampledRows + r)];
      const int64_t row = strip * kSampledRows + r;
      for (size_t i = entry; i < entry + static_cast<size_t>(length); ++i) {
        body(row, first_column + offsets_[i] / kSampledDepth, i);
      }
      entry += static_cast<size_t>((length + kernels_.group - 1) / kernels_.group * kernels_.group);
    }
  }
}

/// A strip's columns of dy are pieces of 512 bytes, too short for the processor to see them come.
void SampledProduct::fetch(MatrixView<const float> dy, int64_t first, int64_t strip) const {
  for (int64_t k = first; k < std::min(first + kSampledDepth, dy.rows); ++k) {
    const float* from = dy.row(k) + strip * kSampledRows;
    for (int64_t c = 0; c < rows_of(strip); c += 16) __builtin_prefetch(from + c);
  }
}

void SampledProduct::add(MatrixView<const float> dy, MatrixView<const float> x, MatrixView<float> dw) const {
  if (places_ == 0) return;
  thread_local Scratch sums_scratch, tiles_scratch;
  float* sums = sums_scratch.floats(static_cast<int64_t>(offsets_.size()), "the gradient of a sparse weight");
  const SampledArrays a{cell_entries_.data(), row_lengths_.data(), offsets_.data()};
  const int64_t shares = std::min<int64_t>(threads_for(context_.threads, places_ * x.rows), strips_);
  const int64_t x_floats = blocks_ * kSampledColumns * kSampledDepth;
  const int64_t share_floats = x_floats + kSampledRows * kSampledDepth;
  // One allocation here rather than one in each thread: an exception can't leave a parallel region.
  float* tiles = tiles_scratch.floats(shares * share_floats, "the gradient of a sparse weight");
#pragma omp parallel for num_threads(static_cast <int>(shares)) schedule(static)
  for (int64_t share = 0; share < shares; ++share) {
    const int64_t begin = strips_ * share / shares, end = strips_ * (share + 1) / shares;
    float* const x_tile = tiles + share * share_floats;
    float* const dy_tile = x_tile + x_floats;
    std::fill(sums + first_entry(begin), sums + first_entry(end), 0.0f);
    for_each_place(begin, end,
                   [&](int64_t row, int64_t col, size_t entry) { sums[entry] = dw.row(row)[col]; });
    for (int64_t first = 0; first < x.rows; first += kSampledDepth) {
      const int64_t depth = std::min(kSampledDepth, x.rows - first), steps = (depth + 3) / 4 * 4;
      // Each thread transposes x for itself: no barrier then stands between the rows of x. What fills up the
      // depth is 0 · -0, which changes no sum, be it -0 itself.
      kernels_.fill(x.row(first), x.stride, depth, cols_, 0.0f, x_tile);
      for (int64_t strip = begin; strip < end; ++strip) {
        kernels_.fill(dy.row(first) + strip * kSampledRows, dy.stride, depth, rows_of(strip), -0.0f, dy_tile);
        strip + 1 < end ? fetch(dy, first, strip + 1) : fetch(dy, first + kSampledDepth, begin);
        for (int64_t block = 0; block < blocks_; ++block) {
          kernels_.add(a, strip * blocks_ + block, rows_of(strip), steps,
                       x_tile + block * kSampledColumns * kSampledDepth, dy_tile, sums);
        }
      }
    }
    for_each_place(begin, end,
                   [&](int64_t row, int64_t col, size_t entry) { dw.row(row)[col] = sums[entry]; });
  }
}

}  // namespace coppice::cpu
