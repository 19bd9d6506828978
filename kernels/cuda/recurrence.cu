#include <cstdlib>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>

#include "kernels/cuda/cells.cuh"
#include "kernels/cuda/context.hpp"
#include "kernels/cuda/cuda_weight.hpp"
#include "kernels/cuda/dense.hpp"
#include "kernels/cuda/graph_cache.hpp"
#include "kernels/cuda/persistent.hpp"

// The time loop: at each step the recurrent product, by whatever layout the weight has, and one kernel for
// all that is left. The whole loop is captured and replayed as one graph.

namespace coppice::cuda {
namespace {

/// The rows at which the states before and after step t begin.
template <class Sequence>
int64_t row_before(const Sequence& s, int64_t t) {
  return (s.reverse ? t + 1 : t) * s.batch;
}
template <class Sequence>
int64_t row_after(const Sequence& s, int64_t t) {
  return (s.reverse ? t : t + 1) * s.batch;
}

template <class Step, class... Parameters, class... Arguments>
void launch_step(void (*kernel)(Step, Parameters...), const Step& step, cudaStream_t stream,
                 Arguments... arguments) {
  const auto columns = static_cast<unsigned>((step.hidden + kCellThreads - 1) / kCellThreads);
  const auto rows = static_cast<unsigned>(step.batch < 65'535 ? step.batch : 65'535);  // of the grid's height
  launch(kernel, dim3(columns, rows), dim3(kCellThreads), 0, stream, step, arguments...);
}

auto forward_kernel(Cell cell) {
  return visit_cell(cell, []<class C>(C) -> void (*)(ForwardStep, const float*) { return forward_step<C>; });
}
void (*backward_kernel(Cell cell))(BackwardStep) {
  return visit_cell(cell, []<class C>(C) -> void (*)(BackwardStep) { return backward_step<C>; });
}

/// Row `row` of a matrix that a cell may not have.
template <class T>
T* row_or_null(const MatrixView<T>& matrix, int64_t row) {
  return matrix.data != nullptr ? matrix.row(row) : nullptr;
}

ForwardStep describe(const RecurrenceForward& s, int64_t t) {
  const int64_t row = t * s.batch, before = row_before(s, t), after = row_after(s, t);
  ForwardStep step{};
  step.batch = s.batch;
  step.hidden = s.hidden;
  step.step = t;
  step.lengths = s.lengths.empty() ? nullptr : s.lengths.data;
  step.gates = s.gates.row(row);
  step.gates_stride = s.gates.stride;
  step.hidden_before = s.hidden_states.row(before);
  step.hidden_after = s.hidden_states.row(after);
  step.hidden_stride = s.hidden_states.stride;
  step.cell_before = row_or_null(s.cell_states, before);
  step.cell_after = row_or_null(s.cell_states, after);
  step.cell_stride = s.cell_states.stride;
  step.candidate_bias = s.candidate_bias.empty() ? nullptr : s.candidate_bias.data;
  step.candidate_hidden = row_or_null(s.candidate_hidden, row);
  step.candidate_stride = s.candidate_hidden.stride;
  step.output = row_or_null(s.output, row);
  if (step.output == step.hidden_after) step.output = nullptr;
  step.output_stride = s.output.stride;
  return step;
}

ForwardDistance distance_of(const RecurrenceForward& s) {
  const int64_t direction = s.reverse ? -1 : 1, rows = direction * s.batch;
  return {direction,
          rows * s.gates.stride,
          rows * s.hidden_states.stride,
          rows * s.cell_states.stride,
          rows * s.candidate_hidden.stride,
          rows * s.output.stride};
}

/// `s.d_hidden` and, for LSTM, `s.d_cell` are there.
BackwardStep describe(const RecurrenceBackward& s, int64_t t, bool adds_product) {
  const int64_t row = t * s.batch, before = row_before(s, t), after = row_after(s, t);
  BackwardStep step{};
  step.batch = s.batch;
  step.hidden = s.hidden;
  step.step = t;
  step.lengths = s.lengths.empty() ? nullptr : s.lengths.data;
  step.gates = s.gates.row(row);
  step.gates_stride = s.gates.stride;
  step.hidden_before = s.hidden_states.row(before);
  step.hidden_stride = s.hidden_states.stride;
  step.cell_before = row_or_null(s.cell_states, before);
  step.cell_after = row_or_null(s.cell_states, after);
  step.cell_stride = s.cell_states.stride;
  step.candidate_hidden = row_or_null(s.candidate_hidden, row);
  step.candidate_stride = s.candidate_hidden.stride;
  step.d_output = s.d_output.row(row);
  step.d_output_stride = s.d_output.stride;
  step.d_gates = s.d_gates.row(row);
  step.d_gates_stride = s.d_gates.stride;
  step.d_recurrent = row_or_null(s.d_recurrent, row);
  step.d_recurrent_stride = s.d_recurrent.stride;
  step.d_hidden = s.d_hidden.data;
  step.d_hidden_stride = s.d_hidden.stride;
  step.d_cell = s.d_cell.data;
  step.d_cell_stride = s.d_cell.stride;
  step.adds_product = adds_product;
  return step;
}

/// Where every stream is at work and nothing but the product reaches the state before, the product writes it:
/// it needs no zeros to add to. A GRU's state also goes past the gates, and a stream past its end keeps its
/// own.
bool adds_product(const RecurrenceBackward& s) {
  return s.cell == Cell::gru || !s.lengths.empty();
}

BackwardDistance distance_of(const RecurrenceBackward& s) {
  const int64_t direction = s.reverse ? 1 : -1, rows = direction * s.batch;
  return {direction,
          rows * s.gates.stride,
          rows * s.hidden_states.stride,
          rows * s.cell_states.stride,
          rows * s.candidate_hidden.stride,
          rows * s.d_output.stride,
          rows * s.d_gates.stride,
          rows * s.d_recurrent.stride};
}

template <class Sequence>
GraphKey common_key(const Sequence& s, const CudaWeight& weight) {
  GraphKey key;
  key.add(std::is_same_v<Sequence, RecurrenceForward>);
  key.add(s.cell);
  key.add(s.steps);
  key.add(s.batch);
  key.add(s.hidden);
  key.add(s.reverse);
  key.add(weight.version());
  key.add(s.gates);
  key.add(s.hidden_states);
  key.add(s.cell_states);
  key.add(s.candidate_hidden);
  key.add(s.lengths);
  return key;
}

/// COPPICE_CUDA_PERSISTENT=0: every loop is a graph, to compare the two.
bool allows_persistent() {
  const char* text = std::getenv("COPPICE_CUDA_PERSISTENT");
  return text == nullptr || std::string_view(text) != "0";
}

class CudaRecurrence final : public RecurrenceOps {
 public:
  explicit CudaRecurrence(CudaContext& context)
      : context_(context),
        product_(*context.memory, "the GRU's recurrent product"),
        carried_(*context.memory, "the gradient of the recurrent state"),
        graphs_(context.stream) {}

 private:
  void forward_impl(const RecurrenceForward& s) override {
    if (s.steps == 0) return;
    context_.make_current();
    if (persistent_ && run_persistently(s)) return;
    const int64_t width = gate_count(s.cell) * s.hidden;
    float* product = s.cell == Cell::gru ? product_.reserve<float>(s.batch * width) : nullptr;
    const auto* weight = dynamic_cast<const CudaWeight*>(s.recurrent);
    if (weight == nullptr) return run_forward(s, product);  // one that promises nothing about captures
    GraphKey key = common_key(s, *weight);
    key.add(s.candidate_bias);
    key.add(s.output);
    key.add(product);
    graphs_.run(std::move(key), [&] { run_forward(s, product); });
  }

  void backward_impl(const RecurrenceBackward& sequence) override {
    if (sequence.steps == 0) return;
    context_.make_current();
    RecurrenceBackward s = sequence;
    const bool wanted = s.d_hidden.data != nullptr || s.d_cell.data != nullptr;
    const bool own_hidden = s.d_hidden.data == nullptr;
    const bool own_cell = s.cell == Cell::lstm && s.d_cell.data == nullptr;
    const int64_t floats = s.batch * s.hidden;
    float* zeros = nullptr;
    if (own_hidden || own_cell) {
      zeros = carried_.reserve<float>(2 * floats);
      if (own_hidden) s.d_hidden = {zeros, s.batch, s.hidden, s.hidden, context_.device};
      if (own_cell) s.d_cell = {zeros + floats, s.batch, s.hidden, s.hidden, context_.device};
    }
    const auto fill_zero = [&] {
      if (zeros == nullptr) return;
      const size_t bytes = static_cast<size_t>(2 * floats) * sizeof(float);
      COPPICE_CUDA(cudaMemsetAsync(zeros, 0, bytes, context_.stream));
    };
    if (persistent_ && run_persistently(s, wanted, fill_zero)) return;
    const auto run = [&] {
      fill_zero();
      run_backward(s, wanted);
    };
    const auto* weight = dynamic_cast<const CudaWeight*>(s.recurrent);
    if (weight == nullptr) return run();
    GraphKey key = common_key(s, *weight);
    key.add(s.d_output);
    key.add(s.d_gates);
    key.add(s.d_recurrent);
    key.add(s.d_hidden);
    key.add(s.d_cell);
    key.add(zeros);
    key.add(wanted);
    graphs_.run(std::move(key), run);
  }

  bool run_persistently(const RecurrenceForward& s) {
    const ForwardStep first = describe(s, s.reverse ? s.steps - 1 : 0);
    if (const auto* dense = dynamic_cast<const DenseWeight*>(s.recurrent)) {
      return cuda::run_persistently(context_, s.cell, dense->values(), first, distance_of(s), s.steps);
    }
    if (auto* sparse = dynamic_cast<CsrWeight*>(s.recurrent)) {
      return cuda::run_persistently(context_, s.cell, *sparse, first, distance_of(s), s.steps);
    }
    return false;
  }

  template <class Fill>
  bool run_persistently(const RecurrenceBackward& s, bool first_state_wanted, Fill&& fill_zero) {
    auto* sparse = dynamic_cast<CsrWeight*>(s.recurrent);
    if (sparse == nullptr) return false;
    fill_zero();  // before the kernel; once more where there is none
    const BackwardStep last = describe(s, s.reverse ? 0 : s.steps - 1, adds_product(s));
    return cuda::run_persistently(context_, s.cell, *sparse, last, distance_of(s), s.steps,
                                  first_state_wanted);
  }

  void run_forward(const RecurrenceForward& s, float* product) {
    const int64_t width = gate_count(s.cell) * s.hidden;
    const auto kernel = forward_kernel(s.cell);
    for (int64_t k = 0; k < s.steps; ++k) {
      const int64_t t = s.reverse ? s.steps - 1 - k : k;
      const MatrixView<const float> h = s.hidden_states.row_slice(row_before(s, t), s.batch);
      if (s.cell == Cell::gru) {  // r comes between W_hn·h and its gate
        s.recurrent->multiply(h, {}, {product, s.batch, width, width, context_.device}, false);
      } else {
        s.recurrent->multiply(h, {}, s.gates.row_slice(t * s.batch, s.batch), true);
      }
      launch_step(kernel, describe(s, t), context_.stream, product);
    }
  }

  void run_backward(const RecurrenceBackward& s, bool first_state_wanted) {
    const auto kernel = backward_kernel(s.cell);
    const MatrixView<const float> d_product = s.cell == Cell::gru ? s.d_recurrent : s.d_gates;
    const bool adds = adds_product(s);
    for (int64_t k = 0; k < s.steps; ++k) {
      const int64_t t = s.reverse ? k : s.steps - 1 - k;
      launch_step(kernel, describe(s, t, adds), context_.stream);
      if (k + 1 == s.steps && !first_state_wanted) break;
      s.recurrent->multiply_transposed(d_product.row_slice(t * s.batch, s.batch), s.d_hidden, adds);
    }
  }

  CudaContext& context_;
  Scratch product_, carried_;
  GraphCache graphs_;
  bool persistent_ = allows_persistent();
};

}  // namespace

std::unique_ptr<RecurrenceOps> make_recurrence(CudaContext& context) {
  return std::make_unique<CudaRecurrence>(context);
}

}  // namespace coppice::cuda
