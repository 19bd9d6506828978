// Dense products: GFLOP/s, and the share of the FMA peak measured in the same seconds.
//   bench_dense --benchmark_filter='multiply/n:2048'
// One thread is timed by its CPU time, more by the wall clock; every figure is the median of the turns that
// product and peak loop take. COPPICE_ISA chooses the instruction set, the peak is the processor's.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/bench/fma_peak.hpp"
#include "kernels/backend.hpp"
#include "kernels/cpu/cpu_weight.hpp"

namespace coppice::bench {
namespace {

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

struct Operands {
  std::unique_ptr<Backend> backend;
  Buffer w, x, dy, dw;
  std::unique_ptr<Weight> weight;
  int64_t n, out, in;

  Operands(int64_t n_, int64_t out_, int64_t in_, int threads)
      : backend(open_backend("cpu", BackendOptions{threads})),
        w(*backend, out_ * in_ * 4, "w"),
        x(*backend, n_ * in_ * 4, "x"),
        dy(*backend, n_ * out_ * 4, "dy"),
        dw(*backend, out_ * in_ * 4, "dw"),
        n(n_),
        out(out_),
        in(in_) {
    std::mt19937 engine(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (const Buffer* buffer : {&w, &x, &dy, &dw}) {
      const VectorView<float> view = buffer->vector<float>(buffer->bytes() / 4);
      for (int64_t i = 0; i < view.size; ++i) view.data[i] = uniform(engine);
    }
    weight = backend->dense_weight(w.matrix<float>(out, in));
  }
  MatrixView<float> w_view() const { return w.matrix<float>(out, in); }
  MatrixView<float> x_view() const { return x.matrix<float>(n, in); }
  MatrixView<float> dy_view() const { return dy.matrix<float>(n, out); }
  MatrixView<float> dw_view() const { return dw.matrix<float>(out, in); }
};

/// Product and peak loop by turns.
template <class F>
void measure(benchmark::State& state, int threads, double operations, double bytes, F&& product) {
  const auto now = threads == 1 ? thread_seconds : wall_seconds;
  std::vector<double> seconds, peaks;
  product();
  for (auto _ : state) {
    const int repeats = std::max(1, static_cast<int>(2e7 / operations));
    const double start = now();
    for (int i = 0; i < repeats; ++i) product();
    seconds.push_back((now() - start) / repeats);
    peaks.push_back(fma_peak(20'000) * threads);
    state.SetIterationTime(seconds.back() * repeats);
  }
  const double time = median(seconds), peak = median(peaks);
  state.counters["us"] = time * 1e6;
  state.counters["best_us"] = *std::min_element(seconds.begin(), seconds.end()) * 1e6;
  state.counters["GF"] = operations / time * 1e-9;
  state.counters["peak_GF"] = peak;
  state.counters["share"] = peak > 0 ? operations / time * 1e-9 / peak : 0;
  state.counters["GB/s"] = bytes / time * 1e-9;
}

enum class Product { multiply, transposed, gradient };

/// One product over many rows; `renewed`: after a change of the weights, so packing counts.
void product(benchmark::State& state, Product which, bool renewed) {
  const int threads = static_cast<int>(state.range(3));
  Operands o(state.range(0), state.range(1), state.range(2), threads);
  measure(state, threads, 2.0 * static_cast<double>(o.n * o.out * o.in), 0, [&] {
    if (renewed) o.weight->refresh(o.w_view());
    switch (which) {
      case Product::multiply:
        return o.weight->multiply(o.x_view(), {}, o.dy_view());
      case Product::transposed:
        return o.weight->multiply_transposed(o.dy_view(), o.x_view());
      case Product::gradient:
        return o.weight->accumulate_gradient(o.dy_view(), o.x_view(), o.dw_view());
    }
  });
}

/// The product of a few rows inside the time loop.
void rows(benchmark::State& state, bool transposed) {
  Operands o(state.range(0), state.range(1), state.range(2), 1);
  auto& weight = dynamic_cast<cpu::CpuWeight&>(*o.weight);
  weight.prepare_rows(transposed);
  const auto x = o.x_view(), y = o.dy_view();
  const double elements = static_cast<double>(o.out * o.in);
  measure(state, 1, 2.0 * static_cast<double>(o.n) * elements, 4 * elements, [&] {
    transposed ? weight.multiply_transposed_rows(y.data, y.stride, o.n, x.data, x.stride, false)
               : weight.multiply_rows(x.data, x.stride, o.n, y.data, y.stride, true);
  });
}

/// The two products of one frame of an LSTM 1 x `hidden` at batch 1.
void frame(benchmark::State& state) {
  const int64_t hidden = state.range(0);
  const int threads = static_cast<int>(state.range(1));
  Operands input(1, 4 * hidden, hidden, threads), recurrent(1, 4 * hidden, hidden, threads);
  const double elements = 8.0 * static_cast<double>(hidden * hidden);
  measure(state, threads, 2 * elements, 4 * elements, [&] {
    input.weight->multiply(input.x_view(), {}, input.dy_view());
    recurrent.weight->multiply(recurrent.x_view(), {}, input.dy_view(), true);
  });
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"n", "out", "in", "threads"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (const int threads : {1, 2}) {
    b->Args({2048, 2048, 512, threads});
    b->Args({400, 800, 200, threads});
    b->Args({400, 10000, 200, threads});
    b->Args({640, 50, 10, threads});
    b->Args({640, 50, 50, threads});
  }
}
void row_shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"n", "out", "in"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (const int n : {1, 8, 10, 16, 20, 32}) {
    b->Args({n, 50, 50});
    for (const int hidden : {200, 512, 1024}) b->Args({n, 4 * hidden, hidden});
  }
}

BENCHMARK_CAPTURE(product, multiply, Product::multiply, false)->Apply(shapes);
BENCHMARK_CAPTURE(product, multiply_renewed, Product::multiply, true)->Apply(shapes);
BENCHMARK_CAPTURE(product, transposed, Product::transposed, false)->Apply(shapes);
BENCHMARK_CAPTURE(product, transposed_renewed, Product::transposed, true)->Apply(shapes);
BENCHMARK_CAPTURE(product, gradient, Product::gradient, false)->Apply(shapes);
BENCHMARK_CAPTURE(rows, multiply, false)->Apply(row_shapes);
BENCHMARK_CAPTURE(rows, transposed, true)->Apply(row_shapes);
BENCHMARK(frame)->ArgNames({"hidden", "threads"})->Args({1024, 1})->Args({1024, 2})->UseManualTime();

}  // namespace
}  // namespace coppice::bench

BENCHMARK_MAIN();
