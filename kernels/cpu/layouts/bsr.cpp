#include "kernels/cpu/layouts/bsr.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/error.hpp"

namespace coppice::cpu {
namespace {

/// A block is stored when any of its values isn't zero; a kept value that happens to be zero is stored with
/// it. So many stored zeros that aren't chance, though, mean that the matrix is not made of such blocks.
constexpr int64_t kStoredPerZero = 1000;
/// Block rows are sorted by length among so many neighbours, so that threads can share them out.
constexpr int64_t kSortedBlockRows = 64;

int64_t find_height(MatrixView<const float> values) {
  int64_t row = 0, column = 0;  // of a block with zeros in it
  for (const int64_t height : {16, 8, 4}) {
    int64_t zeros = 0, stored = 0;
    for (int64_t first = 0; first < values.rows; first += height) {
      const int64_t count = std::min(height, values.rows - first);
      for (int64_t c = 0; c < values.cols; ++c) {
        int64_t kept = 0;
        for (int64_t r = first; r < first + count; ++r) kept += values.row(r)[c] != 0.0f ? 1 : 0;
        if (kept == 0) continue;
        stored += count;
        if (kept == count) continue;
        zeros += count - kept;
        row = first;
        column = c;
      }
    }
    if (zeros * kStoredPerZero <= stored) return height;
  }
  bad_input(
      "layout bsr: a matrix of [{}, {}] is not made of blocks of 16, 8 or 4 rows by one column: rows {} to "
      "{} "
      "of column {} hold both zeros and nonzeros",
      values.rows, values.cols, row, std::min(row + 4, values.rows) - 1, column);
}

}  // namespace

BsrWeight::BsrWeight(const CpuContext& context, MatrixView<const float> values, DType type)
    : CpuWeight(values.rows, values.cols, values.device, type),
      context_(context),
      kernels_(COPPICE_KERNELS(context.isa, bsr_kernels)),
      tiles_(context.isa),
      height_(find_height(values)),
      values_(type) {
  if (values.cols > std::numeric_limits<int32_t>::max()) {
    bad_input("layout bsr: a weight of [{}, {}] needs column numbers beyond 31 bits", values.rows,
              values.cols);
  }
  for (int64_t row = 0; row < out(); row += height_) {
    const int64_t count = std::min(height_, out() - row);
    for (int64_t c = 0; c < in(); ++c) {
      const auto zero = [&](int64_t r) { return values.row(row + r)[c] == 0.0f; };
      int64_t zeros = 0;
      while (zeros < count && zero(zeros)) ++zeros;
      if (zeros == count) continue;
      col_indices_.push_back(static_cast<int32_t>(c));
      for (int64_t r = 0; r < height_; ++r) values_.push_back(r < count ? values.row(row + r)[c] : -0.0f);
      nonzeros_ += count;
    }
    block_offsets_.push_back(static_cast<int64_t>(col_indices_.size()));
  }
  by_length_.resize(block_offsets_.size() - 1);
  std::iota(by_length_.begin(), by_length_.end(), 0);
  const auto length = [&](int32_t b) {
    return block_offsets_[static_cast<size_t>(b) + 1] - block_offsets_[static_cast<size_t>(b)];
  };
  for (int64_t first = 0; first < block_rows(); first += kSortedBlockRows) {
    const auto begin = by_length_.begin() + first;
    std::stable_sort(begin, begin + std::min(kSortedBlockRows, block_rows() - first),
                     [&](int32_t a, int32_t b) { return length(a) > length(b); });
  }
  col_indices_.shrink_to_fit();
  values_.shrink_to_fit();
}

int64_t BsrWeight::bytes() const {
  return static_cast<int64_t>(block_offsets_.size() * sizeof(int64_t) +
                              (col_indices_.size() + by_length_.size()) * sizeof(int32_t)) +
         values_.bytes();
}

BsrArrays BsrWeight::arrays() const {
  BsrArrays a;
  a.height = height_;
  a.rows = out();
  a.block_offsets = block_offsets_.data();
  a.col_indices = col_indices_.data();
  a.values = values_.view();
  a.by_length = by_length_.data();
  return a;
}

template <class Body>
void BsrWeight::for_each_entry(Body body) const {
  for (size_t b = 0; b + 1 < block_offsets_.size(); ++b) {
    const int64_t row = static_cast<int64_t>(b) * height_, count = std::min(height_, out() - row);
    for (int64_t p = block_offsets_[b]; p < block_offsets_[b + 1]; ++p) {
      for (int64_t r = 0; r < count; ++r) {
        body(row + r, int64_t{col_indices_[static_cast<size_t>(p)]}, static_cast<size_t>(p * height_ + r));
      }
    }
  }
}

CompressedRows BsrWeight::compressed_rows() const {
  return compress_entries(out(), in(), nonzeros_, [&](auto body) {
    for_each_entry([&](int64_t row, int64_t col, size_t entry) { body(row, col, values_.get(entry)); });
  });
}

void BsrWeight::refresh_impl(MatrixView<const float> values) {
  for_each_entry([&](int64_t row, int64_t col, size_t entry) { values_.set(entry, values.row(row)[col]); });
  if (transposed_) transposed_->refresh({values.data, 1, values.stride});
}

void BsrWeight::multiply(const float* x, int64_t ldx, int64_t n, const float* bias, bool accumulate, float* y,
                         int64_t ldy, int threads) const {
  const BsrArrays a = arrays();
  threads = threads_for(threads, nonzeros_ * n);
  if (n > 1) {
    return tiles_.multiply({out(), in(), std::max<int64_t>(in(), 1)}, x, ldx, n, bias, accumulate, y, ldy,
                           threads, [&](int64_t strip, const float* x_tile, int64_t width, float* y_tile) {
                             const int64_t blocks = kStripRows / height_, first = strip * blocks;
                             kernels_.multiply_batch(a, first, std::min(first + blocks, block_rows()), x_tile,
                                                     width, y_tile);
                           });
  }
  const int64_t shares = std::max<int64_t>(1, std::min<int64_t>(threads, block_rows()));
  if (shares == 1) return kernels_.multiply_single(a, 0, block_rows(), x, bias, accumulate, y);
  const auto first_of = [&](int64_t share) {
    if (share == shares) return block_rows();
    return first_of_share(block_offsets_, share, shares) / kSortedBlockRows * kSortedBlockRows;
  };
#pragma omp parallel for num_threads(static_cast <int>(shares)) schedule(static)
  for (int64_t share = 0; share < shares; ++share) {
    kernels_.multiply_single(a, first_of(share), first_of(share + 1), x, bias, accumulate, y);
  }
}

void BsrWeight::multiply_impl(MatrixView<const float> x, VectorView<const float> bias, MatrixView<float> y,
                              bool accumulate) {
  multiply(x.data, x.stride, x.rows, bias.empty() ? nullptr : bias.data, accumulate, y.data, y.stride,
           context_.threads);
}

void BsrWeight::multiply_rows(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                              bool accumulate) const {
  multiply(x, ldx, rows, nullptr, accumulate, y, ldy, 1);
}

void BsrWeight::prepare_transposed(int64_t n) {
  if (!transposed_) transposed_.emplace(context_, compressed_rows().transposed(), value_type());
  transposed_->prepare(n);
}

void BsrWeight::prepare_rows(bool transposed) {
  if (transposed) prepare_transposed(std::numeric_limits<int64_t>::max());
}

void BsrWeight::multiply_transposed_impl(MatrixView<const float> dy, MatrixView<float> dx, bool accumulate) {
  prepare_transposed(dy.rows);
  transposed_->multiply(dy.data, dy.stride, dy.rows, nullptr, accumulate, dx.data, dx.stride,
                        context_.threads);
}

void BsrWeight::multiply_transposed_rows(const float* dy, int64_t ldy, int64_t rows, float* dx, int64_t ldx,
                                         bool accumulate) const {
  transposed_->multiply(dy, ldy, rows, nullptr, accumulate, dx, ldx, 1);
}

void BsrWeight::accumulate_gradient_impl(MatrixView<const float> dy, MatrixView<const float> x,
                                         MatrixView<float> dw) {
  if (!gradient_) {
    const CompressedRows w = compressed_rows();
    gradient_.emplace(context_, out(), in(), w.row_offsets, w.col_indices);
  }
  gradient_->add(dy, x, dw);
}

}  // namespace coppice::cpu
