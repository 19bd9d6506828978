// Products in sparse layouts against the dense product of the same shape, as a time loop makes them: one
// thread a slice of the batch (CpuWeight::multiply_rows), sums that go on from y, rows of y a cache line
// apart. Whole layers, frames, other libraries and everything that is reported as a speed-up: `coppice
// bench`.
//   bench_sparse --hidden 1024 --batch 1,32 --sparsity 0.8,0.9,0.95
// One thread is timed by its CPU time, more by the wall clock; every figure is the median of the turns that
// all contestants and a peak loop take. Beside each ratio: the share of the FMA peak that the nonzeros alone
// make up. Masks are uniform, of the shape that each layout asks for. COPPICE_ISA chooses the instruction
// set.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/bench/fma_peak.hpp"
#include "engine/bench/yardstick.hpp"
#include "engine/model/row_stride.hpp"
#include "kernels/backend.hpp"
#include "kernels/cpu/cpu_weight.hpp"

namespace coppice::bench {
namespace {

struct Options {
  std::vector<int64_t> hidden = {1024}, batch = {1, 32};
  std::vector<double> sparsity = {0.8, 0.9, 0.95};
  std::vector<std::string> layouts;
  int threads = 1;
  int turns = 15;
};

struct Case {
  int64_t hidden, batch;
  double sparsity;
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

class Memory {
 public:
  explicit Memory(int threads) : backend(open_backend("cpu", BackendOptions{threads})) {}
  MatrixView<float> matrix(int64_t rows, int64_t cols) {
    buffers_.emplace_back(*backend, rows * cols * 4, "a benchmark's matrix");
    const MatrixView<float> view = buffers_.back().matrix<float>(rows, cols);
    std::uniform_real_distribution<float> uniform(-0.1f, 0.1f);
    for (int64_t i = 0; i < rows * cols; ++i) view.data[i] = uniform(engine);
    return view;
  }
  /// W [out, in] with zeros at random, or as the layout wants them.
  MatrixView<float> weight(const std::string& layout, int64_t out, int64_t in, double sparsity) {
    const MatrixView<float> w = matrix(out, in);
    if (layout.starts_with("balanced")) {
      const auto kept = static_cast<int64_t>(std::max(1.0, std::round(64 * (1 - sparsity))));
      for (int64_t r = 0; r < out; ++r) {
        for (int64_t c = 0; c < in; c += 64) {
          std::vector<int64_t> columns(static_cast<size_t>(std::min<int64_t>(64, in - c)));
          for (size_t i = 0; i < columns.size(); ++i) columns[i] = c + static_cast<int64_t>(i);
          std::shuffle(columns.begin(), columns.end(), engine);
          for (size_t i = static_cast<size_t>(kept); i < columns.size(); ++i) w.row(r)[columns[i]] = 0;
        }
      }
      return w;
    }
    const int64_t height = layout.starts_with("bsr") ? std::stoll(layout.substr(3)) : 1;
    std::bernoulli_distribution cut(sparsity);
    for (int64_t r = 0; r < out; r += height) {
      for (int64_t c = 0; c < in; ++c) {
        if (!cut(engine)) continue;
        for (int64_t i = r; i < std::min(out, r + height); ++i) w.row(i)[c] = 0;
      }
    }
    return w;
  }

  std::unique_ptr<Backend> backend;
  std::mt19937_64 engine{1};

 private:
  std::vector<Buffer> buffers_;
};

struct Contestant {
  std::string name;
  double operations;  // of the nonzeros
  std::function<void()> run;
  std::vector<double> seconds{};
};

/// The name under which the backend knows a layout: "bsr16" is "bsr" over blocks of 16 rows.
std::string layout_name(const std::string& contestant) {
  return contestant.starts_with("bsr") ? "bsr" : contestant.substr(0, contestant.find(':'));
}
/// Of "sell:bf16".
DType value_type(const std::string& contestant) {
  return contestant.ends_with(":bf16") ? DType::bf16 : DType::f32;
}

/// One matrix W [4H, H]: y += x·Wᵀ as the time loop does it (one thread), or shared among threads.
Contestant product(Memory& memory, const Case& c, const std::string& name, int threads) {
  const int64_t in = c.hidden, out = 4 * c.hidden;
  const MatrixView<float> w = memory.weight(name, out, in, c.sparsity);
  std::shared_ptr<Weight> weight = memory.backend->make_weight(layout_name(name), w, value_type(name));
  const MatrixView<float> x = memory.matrix(c.batch, in);
  const MatrixView<float> y = memory.matrix(c.batch, row_stride(out)).col_slice(0, out);
  const double operations = 2.0 * static_cast<double>(weight->nonzeros() * c.batch);
  if (c.batch == 1 || threads > 1) {
    return {name, operations, [=] { weight->multiply(x, {}, y, true); }};
  }
  auto& rows = dynamic_cast<cpu::CpuWeight&>(*weight);
  rows.prepare_rows(false);
  return {name, operations,
          [weight, &rows, x, y] { rows.multiply_rows(x.data, x.stride, x.rows, y.data, y.stride, true); }};
}

void run(const Options& options, const Case& c) {
  Memory memory(options.threads);
  std::vector<Contestant> contestants;
  std::vector<std::string> names = options.layouts;
  names.insert(names.begin(), "dense");
  for (const std::string& name : names) {
    contestants.push_back(product(memory, c, name, options.threads));
  }
  const auto now = options.threads == 1 ? thread_seconds : wall_seconds;
  std::vector<double> peaks;
  for (int turn = 0; turn < options.turns; ++turn) {
    peaks.push_back(fma_peak(20'000) * options.threads);
    for (Contestant& contestant : contestants) {
      const int repeats = std::max(1, static_cast<int>(4e8 / contestant.operations));
      // What the others left in the caches is not its concern, and an L3 takes several readings to be its
      // own.
      for (int i = 0; i < std::min(repeats, kWarmUpCalls); ++i) contestant.run();
      const double start = now();
      for (int i = 0; i < repeats; ++i) contestant.run();
      contestant.seconds.push_back((now() - start) / repeats);
    }
  }
  const double peak = median(peaks), dense = median(contestants[0].seconds);
  std::printf("H %5ld  B %4ld  %4.1f %%  peak %4.0f GF  dense %9.1f us (%.2f)", c.hidden, c.batch,
              c.sparsity * 100, peak, dense * 1e6, contestants[0].operations / dense * 1e-9 / peak);
  for (size_t i = 1; i < contestants.size(); ++i) {
    const double seconds = median(contestants[i].seconds);
    std::printf("  %s %8.1f us %5.2f x (%.2f)", contestants[i].name.c_str(), seconds * 1e6, dense / seconds,
                contestants[i].operations / seconds * 1e-9 / peak);
  }
  std::printf("\n");
  std::fflush(stdout);
}

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"sparse layouts against the dense product"};
  app.add_option("--hidden", options.hidden)->delimiter(',');
  app.add_option("--batch", options.batch)->delimiter(',');
  app.add_option("--sparsity", options.sparsity)->delimiter(',');
  app.add_option("--layout", options.layouts, "csr, sell, balanced, bsr16, bsr8, bsr4; sell:bf16 and so on")
      ->delimiter(',');
  app.add_option("--threads", options.threads);
  app.add_option("--turns", options.turns);
  CLI11_PARSE(app, argc, argv);
  if (options.layouts.empty()) options.layouts = {"csr", "sell"};
  for (const int64_t hidden : options.hidden) {
    for (const int64_t batch : options.batch) {
      for (const double sparsity : options.sparsity) run(options, {hidden, batch, sparsity});
    }
  }
  return 0;
}

}  // namespace
}  // namespace coppice::bench

int main(int argc, char** argv) {
  return coppice::bench::main(argc, argv);
}
