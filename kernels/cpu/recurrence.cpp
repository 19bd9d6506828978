#include "kernels/cpu/recurrence.hpp"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_weight.hpp"
#include "kernels/cpu/dispatch.hpp"
#include "kernels/error.hpp"

namespace coppice::cpu {
namespace {

/// y (+)= x·Wᵀ of a few rows within one thread …
struct RowProducts {
  const CpuWeight& weight;
  void multiply(MatrixView<const float> x, MatrixView<float> y, bool accumulate) const {
    weight.multiply_rows(x.data, x.stride, x.rows, y.data, y.stride, accumulate);
  }
  void multiply_transposed(MatrixView<const float> dy, MatrixView<float> dx, bool accumulate) const {
    weight.multiply_transposed_rows(dy.data, dy.stride, dy.rows, dx.data, dx.stride, accumulate);
  }
};

/// … or shared among the threads, for a batch that can't be split.
struct SharedProducts {
  Weight& weight;
  void multiply(MatrixView<const float> x, MatrixView<float> y, bool accumulate) const {
    weight.multiply(x, {}, y, accumulate);
  }
  void multiply_transposed(MatrixView<const float> dy, MatrixView<float> dx, bool accumulate) const {
    weight.multiply_transposed(dy, dx, accumulate);
  }
};

CpuWeight& cpu_weight(Weight* weight) {
  auto* found = dynamic_cast<CpuWeight*>(weight);
  if (found == nullptr) bad_input("recurrence: the layout {} is not one of the CPU's", weight->layout());
  return *found;
}

void check_lengths(VectorView<const int32_t> lengths, int64_t steps) {
  for (int64_t b = 0; b < lengths.size; ++b) {
    if (lengths.data[b] < 0 || lengths.data[b] > steps) {
      bad_input("recurrence: lengths[{}] is {}, expected 0 to {}", b, lengths.data[b], steps);
    }
  }
}

bool is_zero(MatrixView<const float> x) {
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) {
      if (x.row(r)[c] != 0.0f) return false;
    }
  }
  return true;
}

template <class T>
void copy_rows(MatrixView<const T> from, MatrixView<T> to) {
  for (int64_t r = 0; r < from.rows; ++r) {
    std::memcpy(to.row(r), from.row(r), static_cast<size_t>(from.cols) * sizeof(T));
  }
}

void zero_rows(MatrixView<float> x) {
  for (int64_t r = 0; r < x.rows; ++r) std::memset(x.row(r), 0, static_cast<size_t>(x.cols) * sizeof(float));
}

/// Calls body(begin, end, active) for the longest runs of streams in [first, last) that are all within, or
/// all past, their length at step t.
template <class Body>
void for_each_run(VectorView<const int32_t> lengths, int64_t t, int64_t first, int64_t last, Body body) {
  if (lengths.empty()) {
    body(first, last, true);
    return;
  }
  for (int64_t begin = first; begin < last;) {
    const bool active = t < lengths.data[begin];
    int64_t end = begin + 1;
    while (end < last && (t < lengths.data[end]) == active) ++end;
    body(begin, end, active);
    begin = end;
  }
}

/// The smallest range of streams that holds every one active at step t; empty when none is.
struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};
Range active_range(VectorView<const int32_t> lengths, int64_t t, int64_t first, int64_t last) {
  if (lengths.empty()) return {first, last};
  while (first < last && t >= lengths.data[first]) ++first;
  while (first < last && t >= lengths.data[last - 1]) --last;
  return {first, last};
}

/// All steps of the streams [first, last). `recurrent_product`: GRU, [B, 3·H].
template <class Products>
void forward_streams(const RecurrenceForward& s, const CellKernels& kernels, const Products& products,
                     int64_t first, int64_t last, bool starts_at_zero, float* recurrent_product) {
  const int64_t H = s.hidden, B = s.batch, G = gate_count(s.cell) * H;
  const bool gru = s.cell == Cell::gru;
  for (int64_t k = 0; k < s.steps; ++k) {
    const int64_t t = s.reverse ? s.steps - 1 - k : k;
    const int64_t before = (s.reverse ? t + 1 : t) * B, after = (s.reverse ? t : t + 1) * B;
    const Range active = active_range(s.lengths, t, first, last);
    if (active.size() > 0) {
      const auto h = s.hidden_states.row_slice(before + active.begin, active.size());
      const auto gates = s.gates.row_slice(t * B + active.begin, active.size());
      // The first product of a sequence that starts from nothing adds zeros.
      const bool nothing = k == 0 && starts_at_zero;
      if (gru) {
        const MatrixView<float> product{recurrent_product + active.begin * G, active.size(), G, G, h.device};
        if (nothing) {
          zero_rows(product);
        } else {
          products.multiply(h, product, false);
        }
      } else if (!nothing) {
        products.multiply(h, gates, true);
      }
    }
    for_each_run(s.lengths, t, first, last, [&](int64_t begin, int64_t end, bool is_active) {
      const int64_t rows = end - begin, row = t * B + begin;
      if (!is_active) {
        copy_rows<float>(s.hidden_states.row_slice(before + begin, rows),
                         s.hidden_states.row_slice(after + begin, rows));
        if (s.cell == Cell::lstm) {
          copy_rows<float>(s.cell_states.row_slice(before + begin, rows),
                           s.cell_states.row_slice(after + begin, rows));
        }
        // Whether a product reached these rows depends on their neighbours, and so on the slices.
        zero_rows(s.gates.row_slice(row, rows));
        if (gru) zero_rows(s.candidate_hidden.row_slice(row, rows));
        if (s.output.data != nullptr) zero_rows(s.output.row_slice(row, rows));
        return;
      }
      CellForward step;
      step.rows = rows;
      step.hidden = H;
      step.gates = s.gates.row(row);
      step.gates_stride = s.gates.stride;
      step.hidden_before = s.hidden_states.row(before + begin);
      step.hidden_after = s.hidden_states.row(after + begin);
      step.hidden_stride = s.hidden_states.stride;
      if (s.cell == Cell::lstm) {
        step.cell_before = s.cell_states.row(before + begin);
        step.cell_after = s.cell_states.row(after + begin);
        step.cell_stride = s.cell_states.stride;
      }
      if (gru) {
        step.recurrent = recurrent_product + begin * G;
        step.recurrent_stride = G;
        step.candidate_bias = s.candidate_bias.empty() ? nullptr : s.candidate_bias.data;
        step.candidate_hidden = s.candidate_hidden.row(row);
        step.candidate_stride = s.candidate_hidden.stride;
      }
      if (s.output.data != nullptr && s.output.row(row) != step.hidden_after) {
        step.output = s.output.row(row);
        step.output_stride = s.output.stride;
      }
      kernels.forward[static_cast<int>(s.cell)](step);
    });
  }
}

/// `s.d_hidden` and `s.d_cell` are there; `first_state_wanted` says whether their final values are.
template <class Products>
void backward_streams(const RecurrenceBackward& s, const CellKernels& kernels, const Products& products,
                      int64_t first, int64_t last, bool first_state_wanted) {
  const int64_t H = s.hidden, B = s.batch;
  const bool gru = s.cell == Cell::gru;
  const MatrixView<float> d_product = gru ? s.d_recurrent : s.d_gates;
  for (int64_t k = 0; k < s.steps; ++k) {
    const int64_t t = s.reverse ? k : s.steps - 1 - k;
    const int64_t before = (s.reverse ? t + 1 : t) * B, after = (s.reverse ? t : t + 1) * B;
    for_each_run(s.lengths, t, first, last, [&](int64_t begin, int64_t end, bool is_active) {
      const int64_t rows = end - begin, row = t * B + begin;
      if (!is_active) {  // the state went through unchanged, and so does its gradient
        zero_rows(s.d_gates.row_slice(row, rows));
        if (gru) zero_rows(s.d_recurrent.row_slice(row, rows));
        return;
      }
      CellBackward step;
      step.rows = rows;
      step.hidden = H;
      step.gates = s.gates.row(row);
      step.gates_stride = s.gates.stride;
      step.hidden_before = s.hidden_states.row(before + begin);
      step.hidden_stride = s.hidden_states.stride;
      step.d_output = s.d_output.row(row);
      step.d_output_stride = s.d_output.stride;
      step.d_gates = s.d_gates.row(row);
      step.d_gates_stride = s.d_gates.stride;
      step.d_hidden = s.d_hidden.row(begin);
      step.d_hidden_stride = s.d_hidden.stride;
      if (s.cell == Cell::lstm) {
        step.cell_before = s.cell_states.row(before + begin);
        step.cell_after = s.cell_states.row(after + begin);
        step.cell_stride = s.cell_states.stride;
        step.d_cell = s.d_cell.row(begin);
        step.d_cell_stride = s.d_cell.stride;
      }
      if (gru) {
        step.candidate_hidden = s.candidate_hidden.row(row);
        step.candidate_stride = s.candidate_hidden.stride;
        step.d_recurrent = s.d_recurrent.row(row);
        step.d_recurrent_stride = s.d_recurrent.stride;
      }
      kernels.backward[static_cast<int>(s.cell)](step);
    });
    if (k + 1 == s.steps && !first_state_wanted) break;
    const Range active = active_range(s.lengths, t, first, last);
    if (active.size() > 0) {
      products.multiply_transposed(d_product.row_slice(t * B + active.begin, active.size()),
                                   s.d_hidden.row_slice(active.begin, active.size()), true);
    }
  }
}

/// Calls body(first, last) for one slice of the streams a thread. Slices differ by one stream at most: the
/// slowest thread is what the others wait for, and a product of 10 rows costs nearly as little a row as one
/// of 16.
template <class Body>
void for_each_slice(int threads, int64_t batch, int64_t work, Body body) {
  const int slices = static_cast<int>(std::min<int64_t>(threads_for(threads, work), batch));
#pragma omp parallel for num_threads(slices) schedule(static)
  for (int slice = 0; slice < slices; ++slice) body(batch * slice / slices, batch * (slice + 1) / slices);
}

template <class Sequence>
int64_t work_of(const Sequence& s) {
  return s.steps * s.batch * (s.recurrent->nonzeros() + 20 * gate_count(s.cell) * s.hidden);
}

}  // namespace

CpuRecurrence::CpuRecurrence(const CpuContext& context)
    : context_(context), kernels_(COPPICE_KERNELS(context.isa, cell_kernels)) {}

void CpuRecurrence::forward_impl(const RecurrenceForward& s) {
  CpuWeight& weight = cpu_weight(s.recurrent);
  check_lengths(s.lengths, s.steps);
  float* product = nullptr;
  if (s.cell == Cell::gru) {
    product = recurrent_product_.floats(s.batch * 3 * s.hidden, "the GRU's recurrent product");
  }
  const bool from_zero = is_zero(s.hidden_states.row_slice(s.reverse ? s.steps * s.batch : 0, s.batch));
  if (s.batch == 1) {
    forward_streams(s, kernels_, SharedProducts{weight}, 0, 1, from_zero, product);
    return;
  }
  weight.prepare_rows(false);
  for_each_slice(context_.threads, s.batch, work_of(s), [&](int64_t first, int64_t last) {
    forward_streams(s, kernels_, RowProducts{weight}, first, last, from_zero, product);
  });
}

void CpuRecurrence::backward_impl(const RecurrenceBackward& sequence) {
  RecurrenceBackward s = sequence;
  CpuWeight& weight = cpu_weight(s.recurrent);
  check_lengths(s.lengths, s.steps);
  const int64_t floats = s.batch * s.hidden;
  const bool wanted = s.d_hidden.data != nullptr || s.d_cell.data != nullptr;
  const bool own_hidden = s.d_hidden.data == nullptr, own_cell = s.d_cell.data == nullptr;
  if (own_hidden || own_cell) {
    float* carried = carried_.floats(2 * floats, "the gradient of the recurrent state");
    std::memset(carried, 0, static_cast<size_t>(2 * floats) * sizeof(float));
    if (own_hidden) s.d_hidden = {carried, s.batch, s.hidden, s.hidden, weight.device()};
    if (own_cell) s.d_cell = {carried + floats, s.batch, s.hidden, s.hidden, weight.device()};
  }
  if (s.batch == 1) {
    backward_streams(s, kernels_, SharedProducts{weight}, 0, 1, wanted);
    return;
  }
  weight.prepare_rows(true);
  for_each_slice(context_.threads, s.batch, work_of(s), [&](int64_t first, int64_t last) {
    backward_streams(s, kernels_, RowProducts{weight}, first, last, wanted);
  });
}

std::unique_ptr<RecurrenceOps> make_recurrence(const CpuContext& context) {
  return std::make_unique<CpuRecurrence>(context);
}

}  // namespace coppice::cpu
