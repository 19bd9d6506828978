// Recurrent work on a GPU, through the same interface as everywhere:
//   step      one step of an LSTM's recurrence, by layout, width, batch and sparsity
//               hot    a step of a sequence of 64: of one kernel that keeps the weight on chip, if there
//                      is one, else of a graph, whose weight is in the cache if it fits. dense_graph and
//                      csr_graph: the graphs where there is one; and cuDNN's best algorithm, in turns
//               cold   a single step after the cache was swept
//               frame  a single step with its launch and the wait for it: what a user at the other end sees
//   training  a training step of an LSTM layer; beside cuDNN's in bench_recurrent_gpu_cudnn
//   bench_recurrent_gpu --device cuda --benchmark_filter='step.*H:1024'
// Figures are medians. The GPU runs behind the host's back, so a turn is many calls between two waits.

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.hpp"
#include "kernels/error.hpp"
#include "kernels/random.hpp"
#ifdef COPPICE_CUDNN
#include "bench/cudnn_lstm.hpp"
#endif

namespace coppice::bench {
namespace {

constexpr int kTurns = 11;
constexpr int64_t kSequence = 64;
constexpr int64_t kSweepBytes = int64_t{256} << 20;  // several times any second-level cache

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// Tensors on the device.
class Memory {
 public:
  explicit Memory(Backend& backend) : backend_(backend) {}

  MatrixView<float> zeros(int64_t rows, int64_t cols) {
    buffers_.emplace_back(backend_, rows * cols * 4, "a benchmark's matrix");
    backend_.fill_zero(buffers_.back().data(), buffers_.back().bytes());
    return buffers_.back().matrix<float>(rows, cols);
  }
  /// Small numbers around 0, `zeros` percent of them 0.
  MatrixView<float> values(int64_t rows, int64_t cols, int zeros = 0) {
    std::vector<float> host(static_cast<size_t>(rows * cols));
    const RandomStream stream{static_cast<uint64_t>(rows * 7 + cols), static_cast<uint64_t>(zeros)};
    const float limit = static_cast<float>(zeros) / 100.0f, scale = 0.1f;
    for (size_t i = 0; i < host.size(); i += 2) {  // a block of four draws for two values
      const RandomBlock draws = random_block(stream, i / 2);
      for (size_t k = 0; k < 2 && i + k < host.size(); ++k) {
        host[i + k] =
            to_uniform(draws.word[k]) < limit ? 0.0f : scale * (to_uniform(draws.word[2 + k]) - 0.5f);
      }
    }
    buffers_.emplace_back(backend_, rows * cols * 4, "a benchmark's matrix");
    const MatrixView<float> view = buffers_.back().matrix<float>(rows, cols);
    backend_.upload(host, VectorView<float>{view.data, rows * cols, view.device});
    return view;
  }

 private:
  Backend& backend_;
  std::vector<Buffer> buffers_;
};

/// Seconds for each of `repeats` calls, the wait for the device included.
template <class Queue, class Work>
double seconds(Queue& queue, int repeats, Work&& work) {
  using Clock = std::chrono::steady_clock;
  queue.synchronize();
  const auto start = Clock::now();
  for (int i = 0; i < repeats; ++i) work();
  queue.synchronize();
  return std::chrono::duration<double>(Clock::now() - start).count() / repeats;
}

/// As many calls as take about 20 ms, after the calls in which libraries choose and graphs are captured.
template <class Work>
int warm_up(Backend& backend, Work&& work) {
  for (int i = 0; i < 3; ++i) work();
  return std::clamp(static_cast<int>(20e-3 / seconds(backend, 3, work)), 1, 10'000);
}

struct StepCase {
  std::string layout;  // "_graph" behind it: of the backend that has no kernels for whole loops
  int64_t hidden, batch;
  int zeros;  // percent of the weight
};

/// The weight of the last case: the next one, of another batch, has the same.
class Weights {
 public:
  Weight& get(Backend& backend, const StepCase& c) {
    const std::string wanted = c.layout + std::to_string(c.hidden) + "/" + std::to_string(c.zeros);
    if (wanted != held_) {
      weight_.reset();
      memory_ = std::make_unique<Memory>(backend);
      const std::string layout = c.layout.substr(0, c.layout.find('_'));
      weight_ = backend.make_weight(layout, memory_->values(4 * c.hidden, c.hidden, c.zeros));
      held_ = wanted;
    }
    return *weight_;
  }
  void clear() {
    weight_.reset();
    memory_.reset();
    held_.clear();
  }

 private:
  std::string held_;
  std::unique_ptr<Memory> memory_;
  std::unique_ptr<Weight> weight_;
};

RecurrenceForward lstm_inference(Memory& memory, Weight& weight, int64_t steps, const StepCase& c) {
  RecurrenceForward f;
  f.cell = Cell::lstm;
  f.steps = steps;
  f.batch = c.batch;
  f.hidden = c.hidden;
  f.recurrent = &weight;
  f.gates = memory.zeros(steps * c.batch, 4 * c.hidden);
  f.hidden_states = memory.values((steps + 1) * c.batch, c.hidden);
  f.cell_states = memory.values((steps + 1) * c.batch, c.hidden);
  return f;
}

void step(benchmark::State& state, Backend& backend, Weights& weights, const StepCase& c,
          const std::string& mode) {
  Weight& weight = weights.get(backend, c);
  Memory memory(backend);
  const int64_t steps = mode == "hot" ? kSequence : 1;
  const RecurrenceForward sequence = lstm_inference(memory, weight, steps, c);
  const auto run = [&] { backend.recurrence().forward(sequence); };
  const Buffer swept(backend, mode == "cold" ? kSweepBytes : 4, "what sweeps the cache");
  const auto sweep = [&] { backend.fill_zero(swept.data(), swept.bytes()); };
  const auto sweep_and_run = [&] {
    sweep();
    run();
  };
  int repeats = warm_up(backend, run);
  if (mode == "cold") repeats = warm_up(backend, sweep_and_run);

  std::vector<double> times, sweeps;
#ifdef COPPICE_CUDNN
  std::unique_ptr<CudnnLstm> peer;
  if (mode == "hot") peer = CudnnLstm::fastest_recurrence(steps, c.batch, c.hidden);
  std::vector<double> peer_times;
#endif
  for (auto _ : state) {
    double time = 0;
    if (mode == "hot") {
      time = seconds(backend, repeats, run) / static_cast<double>(steps);
    } else if (mode == "frame") {
      time = seconds(backend, repeats, [&] {
        run();
        backend.synchronize();
      });
    } else {  // the sweep takes long enough that launches hide behind it; what it takes alone is taken off
      time = seconds(backend, repeats, sweep_and_run);
      sweeps.push_back(seconds(backend, repeats, sweep));
    }
    times.push_back(time);
    state.SetIterationTime(time);
#ifdef COPPICE_CUDNN
    if (peer != nullptr) {
      peer_times.push_back(seconds(*peer, repeats, [&] { peer->infer(); }) / static_cast<double>(steps));
    }
#endif
  }
  const double time = median(times) - (sweeps.empty() ? 0.0 : median(sweeps));
  const auto bytes = static_cast<double>(weight.bytes());
  state.counters["us"] = time * 1e6;
  state.counters["weight_MB"] = bytes * 1e-6;
  state.counters["GB/s"] = bytes / time * 1e-9;
  state.counters["GFLOP/s"] = 2.0 * static_cast<double>(weight.nonzeros() * c.batch) / time * 1e-9;
#ifdef COPPICE_CUDNN
  if (peer != nullptr) {
    state.SetLabel(peer->algorithm());
    state.counters["cudnn_us"] = median(peer_times) * 1e6;
    state.counters["speedup"] = median(peer_times) / time;
  }
#endif
}

/// One LSTM layer's training step, as a layer of a network does it: the input's gradient too.
class LstmTraining {
 public:
  LstmTraining(Backend& backend, const std::string& layout, int zeros, int64_t steps, int64_t batch,
               int64_t hidden)
      : backend_(backend), memory_(backend) {
    const int64_t T = steps, B = batch, H = hidden, G = 4 * hidden;
    input_weight_ = backend.make_weight(layout, memory_.values(G, H, zeros));
    recurrent_weight_ = backend.make_weight(layout, memory_.values(G, H, zeros));
    bias_ = memory_.values(1, G);
    x_ = memory_.values(T * B, H);
    dx_ = memory_.zeros(T * B, H);
    d_input_ = memory_.zeros(G, H);
    d_recurrent_ = memory_.zeros(G, H);
    d_bias_ = memory_.zeros(1, G);
    forward_.cell = Cell::lstm;
    forward_.steps = T;
    forward_.batch = B;
    forward_.hidden = H;
    forward_.recurrent = recurrent_weight_.get();
    forward_.gates = memory_.zeros(T * B, G);
    forward_.hidden_states = memory_.zeros((T + 1) * B, H);
    forward_.cell_states = memory_.zeros((T + 1) * B, H);
    backward_.cell = Cell::lstm;
    backward_.steps = T;
    backward_.batch = B;
    backward_.hidden = H;
    backward_.recurrent = recurrent_weight_.get();
    backward_.gates = forward_.gates;
    backward_.hidden_states = forward_.hidden_states;
    backward_.cell_states = forward_.cell_states;
    backward_.d_output = memory_.values(T * B, H);
    backward_.d_gates = forward_.gates;  // in place
  }

  void train() {
    for (const MatrixView<float>& gradient : {d_input_, d_recurrent_, d_bias_}) {
      backend_.fill_zero(gradient.data, gradient.rows * gradient.cols * 4);
    }
    const MatrixView<float> gates = forward_.gates;
    input_weight_->multiply(x_, {bias_.data, bias_.cols, bias_.device}, gates);
    backend_.recurrence().forward(forward_);
    backend_.recurrence().backward(backward_);
    const int64_t rows = forward_.steps * forward_.batch;
    recurrent_weight_->accumulate_gradient(gates, forward_.hidden_states.row_slice(0, rows), d_recurrent_);
    input_weight_->accumulate_gradient(gates, x_, d_input_);
    backend_.sequence().add_column_sums(gates, {d_bias_.data, d_bias_.cols, d_bias_.device});
    input_weight_->multiply_transposed(gates, dx_);
  }

 private:
  Backend& backend_;
  Memory memory_;
  std::unique_ptr<Weight> input_weight_, recurrent_weight_;
  MatrixView<float> bias_, x_, dx_, d_input_, d_recurrent_, d_bias_;
  RecurrenceForward forward_;
  RecurrenceBackward backward_;
};

struct TrainingCase {
  int64_t hidden, batch, steps;
};

void training(benchmark::State& state, Backend& backend, Weights& weights, const std::string& layout,
              int zeros, const TrainingCase& c) {
  weights.clear();
  LstmTraining layer(backend, layout, zeros, c.steps, c.batch, c.hidden);
  const auto work = [&] { layer.train(); };
  const int repeats = warm_up(backend, work);
  std::vector<double> times;
#ifdef COPPICE_CUDNN
  // Turns with cuDNN: both see the card at the same clock.
  CudnnLstm peer(c.steps, c.batch, c.hidden, c.hidden);
  for (int i = 0; i < 3; ++i) peer.train();
  std::vector<double> peer_times;
#endif
  for (auto _ : state) {
    times.push_back(seconds(backend, repeats, work));
    state.SetIterationTime(times.back());
#ifdef COPPICE_CUDNN
    peer_times.push_back(seconds(peer, repeats, [&] { peer.train(); }));
#endif
  }
  const double time = median(times);
  // Input and recurrent products, each once forwards and twice backwards.
  const double operations = 2.0 * 6.0 * 4.0 * static_cast<double>(c.hidden * c.hidden * c.batch * c.steps);
  state.counters["us"] = time * 1e6;
  state.counters["tokens/s"] = static_cast<double>(c.steps * c.batch) / time;
  if (zeros == 0) state.counters["GFLOP/s"] = operations / time * 1e-9;
#ifdef COPPICE_CUDNN
  state.counters["cudnn_us"] = median(peer_times) * 1e6;
  state.counters["speedup"] = median(peer_times) / time;
#endif
}

/// `stepwise`: a backend that runs every recurrence step by step.
void register_all(Backend& backend, Backend& stepwise, Weights& weights) {
  const auto add = [](const std::string& name, auto body) {
    benchmark::RegisterBenchmark(name.c_str(), body)
        ->UseManualTime()
        ->Iterations(kTurns)
        ->Unit(benchmark::kMicrosecond);
  };
  for (const int64_t hidden : {1024, 2048, 4096}) {
    for (const int zeros : {0, 50, 70, 80, 90, 95, 98}) {
      for (const std::string_view layout : backend.layouts()) {
        if ((layout == "dense") != (zeros == 0)) continue;  // dense takes the same time for any values
        for (const int64_t batch : {1, 4, 16, 32, 64}) {
          for (const std::string mode : {"hot", "cold", "frame"}) {
            const StepCase c{std::string(layout), hidden, batch, zeros};
            add(fmt::format("step/{}/H:{}/B:{}/zeros:{}/{}", layout, hidden, batch, zeros, mode),
                [&backend, &weights, c, mode](benchmark::State& s) { step(s, backend, weights, c, mode); });
          }
        }
      }
    }
  }
  for (const int64_t hidden : {1024, 2048, 4096}) {
    for (const int zeros : {0, 80, 90, 95, 98}) {
      const std::string layout = zeros == 0 ? "dense_graph" : "csr_graph";
      for (const int64_t batch : {1, 4, 16, 32}) {
        const StepCase c{layout, hidden, batch, zeros};
        add(fmt::format("step/{}/H:{}/B:{}/zeros:{}/hot", layout, hidden, batch, zeros),
            [&stepwise, &weights, c](benchmark::State& s) { step(s, stepwise, weights, c, "hot"); });
      }
    }
  }
  for (const TrainingCase c : {TrainingCase{512, 32, 64}, {1024, 64, 64}, {2048, 64, 32}}) {
    for (const std::string_view layout : backend.layouts()) {
      const int zeros = layout == "dense" ? 0 : 90;
      add(fmt::format("training/{}/H:{}/B:{}/T:{}/zeros:{}", layout, c.hidden, c.batch, c.steps, zeros),
          [&backend, &weights, c, layout = std::string(layout), zeros](benchmark::State& s) {
            training(s, backend, weights, layout, zeros, c);
          });
    }
  }
}

}  // namespace
}  // namespace coppice::bench

int main(int argc, char** argv) {
  using namespace coppice;
  std::string device = "cuda";
  benchmark::Initialize(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--device" && i + 1 < argc) {
      device = argv[++i];
    } else {
      fmt::print(stderr, "usage: {} [--device NAME] [--benchmark_filter=REGEX] [--benchmark_...]\n", argv[0]);
      return 2;
    }
  }
  try {
    const std::unique_ptr<Backend> backend = open_backend(device);
    const DeviceInfo info = backend->info();
    benchmark::AddCustomContext("device", info.name);
    benchmark::AddCustomContext("detail", info.detail);
    setenv("COPPICE_CUDA_PERSISTENT", "0", 1);
    const std::unique_ptr<Backend> stepwise = open_backend(device);
    bench::Weights weights;
    bench::register_all(*backend, *stepwise, weights);
    benchmark::RunSpecifiedBenchmarks();
    benchmark::ClearRegisteredBenchmarks();
    weights.clear();
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  benchmark::Shutdown();
}
