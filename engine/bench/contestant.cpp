#include "engine/bench/contestant.hpp"

#include <algorithm>
#include <vector>

namespace coppice::bench {
namespace {

/// Matrices on the device that live as long as the turn that uses them.
class Arrays {
 public:
  explicit Arrays(Backend& backend) : backend_(backend) {}
  /// Filled with small numbers, so that no state runs into its bounds.
  MatrixView<float> filled(int64_t rows, int64_t cols) {
    std::vector<float> host(static_cast<size_t>(rows * cols));
    for (size_t i = 0; i < host.size(); ++i) {
      host[i] = static_cast<float>((i * 2654435761u) % 2001) * 1e-4f - 0.1f;
    }
    const MatrixView<float> view = add(rows, cols);
    backend_.upload(host.data(), view.data, static_cast<int64_t>(host.size() * sizeof(float)));
    return view;
  }
  MatrixView<float> zeros(int64_t rows, int64_t cols) {
    const MatrixView<float> view = add(rows, cols);
    backend_.fill_zero(view.data, rows * cols * static_cast<int64_t>(sizeof(float)));
    return view;
  }

 private:
  MatrixView<float> add(int64_t rows, int64_t cols) {
    buffers_.emplace_back(backend_, rows * cols * static_cast<int64_t>(sizeof(float)), "a benchmark's array");
    return buffers_.back().matrix<float>(rows, cols);
  }
  Backend& backend_;
  std::vector<Buffer> buffers_;
};

/// What the others left in the caches is not this one's concern.
template <class Work>
Turn turn_of(Backend& backend, std::shared_ptr<Arrays> arrays, Work work) {
  return [&backend, arrays = std::move(arrays), work](int64_t repeats) {
    warm_up(backend, [&] {
      work();
      backend.synchronize();
    });
    const int64_t preempted = preemptions();
    const double start = now(backend);
    for (int64_t i = 0; i < repeats; ++i) work();
    backend.synchronize();
    return Sample{now(backend) - start, preemptions() != preempted};
  };
}

}  // namespace

CellWeights::CellWeights(Backend& backend, std::string_view layout, DType values, const HostMatrix* input,
                         const HostMatrix& recurrent)
    : backend_(backend) {
  if (input != nullptr) input_ = make(layout, values, *input);
  recurrent_ = make(layout, values, recurrent);
}

std::unique_ptr<Weight> CellWeights::make(std::string_view layout, DType values, const HostMatrix& matrix) {
  values_.emplace_back(backend_, static_cast<int64_t>(matrix.values.size() * sizeof(float)), "a matrix");
  backend_.upload(matrix.values.data(), values_.back().data(), values_.back().bytes());
  std::unique_ptr<Weight> weight =
      backend_.make_weight(layout, values_.back().matrix<const float>(matrix.rows, matrix.cols), values);
  if (!weight->refers_to_values()) values_.pop_back();
  return weight;
}

Contestant CellWeights::contestant(std::string name, Work work, Cell cell, int64_t batch, int64_t steps) {
  Contestant result;
  result.name = std::move(name);
  auto arrays = std::make_shared<Arrays>(backend_);
  Weight& recurrent = *recurrent_;
  if (work == Work::product) {
    const MatrixView<float> x = arrays->filled(batch, recurrent.in());
    const MatrixView<float> y = arrays->filled(batch, recurrent.out());
    result.nonzeros = recurrent.nonzeros();
    result.turn = turn_of(backend_, arrays, [&recurrent, x, y] { recurrent.multiply(x, {}, y, true); });
  } else {
    if (work == Work::frame) steps = 1;
    Weight& input = *input_;
    const int64_t h = recurrent.in(), width = recurrent.out(), rows = steps * batch;
    const MatrixView<float> x = arrays->filled(rows, input.in());
    const MatrixView<float> bias = arrays->filled(1, width);
    RecurrenceForward s;
    s.cell = cell;
    s.steps = steps;
    s.batch = batch;
    s.hidden = h;
    s.recurrent = &recurrent;
    s.candidate_bias = {nullptr, 0, backend_.device()};
    s.gates = arrays->zeros(rows, width);
    // Not zero: a sequence that starts from nothing leaves its first product out.
    s.hidden_states = arrays->filled(rows + batch, h);
    if (cell == Cell::lstm) s.cell_states = arrays->filled(rows + batch, h);
    if (cell == Cell::gru) {
      const MatrixView<float> candidate_bias = arrays->filled(1, h);
      s.candidate_bias = {candidate_bias.data, h, candidate_bias.device};
      s.candidate_hidden = arrays->zeros(rows, h);
    }
    s.output = arrays->zeros(rows, h);
    RecurrenceOps& recurrence = backend_.recurrence();
    result.nonzeros = input.nonzeros() + recurrent.nonzeros();
    result.turn = turn_of(backend_, arrays, [&input, &recurrence, x, bias, s, width] {
      input.multiply(x, {bias.data, width, bias.device}, s.gates);
      recurrence.forward(s);
    });
  }
  result.operations = 2.0 * static_cast<double>(result.nonzeros * batch) *
                      static_cast<double>(work == Work::sequence ? steps : 1);
  result.turn(1);  // makes the forms that this batch wants, so that their bytes are known
  result.bytes = recurrent.bytes() + (work == Work::product ? 0 : input_->bytes());
  return result;
}

}  // namespace coppice::bench
