// One retraining step of an LSTM with fixed masks, both of its matrices pruned, against our own dense step
// with the same masks, in turns within one process: forward, backward, dX, dW, gradient norm and SGD, and the
// renewal of what the products read. The step's parts are timed apart.
//   bench_sparse_training --hidden 1024 --batch 32 --steps 64 --sparsity 0.8,0.9,0.95
// One thread is timed by its CPU time, more by the wall clock; medians of the turns. --json: one line a
// sparsity.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "engine/bench/fma_peak.hpp"
#include "kernels/backend.hpp"

namespace coppice::bench {
namespace {

constexpr std::array<const char*, 5> kParts = {"forward", "backward", "dx", "dw", "update"};

struct Options {
  std::vector<double> sparsity = {0.8, 0.9, 0.95};
  std::string layout = "auto";
  int64_t hidden = 1024, batch = 32, steps = 64;
  int threads = 1, turns = 7;
  bool json = false;
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// What every contestant reads and nobody changes, and what each of them overwrites before it reads it.
struct Activations {
  Activations(Backend& backend, const Options& options)
      : backend_(backend), H(options.hidden), B(options.batch), T(options.steps) {
    x = matrix(T * B, H), d_output = matrix(T * B, H), gates = matrix(T * B, 4 * H);
    hidden = matrix((T + 1) * B, H), cells = matrix((T + 1) * B, H), dx = matrix(T * B, H);
    bias = matrix(1, 4 * H);
    for (MatrixView<float>* view : {&x, &d_output, &bias}) fill(*view, 0.1f);
    backend.fill_zero(hidden.data, hidden.rows * H * 4);
    backend.fill_zero(cells.data, cells.rows * H * 4);
  }
  MatrixView<float> matrix(int64_t rows, int64_t cols) {
    buffers_.emplace_back(backend_, rows * cols * 4, "a benchmark's matrix");
    return buffers_.back().matrix<float>(rows, cols);
  }
  void fill(MatrixView<float> view, float range) {
    std::uniform_real_distribution<float> uniform(-range, range);
    for (int64_t i = 0; i < view.rows * view.cols; ++i) view.data[i] = uniform(random_);
  }

  Backend& backend_;
  int64_t H, B, T;
  MatrixView<float> x, d_output, gates, hidden, cells, dx, bias;

 private:
  std::mt19937_64 random_{1};
  std::vector<Buffer> buffers_;
};

/// W_ih and W_hh, [4H, H] each, in one array, as the store of a model has them.
class Step {
 public:
  Step(Activations& a, double sparsity, const std::string& layout, const Options& options)
      : a_(a), now_(options.threads == 1 ? thread_seconds : wall_seconds) {
    values_ = a.matrix(8 * a.H, a.H);
    gradients_ = a.matrix(8 * a.H, a.H);
    a.fill(values_, 0.05f);
    const int64_t count = 8 * a.H * a.H;
    mask_ = Buffer(a.backend_, (count + 63) / 64 * 8, "mask");
    norm_ = Buffer(a.backend_, 8, "norm");
    const VectorView<uint64_t> mask = mask_.vector<uint64_t>((count + 63) / 64);
    std::fill(mask.data, mask.data + mask.size, 0);
    std::mt19937_64 random(2);
    std::bernoulli_distribution cut(sparsity);
    for (int64_t i = 0; i < count; ++i) {
      if (cut(random)) {
        values_.data[i] = 0.0f;
      } else {
        mask.data[i / 64] |= uint64_t{1} << (i % 64);
      }
    }
    input_ = a.backend_.make_weight(layout, values_.row_slice(0, 4 * a.H));
    recurrent_ = a.backend_.make_weight(layout, values_.row_slice(4 * a.H, 4 * a.H));
  }

  double nonzeros() const { return static_cast<double>(input_->nonzeros() + recurrent_->nonzeros()); }

  void run() {
    Backend& backend = a_.backend_;
    const int64_t rows = a_.T * a_.B, H = a_.H;
    std::array<double, kParts.size() + 1> at{};
    size_t part = 0;
    at[0] = now_();

    input_->multiply(a_.x, {a_.bias.data, 4 * H, a_.bias.device}, a_.gates);
    const auto forward = sequence<RecurrenceForward>();
    backend.recurrence().forward(forward);
    at[++part] = now_();

    auto backward = sequence<RecurrenceBackward>();
    backward.d_output = a_.d_output;
    backward.d_gates = a_.gates;
    backend.recurrence().backward(backward);
    at[++part] = now_();

    input_->multiply_transposed(a_.gates, a_.dx);
    at[++part] = now_();

    backend.fill_zero(gradients_.data, 8 * H * H * 4);
    input_->accumulate_gradient(a_.gates, a_.x, gradients_.row_slice(0, 4 * H));
    recurrent_->accumulate_gradient(a_.gates, a_.hidden.row_slice(0, rows),
                                    gradients_.row_slice(4 * H, 4 * H));
    at[++part] = now_();

    const int64_t count = 8 * H * H;
    const VectorView<const uint64_t> mask = mask_.vector<const uint64_t>((count + 63) / 64);
    const VectorView<float> gradients{gradients_.data, count, gradients_.device};
    backend.optimizer().gradient_norm(gradients, mask, norm_.vector<double>(1));
    backend.optimizer().update({.rate = 1e-6f}, 5.0f, norm_.vector<double>(1),
                               {values_.data, count, values_.device}, gradients, mask, {}, {});
    input_->refresh(values_.row_slice(0, 4 * H));
    recurrent_->refresh(values_.row_slice(4 * H, 4 * H));
    at[++part] = now_();

    for (size_t i = 0; i < kParts.size(); ++i) seconds_[i].push_back(at[i + 1] - at[i]);
    total_.push_back(at.back() - at.front());
  }
  void forget() {
    for (auto& list : seconds_) list.clear();
    total_.clear();
  }
  double total() const { return median(total_); }
  double part(size_t i) const { return median(seconds_[i]); }

 private:
  /// What both directions in time are told.
  template <class Sequence>
  Sequence sequence() const {
    Sequence s;
    s.cell = Cell::lstm;
    s.steps = a_.T, s.batch = a_.B, s.hidden = a_.H;
    s.recurrent = recurrent_.get();
    s.gates = a_.gates;
    s.hidden_states = a_.hidden;
    s.cell_states = a_.cells;
    return s;
  }

  Activations& a_;
  double (*now_)();
  MatrixView<float> values_, gradients_;
  Buffer mask_, norm_;
  std::unique_ptr<Weight> input_, recurrent_;
  std::array<std::vector<double>, kParts.size()> seconds_;
  std::vector<double> total_;
};

void report(const Options& options, double sparsity, const Step& step, const Step& dense, double peak) {
  // Multiply-adds of the nonzeros: forward, backward, dX, dW, in each of T·B rows.
  const double rows = static_cast<double>(options.steps * options.batch);
  const std::array<double, kParts.size()> products = {1.0, 0.5, 0.5, 1.0, 0.0};
  nlohmann::json line = {
      {"hidden", options.hidden},   {"batch", options.batch},   {"steps", options.steps},
      {"threads", options.threads}, {"sparsity", sparsity},     {"layout", options.layout},
      {"dense_s", dense.total()},   {"sparse_s", step.total()}, {"ratio", dense.total() / step.total()},
      {"peak_gflops", peak}};
  if (!options.json) {
    std::printf("%4.1f %%  %8.1f ms  %5.2f x  ", sparsity * 100, step.total() * 1e3,
                dense.total() / step.total());
  }
  for (size_t i = 0; i < kParts.size(); ++i) {
    const double share = 2.0 * products[i] * rows * step.nonzeros() / step.part(i) * 1e-9 / peak;
    line["parts_s"][kParts[i]] = step.part(i);
    if (!options.json) {
      std::printf("  %s %7.2f ms %5.2f x", kParts[i], step.part(i) * 1e3, dense.part(i) / step.part(i));
      if (products[i] > 0) std::printf(" (%.2f)", share);
    }
  }
  std::printf("%s\n", options.json ? line.dump().c_str() : "");
  std::fflush(stdout);
}

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"a retraining step with fixed masks, sparse against dense"};
  app.add_option("--hidden", options.hidden);
  app.add_option("--batch", options.batch);
  app.add_option("--steps", options.steps);
  app.add_option("--sparsity", options.sparsity)->delimiter(',');
  app.add_option("--layout", options.layout);
  app.add_option("--threads", options.threads);
  app.add_option("--turns", options.turns);
  app.add_flag("--json", options.json);
  CLI11_PARSE(app, argc, argv);
  const std::unique_ptr<Backend> backend = open_backend("cpu", BackendOptions{options.threads});
  options.layout = backend->layout_of(options.layout);
  Activations activations(*backend, options);
  std::vector<std::unique_ptr<Step>> steps;
  steps.push_back(std::make_unique<Step>(activations, 0.9, "dense", options));
  for (const double sparsity : options.sparsity) {
    steps.push_back(std::make_unique<Step>(activations, sparsity, options.layout, options));
  }
  std::vector<double> peaks;
  for (int turn = -1; turn < options.turns; ++turn) {
    if (turn == 0) {
      for (auto& step : steps) step->forget();
    }
    for (auto& step : steps) {
      peaks.push_back(fma_peak(20'000) * options.threads);
      step->run();
    }
  }
  const double peak = median(peaks);
  if (!options.json) {
    std::printf(
        "LSTM H %ld, B %ld, T %ld, %d threads, peak %.0f GF, layout %s; share of the peak in brackets\n",
        options.hidden, options.batch, options.steps, options.threads, peak, options.layout.c_str());
    std::printf("dense + mask, ");
  }
  if (!options.json) report(options, 0.0, *steps[0], *steps[0], peak);
  for (size_t i = 0; i < options.sparsity.size(); ++i) {
    report(options, options.sparsity[i], *steps[i + 1], *steps[0], peak);
  }
  return 0;
}

}  // namespace
}  // namespace coppice::bench

int main(int argc, char** argv) {
  return coppice::bench::main(argc, argv);
}
