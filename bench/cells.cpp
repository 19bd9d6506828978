// Recurrences, sequence operations and optimizer steps beside what the machine could do in the same seconds:
// the FMA peak for what multiplies, one read of memory for what streams.
//   bench_cells --benchmark_filter=recurrence
// One thread is timed by its CPU time, more by the wall clock; figures are medians of turns with the
// yardstick.

#include "kernels/cpu/isa/cells.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "engine/bench/fma_peak.hpp"
#include "kernels/backend.hpp"
#include "kernels/cpu/dispatch.hpp"

namespace coppice::bench {
namespace {

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// Bytes a second of one thread's reading of memory, in this very moment: 128 MiB, far beyond the caches.
double read_rate() {
  static const std::vector<uint64_t> words(16 << 20, 1);
  const double start = thread_seconds();
  uint64_t sums[8] = {};
  for (size_t i = 0; i < words.size(); i += 8) {
    for (size_t k = 0; k < 8; ++k) sums[k] += words[i + k];
  }
  for (uint64_t& sum : sums) benchmark::DoNotOptimize(sum);
  return static_cast<double>(words.size() * 8) / (thread_seconds() - start);
}

struct Costs {
  double operations = 0;  // floating-point, of the products
  double bytes = 0;       // that must be read or written at least once
  double units = 0;       // elements of the result, for ns/unit
};

/// Work and yardstick by turns; as many calls a turn as take about a millisecond.
template <class F>
void measure(benchmark::State& state, int threads, const Costs& costs, F&& work) {
  const auto now = threads == 1 ? thread_seconds : wall_seconds;
  work();
  const double start = now();
  work();
  const int repeats = std::max(1, static_cast<int>(1e-3 / (now() - start)));
  std::vector<double> seconds, yardsticks;
  for (auto _ : state) {
    const double begin = now();
    for (int i = 0; i < repeats; ++i) work();
    seconds.push_back((now() - begin) / repeats);
    yardsticks.push_back(costs.operations > 0 ? fma_peak(20'000) * 1e9 * threads : read_rate());
    state.SetIterationTime(seconds.back() * repeats);
  }
  const double time = median(seconds), yardstick = median(yardsticks);
  state.counters["us"] = time * 1e6;
  if (costs.operations > 0) {
    state.counters["GF"] = costs.operations / time * 1e-9;
    state.counters["share"] = costs.operations / time / yardstick;
  }
  if (costs.bytes > 0) {
    state.counters["GB/s"] = costs.bytes / time * 1e-9;
    if (costs.operations == 0) state.counters["x_floor"] = time * yardstick / costs.bytes;
  }
  if (costs.units > 0) state.counters["ns/unit"] = time / costs.units * 1e9;
}

class Memory {
 public:
  explicit Memory(int threads) : backend(open_backend("cpu", BackendOptions{threads})) {}
  MatrixView<float> matrix(int64_t rows, int64_t cols) {
    buffers_.emplace_back(*backend, rows * cols * 4, "a benchmark's matrix");
    const MatrixView<float> view = buffers_.back().matrix<float>(rows, cols);
    std::normal_distribution<float> normal(0, 0.3f);
    for (int64_t i = 0; i < rows * cols; ++i) view.data[i] = normal(engine_);
    return view;
  }
  VectorView<float> vector(int64_t size) {
    const MatrixView<float> view = matrix(1, size);
    return {view.data, size, view.device};
  }
  template <class T>
  VectorView<T> integers(int64_t size, int64_t end) {
    buffers_.emplace_back(*backend, size * static_cast<int64_t>(sizeof(T)), "a benchmark's integers");
    const VectorView<T> view = buffers_.back().vector<T>(size);
    for (int64_t i = 0; i < size; ++i)
      view.data[i] = static_cast<T>(static_cast<int64_t>(engine_() >> 1) % end);
    return view;
  }
  VectorView<uint64_t> mask(int64_t elements, double density) {
    const VectorView<uint64_t> words = integers<uint64_t>((elements + 63) / 64, 1);
    std::bernoulli_distribution keep(density);
    for (int64_t i = 0; i < words.size * 64; ++i) words.data[i / 64] |= uint64_t{keep(engine_)} << (i % 64);
    return words;
  }

  std::unique_ptr<Backend> backend;

 private:
  std::vector<Buffer> buffers_;
  std::mt19937_64 engine_{1};
};

/// The tensors of one recurrence. Gates are far from saturation, as they are in training.
struct Sequence {
  Memory memory;
  std::unique_ptr<Weight> weight;
  RecurrenceForward forward;
  RecurrenceBackward backward;

  Sequence(Cell cell, int64_t T, int64_t B, int64_t H, int threads) : memory(threads) {
    const int64_t G = gate_count(cell) * H;
    weight = memory.backend->dense_weight(memory.matrix(G, H));
    RecurrenceForward& f = forward;
    f.cell = cell;
    f.steps = T;
    f.batch = B;
    f.hidden = H;
    f.recurrent = weight.get();
    f.gates = memory.matrix(T * B, G);
    f.hidden_states = memory.matrix((T + 1) * B, H);
    if (cell == Cell::lstm) f.cell_states = memory.matrix((T + 1) * B, H);
    if (cell == Cell::gru) f.candidate_hidden = memory.matrix(T * B, H);
    f.output = memory.matrix(T * B, H);
    RecurrenceBackward& b = backward;
    b.cell = cell;
    b.steps = T;
    b.batch = B;
    b.hidden = H;
    b.recurrent = weight.get();
    b.gates = f.gates;
    b.hidden_states = f.hidden_states;
    b.cell_states = f.cell_states;
    b.candidate_hidden = f.candidate_hidden;
    b.d_output = f.output;
    b.d_gates = memory.matrix(T * B, G);  // not in place: the next turn wants the gates again
    if (cell == Cell::gru) b.d_recurrent = memory.matrix(T * B, G);
    b.d_hidden = memory.matrix(B, H);
    if (cell == Cell::lstm) b.d_cell = memory.matrix(B, H);
  }
};

void recurrence(benchmark::State& state, Cell cell, bool backward) {
  const int64_t T = state.range(0), B = state.range(1), H = state.range(2);
  const int threads = static_cast<int>(state.range(3));
  Sequence s(cell, T, B, H, threads);
  s.memory.backend->recurrence().forward(s.forward);
  Costs costs;
  costs.operations = 2.0 * static_cast<double>(T * B * gate_count(cell) * H * H);
  costs.units = static_cast<double>(T * B * H);
  measure(state, threads, costs, [&] {
    backward ? s.memory.backend->recurrence().backward(s.backward)
             : s.memory.backend->recurrence().forward(s.forward);
  });
}

const cpu::CellKernels& cell_kernels() {
  using namespace cpu;
  return COPPICE_KERNELS(choose_isa(), cell_kernels);
}

/// One step's elementwise part alone.
void gates(benchmark::State& state, Cell cell, bool backward) {
  const int64_t B = state.range(0), H = state.range(1), G = gate_count(cell) * H;
  const cpu::CellKernels& kernels = cell_kernels();
  Sequence s(cell, 1, B, H, 1);
  const auto states = [&](MatrixView<float> m, int64_t slot) {
    return m.empty() ? nullptr : m.row(slot * B);
  };
  const MatrixView<float> recurrent = s.memory.matrix(B, G);
  cpu::CellForward f;
  f.rows = B;
  f.hidden = H;
  f.gates = s.forward.gates.data;
  f.gates_stride = f.recurrent_stride = G;
  f.recurrent = recurrent.data;
  f.candidate_hidden = s.forward.candidate_hidden.data;
  f.candidate_stride = f.hidden_stride = f.cell_stride = f.output_stride = H;
  f.hidden_before = states(s.forward.hidden_states, 0);
  f.hidden_after = states(s.forward.hidden_states, 1);
  f.cell_before = states(s.forward.cell_states, 0);
  f.cell_after = states(s.forward.cell_states, 1);
  f.output = s.forward.output.data;
  cpu::CellBackward b;
  b.rows = B;
  b.hidden = H;
  b.gates = f.gates;
  b.d_gates = s.backward.d_gates.data;
  b.gates_stride = b.d_gates_stride = b.d_recurrent_stride = G;
  b.candidate_hidden = f.candidate_hidden;
  b.hidden_before = f.hidden_before;
  b.cell_before = f.cell_before;
  b.cell_after = f.cell_after;
  b.d_output = f.output;
  b.d_recurrent = s.backward.d_recurrent.data;
  b.d_hidden = s.backward.d_hidden.data;
  b.d_cell = s.backward.d_cell.data;
  b.candidate_stride = b.hidden_stride = b.cell_stride = b.d_output_stride = b.d_hidden_stride =
      b.d_cell_stride = H;
  measure(state, 1, {0, 0, static_cast<double>(B * H)}, [&] {
    backward ? kernels.backward[static_cast<int>(cell)](b) : kernels.forward[static_cast<int>(cell)](f);
  });
}

void softmax(benchmark::State& state, bool gradient) {
  const int64_t rows = state.range(0), classes = state.range(1);
  const int threads = static_cast<int>(state.range(2));
  Memory memory(threads);
  const MatrixView<float> logits = memory.matrix(rows, classes), d_logits = memory.matrix(rows, classes);
  const VectorView<int32_t> targets = memory.integers<int32_t>(rows, classes);
  const VectorView<double> totals = memory.integers<double>(3, 1);
  const double elements = static_cast<double>(rows * classes);
  measure(state, threads, {0, (gradient ? 8 : 4) * elements, elements}, [&] {
    memory.backend->sequence().softmax_cross_entropy(logits, targets, 1.0f,
                                                     gradient ? d_logits : MatrixView<float>{}, totals);
  });
}

void column_sums(benchmark::State& state) {
  const int64_t rows = state.range(0), cols = state.range(1);
  const int threads = static_cast<int>(state.range(2));
  Memory memory(threads);
  const MatrixView<float> x = memory.matrix(rows, cols);
  const VectorView<float> sums = memory.vector(cols);
  const double elements = static_cast<double>(rows * cols);
  measure(state, threads, {0, 4 * elements, elements},
          [&] { memory.backend->sequence().add_column_sums(x, sums); });
}

void dropout(benchmark::State& state) {
  const int64_t rows = state.range(0), cols = state.range(1);
  const int threads = static_cast<int>(state.range(2));
  Memory memory(threads);
  const MatrixView<float> x = memory.matrix(rows, cols), y = memory.matrix(rows, cols);
  const double elements = static_cast<double>(rows * cols);
  measure(state, threads, {0, 8 * elements, elements}, [&] {
    memory.backend->sequence().dropout(x, 0.5f, {1, 2}, y);
  });
}

void embed_backward(benchmark::State& state) {
  const int64_t rows = state.range(0), cols = state.range(1);
  const int threads = static_cast<int>(state.range(2));
  Memory memory(threads);
  const MatrixView<float> dy = memory.matrix(rows, cols), d_table = memory.matrix(10'000, cols);
  const VectorView<int32_t> ids = memory.integers<int32_t>(rows, 10'000);
  const double elements = static_cast<double>(rows * cols);
  measure(state, threads, {0, 12 * elements, elements},
          [&] { memory.backend->sequence().embed_backward(ids, dy, d_table); });
}

struct Store {
  Memory memory;
  VectorView<float> values, gradients, state0, state1;
  VectorView<uint64_t> mask;
  VectorView<double> norm;
  Store(int64_t n, int threads, int slots, bool masked) : memory(threads) {
    values = memory.vector(n);
    gradients = memory.vector(n);
    if (slots > 0) state0 = memory.vector(n);
    if (slots > 1) state1 = memory.vector(n);
    if (masked) mask = memory.mask(n, 0.1);
    norm = memory.integers<double>(1, 1);
  }
  OptimizerOps& optimizer() { return memory.backend->optimizer(); }
};

void gradient_norm(benchmark::State& state) {
  Store store(state.range(0), static_cast<int>(state.range(1)), 0, false);
  const auto n = static_cast<double>(state.range(0));
  measure(state, static_cast<int>(state.range(1)), {0, 4 * n, n},
          [&] { store.optimizer().gradient_norm(store.gradients, store.mask, store.norm); });
}

/// Norm and step, as a training step takes them. `embedding`: the first 2 M gradients are 0 but for 400 rows
/// of 200.
void update(benchmark::State& state, OptimizerKind kind, bool masked, bool embedding) {
  const int threads = static_cast<int>(state.range(1));
  OptimizerSettings settings;
  settings.kind = kind;
  settings.rate = 1e-6f;
  const int slots = optimizer_slots(settings);
  Store store(state.range(0), threads, slots, masked);
  std::fill_n(store.state1.data, store.state1.size, 1.0f);
  if (kind == OptimizerKind::rmsprop) std::fill_n(store.state0.data, store.state0.size, 1.0f);
  if (embedding) {
    for (int64_t row = 0; row < 10'000; ++row) {
      if (row % 25 != 0) std::fill_n(store.gradients.data + row * 200, 200, 0.0f);
    }
  }
  const auto n = static_cast<double>(state.range(0));
  measure(state, threads, {0, (16 + 8.0 * slots) * n, n}, [&] {
    store.optimizer().gradient_norm(store.gradients, store.mask, store.norm);
    store.optimizer().update(settings, 5.0f, store.norm, store.values, store.gradients, store.mask,
                             store.state0, store.state1);
  });
}

void statistics(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(1));
  Store store(state.range(0), threads, 2, false);
  const auto n = static_cast<double>(state.range(0));
  measure(state, threads, {0, 28 * n, n}, [&] {
    store.optimizer().accumulate_statistics(store.gradients, store.values, store.state0, store.state1);
  });
}

void sequences(benchmark::internal::Benchmark* b) {
  b->ArgNames({"T", "B", "H", "threads"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (const int threads : {1, 2}) {
    b->Args({20, 20, 200, threads});
    b->Args({64, 32, 512, threads});
    b->Args({20, 32, 50, threads});
    b->Args({1, 1, 1024, threads});
  }
}
void steps(benchmark::internal::Benchmark* b) {
  b->ArgNames({"B", "H"})->UseManualTime()->Unit(benchmark::kMicrosecond)->Args({20, 200})->Args({32, 512});
}
void matrices(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "cols", "threads"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (const int threads : {1, 2}) {
    b->Args({400, 10'000, threads});
    b->Args({400, 200, threads});
  }
}
void stores(benchmark::internal::Benchmark* b) {
  b->ArgNames({"n", "threads"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (const int threads : {1, 2}) b->Args({4'650'000, threads});
}

BENCHMARK_CAPTURE(recurrence, lstm_forward, Cell::lstm, false)->Apply(sequences);
BENCHMARK_CAPTURE(recurrence, lstm_backward, Cell::lstm, true)->Apply(sequences);
BENCHMARK_CAPTURE(recurrence, gru_forward, Cell::gru, false)->Apply(sequences);
BENCHMARK_CAPTURE(recurrence, gru_backward, Cell::gru, true)->Apply(sequences);
BENCHMARK_CAPTURE(recurrence, rnn_tanh_forward, Cell::rnn_tanh, false)->Apply(sequences);
BENCHMARK_CAPTURE(recurrence, rnn_tanh_backward, Cell::rnn_tanh, true)->Apply(sequences);
BENCHMARK_CAPTURE(gates, lstm_forward, Cell::lstm, false)->Apply(steps);
BENCHMARK_CAPTURE(gates, lstm_backward, Cell::lstm, true)->Apply(steps);
BENCHMARK_CAPTURE(gates, gru_forward, Cell::gru, false)->Apply(steps);
BENCHMARK_CAPTURE(gates, gru_backward, Cell::gru, true)->Apply(steps);
BENCHMARK_CAPTURE(gates, rnn_tanh_forward, Cell::rnn_tanh, false)->Apply(steps);
BENCHMARK_CAPTURE(gates, rnn_tanh_backward, Cell::rnn_tanh, true)->Apply(steps);
BENCHMARK_CAPTURE(softmax, gradient, true)->Apply(matrices);
BENCHMARK_CAPTURE(softmax, loss_alone, false)->Apply(matrices);
BENCHMARK(column_sums)->Apply(matrices);
BENCHMARK(dropout)->Apply(matrices);
BENCHMARK(embed_backward)->ArgNames({"rows", "cols", "threads"})->UseManualTime()->Args({400, 200, 1});
BENCHMARK(gradient_norm)->Apply(stores);
BENCHMARK_CAPTURE(update, norm_and_sgd, OptimizerKind::sgd, false, false)->Apply(stores);
BENCHMARK_CAPTURE(update, norm_and_sgd_embedding, OptimizerKind::sgd, false, true)->Apply(stores);
BENCHMARK_CAPTURE(update, norm_and_sgd_masked, OptimizerKind::sgd, true, false)->Apply(stores);
BENCHMARK_CAPTURE(update, norm_and_rmsprop, OptimizerKind::rmsprop, false, false)->Apply(stores);
BENCHMARK_CAPTURE(update, norm_and_adam, OptimizerKind::adam, false, false)->Apply(stores);
BENCHMARK_CAPTURE(update, norm_and_adam_masked, OptimizerKind::adam, true, false)->Apply(stores);
BENCHMARK(statistics)->Apply(stores);

}  // namespace
}  // namespace coppice::bench

BENCHMARK_MAIN();
