#include "kernels/cpu/layouts/csr.hpp"

#include <algorithm>
#include <limits>

#include "kernels/cpu/memory.hpp"
#include "kernels/error.hpp"

namespace coppice::cpu {
namespace {

const CsrKernels& kernels_for(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::avx512:
      return avx512::csr_kernels();
    case Isa::avx2:
      return avx2::csr_kernels();
#endif
    default:
      return baseline::csr_kernels();
  }
}

/// Below this many multiply-adds (or moved elements) a parallel region costs more than it saves.
constexpr int64_t kParallelWork = 50'000;

float* thread_scratch(int64_t floats) {
  thread_local Scratch scratch;
  return scratch.floats(floats, "a sparse product's working memory");
}

/// The row at which part `part` of `parts` begins when the nonzeros are shared out evenly. Which thread makes
/// a row does not change its bits.
int64_t part_begin(const CsrArrays& a, int64_t rows, int64_t part, int64_t parts) {
  if (part == parts) return rows;
  const int64_t target = a.row_offsets[rows] * part / parts;
  return std::lower_bound(a.row_offsets, a.row_offsets + rows, target) - a.row_offsets;
}

/// y (+)= x·Aᵀ (+ bias), A [out, in].
void product(const CsrKernels& kernels, const CsrArrays& a, int64_t out, int64_t in, const float* x,
             int64_t x_stride, int64_t n, const float* bias, bool accumulate, float* y, int64_t y_stride,
             int64_t threads) {
  const int64_t parts = a.row_offsets[out] * n < kParallelWork ? 1 : threads;
  float* tile = n == 1 ? nullptr : thread_scratch(2 * kernels.lanes * in);
  for (int64_t begin = 0, width; begin < n; begin += width) {
    width = n - begin <= kernels.lanes ? kernels.lanes : 2 * kernels.lanes;
    const int64_t batch = std::min(width, n - begin);
    if (n > 1) kernels.transpose_tile(x + begin * x_stride, x_stride, batch, in, width, tile);
    const auto run = [&](int64_t part) {
      const int64_t first = part_begin(a, out, part, parts), last = part_begin(a, out, part + 1, parts);
      if (n == 1) {
        kernels.multiply_row(a, first, last, x, bias, accumulate, y);
      } else {
        kernels.multiply_tile(a, first, last, tile, width, batch, bias, accumulate, y + begin * y_stride,
                              y_stride);
      }
    };
    if (parts == 1) {
      run(0);
      continue;
    }
#pragma omp parallel for num_threads(static_cast <int>(parts)) schedule(static)
    for (int64_t part = 0; part < parts; ++part) run(part);
  }
}

}  // namespace

CsrWeight::CsrWeight(const CpuContext& context, MatrixView<const float> values)
    : CpuWeight(values.rows, values.cols, values.device),
      context_(context),
      kernels_(kernels_for(context.isa)) {
  if (values.cols > std::numeric_limits<int32_t>::max() ||
      values.rows > std::numeric_limits<int32_t>::max()) {
    bad_input("a CSR weight of [{}, {}] needs column numbers beyond 32 bits", values.rows, values.cols);
  }
  row_offsets_.reserve(static_cast<size_t>(values.rows) + 1);
  row_offsets_.push_back(0);
  for (int64_t r = 0; r < values.rows; ++r) {
    const float* row = values.row(r);
    for (int64_t c = 0; c < values.cols; ++c) {
      if (row[c] == 0.0f) continue;
      col_indices_.push_back(static_cast<int32_t>(c));
      values_.push_back(row[c]);
    }
    row_offsets_.push_back(static_cast<int64_t>(values_.size()));
  }
}

int64_t CsrWeight::bytes() const {
  return static_cast<int64_t>(row_offsets_.size() * sizeof(int64_t) + col_indices_.size() * sizeof(int32_t) +
                              values_.size() * sizeof(float));
}

void CsrWeight::refresh_impl(MatrixView<const float> values) {
  for (int64_t r = 0; r < out(); ++r) {
    const float* row = values.row(r);
    for (int64_t p = row_offsets_[static_cast<size_t>(r)]; p < row_offsets_[static_cast<size_t>(r) + 1];
         ++p) {
      values_[static_cast<size_t>(p)] = row[col_indices_[static_cast<size_t>(p)]];
    }
  }
  transposed_stale_ = true;
}

void CsrWeight::transpose() {
  if (!transposed_stale_) return;
  if (transposed_offsets_.empty()) {
    transposed_offsets_.assign(static_cast<size_t>(in()) + 1, 0);
    for (const int32_t c : col_indices_) ++transposed_offsets_[static_cast<size_t>(c) + 1];
    for (size_t c = 0; c < static_cast<size_t>(in()); ++c)
      transposed_offsets_[c + 1] += transposed_offsets_[c];
    transposed_indices_.resize(values_.size());
    permutation_.resize(values_.size());
    std::vector<int64_t> next(transposed_offsets_.begin(), transposed_offsets_.end() - 1);
    for (int64_t r = 0; r < out(); ++r) {
      for (int64_t p = row_offsets_[static_cast<size_t>(r)]; p < row_offsets_[static_cast<size_t>(r) + 1];
           ++p) {
        const auto q = static_cast<size_t>(next[static_cast<size_t>(col_indices_[static_cast<size_t>(p)])]++);
        transposed_indices_[q] = static_cast<int32_t>(r);
        permutation_[q] = p;
      }
    }
    transposed_values_.resize(values_.size());
  }
  for (size_t q = 0; q < permutation_.size(); ++q) {
    transposed_values_[q] = values_[static_cast<size_t>(permutation_[q])];
  }
  transposed_stale_ = false;
}

void CsrWeight::prepare_rows(bool transposed) {
  if (transposed) transpose();
}

void CsrWeight::multiply_impl(MatrixView<const float> x, VectorView<const float> bias, MatrixView<float> y,
                              bool accumulate) {
  product(kernels_, forward(), out(), in(), x.data, x.stride, x.rows, bias.empty() ? nullptr : bias.data,
          accumulate, y.data, y.stride, context_.threads);
}

void CsrWeight::multiply_transposed_impl(MatrixView<const float> dy, MatrixView<float> dx, bool accumulate) {
  transpose();
  product(kernels_, backward(), in(), out(), dy.data, dy.stride, dy.rows, nullptr, accumulate, dx.data,
          dx.stride, context_.threads);
}

void CsrWeight::multiply_rows(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                              bool accumulate) const {
  product(kernels_, forward(), out(), in(), x, ldx, rows, nullptr, accumulate, y, ldy, 1);
}

void CsrWeight::multiply_transposed_rows(const float* dy, int64_t ldy, int64_t rows, float* dx, int64_t ldx,
                                         bool accumulate) const {
  product(kernels_, backward(), in(), out(), dy, ldy, rows, nullptr, accumulate, dx, ldx, 1);
}

void CsrWeight::accumulate_gradient_impl(MatrixView<const float> dy, MatrixView<const float> x,
                                         MatrixView<float> dw) {
  if (!gradient_) gradient_.emplace(context_, out(), in(), row_offsets_, col_indices_);
  gradient_->add(dy, x, dw);
}

}  // namespace coppice::cpu
