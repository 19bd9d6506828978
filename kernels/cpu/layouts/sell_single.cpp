#include "kernels/cpu/layouts/sell_single.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/cpu/dispatch.hpp"
#include "kernels/cpu/memory.hpp"

namespace coppice::cpu {

namespace {

const SellSingleKernels& kernels_for(const CpuContext& context, const CompressedRows& matrix) {
  const SellSingleChoice& choice = COPPICE_KERNELS(context.isa, sell_single_kernels);
  const double elements = static_cast<double>(matrix.rows) * static_cast<double>(matrix.cols);
  const bool small = static_cast<double>(matrix.nonzeros()) >= choice.small_from_density * elements;
  return small ? choice.small : choice.large;
}

}  // namespace

SellSingle::SellSingle(const CpuContext& context, const CompressedRows& matrix, DType values)
    : kernels_(kernels_for(context, matrix)),
      rows_(matrix.rows),
      cols_(matrix.cols),
      nonzeros_(matrix.nonzeros()),
      values_(values) {
  constexpr int64_t kDone = std::numeric_limits<int64_t>::max();
  const SellWindows& geometry = kernels_.windows;
  int64_t turns = 0;
  for (int64_t row = 0; row < rows_; row += kSellSliceRows) {
    const int64_t count = std::min(kSellSliceRows, rows_ - row);
    std::array<int64_t, kSellSliceRows> next{}, end{};  // a row that isn't there has nothing left
    for (int64_t i = 0; i < count; ++i) {
      next[static_cast<size_t>(i)] = matrix.row_offsets[static_cast<size_t>(row + i)];
      end[static_cast<size_t>(i)] = matrix.row_offsets[static_cast<size_t>(row + i) + 1];
    }
    const auto column = [&](size_t i) {
      return next[i] < end[i] ? matrix.col_indices[static_cast<size_t>(next[i])] : kDone;
    };
    for (;;) {
      int64_t hindmost = kDone;
      for (size_t i = 0; i < kSellSliceRows; ++i) hindmost = std::min<int64_t>(hindmost, column(i));
      if (hindmost == kDone) break;
      const int64_t window = hindmost / geometry.alignment * geometry.alignment;
      window_columns_.push_back(static_cast<int32_t>(window));
      for (int64_t step = 0; step < geometry.steps; ++step) {
        const size_t first = values_.size();
        values_.resize(first + kSellSliceRows, -0.0f);
        indices_.resize(first + kSellSliceRows, 0);
        for (size_t i = 0; i < kSellSliceRows; ++i) {
          if (column(i) >= window + geometry.columns) continue;
          indices_[first + kernels_.places[i]] = static_cast<uint8_t>(kSellActive + (column(i) - window));
          values_.set(first + i, matrix.values[static_cast<size_t>(next[i]++)]);
        }
      }
      ++turns;
    }
    slice_turns_.push_back(turns);
  }
  values_.shrink_to_fit();
  indices_.shrink_to_fit();
}

SellSingleArrays SellSingle::arrays() const {
  SellSingleArrays a;
  a.rows = rows_;
  a.columns = cols_;
  a.slice_turns = slice_turns_.data();
  a.window_columns = window_columns_.data();
  a.indices = indices_.data();
  a.values = values_.view();
  return a;
}

int64_t SellSingle::bytes() const {
  return static_cast<int64_t>(slice_turns_.size() * sizeof(int64_t) + indices_.size() +
                              window_columns_.size() * sizeof(int32_t)) +
         values_.bytes();
}

template <class Body>
void SellSingle::for_each_entry(Body body) const {
  for (int64_t slice = 0; slice < slices(); ++slice) {
    for (auto turn = static_cast<size_t>(slice_turns_[static_cast<size_t>(slice)]);
         turn < static_cast<size_t>(slice_turns_[static_cast<size_t>(slice) + 1]); ++turn) {
      const auto steps = static_cast<size_t>(kernels_.windows.steps);
      for (size_t step = turn * steps; step < (turn + 1) * steps; ++step) {
        for (size_t i = 0; i < kSellSliceRows; ++i) {
          const uint8_t index = indices_[step * kSellSliceRows + kernels_.places[i]];
          if ((index & kSellActive) == 0) continue;
          body(slice * kSellSliceRows + static_cast<int64_t>(i), window_columns_[turn] + index - kSellActive,
               step * kSellSliceRows + i);
        }
      }
    }
  }
}

void SellSingle::refresh(const DenseValues& values, int threads) {
  sources_.take(values, values_, threads, [&](auto body) { for_each_entry(body); });
}

CompressedRows SellSingle::compressed_rows() const {
  return compress_entries(rows_, cols_, nonzeros_, [&](auto body) {
    for_each_entry([&](int64_t row, int64_t col, size_t entry) { body(row, col, values_.get(entry)); });
  });
}

void SellSingle::multiply(const float* x, const float* bias, bool accumulate, float* y, int threads) const {
  thread_local Scratch scratch;
  float* prepared = scratch.floats(kernels_.prepared_floats(cols_), "a sparse product's working memory");
  kernels_.prepare_x(x, cols_, prepared);
  const SellSingleArrays a = arrays();
  const int64_t shares = std::max<int64_t>(1, std::min<int64_t>(slices(), threads_for(threads, nonzeros_)));
  if (shares == 1) return kernels_.multiply(a, 0, slices(), prepared, bias, accumulate, y);
#pragma omp parallel for num_threads(static_cast <int>(shares)) schedule(static)
  for (int64_t share = 0; share < shares; ++share) {
    kernels_.multiply(a, first_of_share(slice_turns_, share, shares),
                      first_of_share(slice_turns_, share + 1, shares), prepared, bias, accumulate, y);
  }
}

}  // namespace coppice::cpu
