#include "kernels/cpu/sequence.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/dispatch.hpp"
#include "kernels/error.hpp"

namespace coppice::cpu {
namespace {

/// Ids index memory, so they are looked at once more here: it costs nothing beside the rows they fetch.
void check_range(const char* operation, const char* name, VectorView<const int32_t> ids, int32_t lowest,
                 int64_t end) {
  for (int64_t r = 0; r < ids.size; ++r) {
    if (ids.data[r] < lowest || ids.data[r] >= end) {
      bad_input("{}: {}[{}] is {}, expected {} to {}", operation, name, r, ids.data[r], lowest, end - 1);
    }
  }
}

/// The row of each stream's last valid step, or −1.
int64_t last_row(VectorView<const int32_t> lengths, int64_t stream, int64_t batch, int64_t steps) {
  const int64_t length = lengths.empty() ? steps : lengths.data[stream];
  return length > 0 ? (length - 1) * batch + stream : -1;
}

/// The columns [begin, end) of part `part` of `parts`: whole cache lines, so that threads share none.
struct Columns {
  int64_t begin, end;
};
Columns columns_of(int part, int parts, int64_t cols) {
  const int64_t lines = (cols + 15) / 16;
  return {std::min(cols, lines * part / parts * 16), std::min(cols, lines * (part + 1) / parts * 16)};
}

size_t bytes_of(int64_t floats) {
  return static_cast<size_t>(floats) * sizeof(float);
}

}  // namespace

CpuSequence::CpuSequence(const CpuContext& context)
    : context_(context), kernels_(COPPICE_KERNELS(context.isa, sequence_kernels)) {}

void CpuSequence::embed_impl(MatrixView<const float> table, VectorView<const int32_t> ids,
                             MatrixView<float> y) {
  check_range("embed", "ids", ids, 0, table.rows);
#pragma omp parallel for num_threads(threads_for(context_.threads, y.rows* y.cols)) schedule(static)
  for (int64_t r = 0; r < y.rows; ++r) std::memcpy(y.row(r), table.row(ids.data[r]), bytes_of(y.cols));
}

void CpuSequence::embed_backward_impl(VectorView<const int32_t> ids, MatrixView<const float> dy,
                                      MatrixView<float> d_table) {
  check_range("embed_backward", "ids", ids, 0, d_table.rows);
  // Each thread adds its columns of all rows: two rows of one id meet in row order, without atomics.
  const int parts = threads_for(context_.threads, dy.rows * dy.cols);
#pragma omp parallel for num_threads(parts) schedule(static)
  for (int part = 0; part < parts; ++part) {
    const auto [begin, end] = columns_of(part, parts, dy.cols);
    for (int64_t r = 0; r < dy.rows; ++r) {
      kernels_.add(dy.row(r) + begin, d_table.row(ids.data[r]) + begin, end - begin);
    }
  }
}

void CpuSequence::add_column_sums_impl(MatrixView<const float> x, VectorView<float> sums) {
  const int parts = threads_for(context_.threads, x.rows * x.cols);
#pragma omp parallel for num_threads(parts) schedule(static)
  for (int part = 0; part < parts; ++part) {
    const auto [begin, end] = columns_of(part, parts, x.cols);
    kernels_.add_column_sums(x.data + begin, x.stride, x.rows, end - begin, sums.data + begin);
  }
}

void CpuSequence::dropout_impl(MatrixView<const float> x, float probability, RandomStream stream,
                               MatrixView<float> y) {
  // A uniform draw is k·2⁻²⁴ with k the upper 24 bits, so (draw < p) is (k < ⌈p·2²⁴⌉).
  const auto threshold = static_cast<uint32_t>(std::ceil(static_cast<double>(probability) * 0x1p24));
  const float factor = 1.0f / (1.0f - probability);
#pragma omp parallel for num_threads(threads_for(context_.threads, y.rows* y.cols)) schedule(static)
  for (int64_t r = 0; r < y.rows; ++r) {
    kernels_.dropout(x.row(r), y.row(r), y.cols, stream, static_cast<uint64_t>(r * y.cols), threshold,
                     factor);
  }
}

void CpuSequence::last_step_impl(MatrixView<const float> x, VectorView<const int32_t> lengths,
                                 MatrixView<float> y) {
  const int64_t steps = x.rows / y.rows;
  check_range("last_step", "lengths", lengths, 0, steps + 1);
  for (int64_t b = 0; b < y.rows; ++b) {
    const int64_t row = last_row(lengths, b, y.rows, steps);
    if (row < 0) {
      std::memset(y.row(b), 0, bytes_of(y.cols));
    } else {
      std::memcpy(y.row(b), x.row(row), bytes_of(y.cols));
    }
  }
}

void CpuSequence::last_step_backward_impl(MatrixView<const float> dy, VectorView<const int32_t> lengths,
                                          MatrixView<float> dx) {
  const int64_t steps = dy.rows == 0 ? 0 : dx.rows / dy.rows;
  check_range("last_step_backward", "lengths", lengths, 0, steps + 1);
  for (int64_t r = 0; r < dx.rows; ++r) std::memset(dx.row(r), 0, bytes_of(dx.cols));
  for (int64_t b = 0; b < dy.rows; ++b) {
    const int64_t row = last_row(lengths, b, dy.rows, steps);
    if (row >= 0) std::memcpy(dx.row(row), dy.row(b), bytes_of(dx.cols));
  }
}

void CpuSequence::softmax_cross_entropy_impl(MatrixView<const float> logits,
                                             VectorView<const int32_t> targets, float scale,
                                             MatrixView<float> d_logits, VectorView<double> totals) {
  check_range("softmax_cross_entropy", "targets", targets, -1, logits.cols);
  row_loss_.resize(static_cast<size_t>(logits.rows));
  row_correct_.resize(static_cast<size_t>(logits.rows));
  const bool gradient = d_logits.data != nullptr;
#pragma omp parallel for num_threads(threads_for(context_.threads, logits.rows* logits.cols)) \
    schedule(dynamic, 8)
  for (int64_t r = 0; r < logits.rows; ++r) {
    const float* x = logits.row(r);
    float* dx = gradient ? d_logits.row(r) : nullptr;
    const int32_t target = targets.data[r];
    if (target < 0) {
      if (gradient) std::memset(dx, 0, bytes_of(logits.cols));
      continue;
    }
    // The row stays in the second-level cache through its three passes.
    const float largest = kernels_.largest(x, logits.cols);
    const float wanted = x[target];
    row_correct_[static_cast<size_t>(r)] =
        wanted == largest && std::find(x, x + target, largest) == x + target;
    const double sum = kernels_.sum_of_exponentials(x, logits.cols, largest, dx);
    row_loss_[static_cast<size_t>(r)] = std::log(sum) + (static_cast<double>(largest) - wanted);
    if (gradient) {
      kernels_.scale(dx, logits.cols, static_cast<float>(scale / sum));
      dx[target] -= scale;
    }
  }
  for (int64_t r = 0; r < logits.rows; ++r) {
    if (targets.data[r] < 0) continue;
    totals.data[0] += row_loss_[static_cast<size_t>(r)];
    totals.data[1] += row_correct_[static_cast<size_t>(r)];
    totals.data[2] += 1.0;
  }
}

void CpuSequence::sigmoid_cross_entropy_impl(MatrixView<const float> logits,
                                             VectorView<const int32_t> targets, float scale,
                                             MatrixView<float> d_logits, VectorView<double> totals) {
  check_range("sigmoid_cross_entropy", "targets", targets, -1, 2);
  const bool gradient = d_logits.data != nullptr;
  for (int64_t r = 0; r < logits.rows; ++r) {
    const double x = *logits.row(r);
    const int32_t target = targets.data[r];
    if (target < 0) {
      if (gradient) *d_logits.row(r) = 0.0f;
      continue;
    }
    const double e = std::exp(-std::abs(x));  // ln(1 + e^x) without overflow
    totals.data[0] += std::log1p(e) + (x > 0.0 ? x : 0.0) - x * target;
    totals.data[1] += (x > 0.0) == (target == 1) ? 1.0 : 0.0;
    totals.data[2] += 1.0;
    const double probability = (x < 0.0 ? e : 1.0) / (1.0 + e);
    if (gradient) *d_logits.row(r) = static_cast<float>(scale * (probability - target));
  }
}

std::unique_ptr<SequenceOps> make_sequence(const CpuContext& context) {
  return std::make_unique<CpuSequence>(context);
}

}  // namespace coppice::cpu
