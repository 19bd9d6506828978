#include <omp.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <ctime>
#include <memory>

#include "bench/array_problem.hpp"
#include "bench/sampling.hpp"
#include "bench/selection_problem.hpp"

// Score, select and mask over float32 tensors held in memory, cut in place, in turns with one streaming read
// of the same weights and gradients and with the cut alone at a known threshold: what nobody can do without.
// Prints a line of JSON; with --interleave it takes turns with another program that does the same work.

namespace {

using namespace coppice;

double now(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// Sums an array the way a streaming read runs fastest: several accumulators, 1 MB chunks.
float read_once(const float* data, int64_t count, int threads) {
  constexpr int64_t kChunk = int64_t{1} << 18;
  double sum = 0.0;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(+ : sum)
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    typedef float Vector __attribute__((vector_size(16), aligned(4), may_alias));
    Vector parts[8] = {};
    const int64_t end = std::min(count, begin + kChunk);
    int64_t i = begin;
    for (; i + 32 <= end; i += 32) {
      for (int v = 0; v < 8; ++v) parts[v] += *reinterpret_cast<const Vector*>(data + i + 4 * v);
    }
    for (; i < end; ++i) sum += data[i];
    for (const Vector& part : parts) {
      for (int lane = 0; lane < 4; ++lane) sum += part[lane];
    }
  }
  return static_cast<float>(sum);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Half precision as a caller's arrays, in turns with the same two.
int run_halves(Backend& backend, const bench::Sampling& sampling, int64_t parameters, int64_t tensors,
               DType dtype, const PruneConfig& config, int threads, nlohmann::json facts) {
  bench::ArrayProblem problem(backend, parameters, tensors, dtype);
  const bool gradients = config.criterion != "magnitude" && config.criterion != "random";
  const clockid_t clock = threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
  volatile float sink = 0.0f;
  std::vector<double> reads, selections, cuts;
  for (int i = 0; i < sampling.warmup + sampling.samples; ++i) {
    problem.restore();
    const double start = now(clock);
    problem.for_arrays(gradients, [&](const void* data, int64_t bytes) {
      sink = read_once(static_cast<const float*>(data), bytes / 4, threads);
    });
    const double middle = now(clock);
    problem.select(config);
    const double end = now(clock);
    problem.restore();
    const double before_cut = now(clock);
    problem.cut(config);
    const double after_cut = now(clock);
    if (i < sampling.warmup) continue;
    reads.push_back(middle - start);
    selections.push_back(end - middle);
    cuts.push_back(after_cut - before_cut);
  }
  facts["dtype"] = to_string(dtype);
  facts["read_median_s"] = median(reads);
  facts["select_median_s"] = median(selections);
  facts["cut_at_known_threshold_median_s"] = median(cuts);
  facts["over_read"] = median(selections) / median(reads);
  facts["over_cut"] = median(selections) / median(cuts);
  facts["passes"] = problem.outcome().passes;
  facts["kept"] = problem.outcome().kept;
  std::cout << facts.dump() << std::endl;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Sampling sampling;
  int threads = 1;
  int64_t parameters = 100'000'000, tensor_count = 10;
  double zeros = 0.0;
  PruneConfig config;
  config.criterion = "taylor";
  CLI::App app{"score, select and mask"};
  app.add_option("--samples", sampling.samples, "timed samples");
  app.add_option("--warmup", sampling.warmup, "samples before them");
  app.add_flag("--interleave", sampling.interleave, "one sample for every line of standard input");
  app.add_option("--threads", threads, "threads");
  app.add_option("--parameters", parameters, "weights");
  app.add_option("--tensors", tensor_count, "tensors that they are spread over");
  app.add_option("--sparsity", config.sparsity, "share to cut");
  app.add_option("--criterion", config.criterion, "score");
  app.add_option("--percentile", config.percentile, "cut below this percentile instead");
  app.add_option("--pattern", config.pattern, "element, row, column, block:RxC or N:M");
  app.add_option("--scope", config.scope, "global, tensor or gate");
  app.add_option("--min-density", config.min_density, "share of every tensor that stays");
  std::string dtype = "f32";
  app.add_option("--dtype", dtype, "f32, or bf16 or f16 as a caller's arrays")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}));
  app.add_option("--zeros", zeros, "share of the gradients that are exactly zero");
  CLI11_PARSE(app, argc, argv);

  try {
    const std::unique_ptr<Backend> backend = open_backend("cpu", {threads});
    if (dtype != "f32") {
      return run_halves(*backend, sampling, parameters, tensor_count,
                        dtype == "f16" ? DType::f16 : DType::bf16, config, threads,
                        {{"work", "selection"}, {"threads", threads}, {"criterion", config.criterion}});
    }
    bench::SelectionProblem problem(*backend, parameters, tensor_count, zeros);
    const auto restore = [&] { problem.restore(); };
    const auto select = [&] { problem.select(config); };
    volatile float sink = 0.0f;
    const auto read = [&] {
      problem.for_tensors([&](const float* weights, const float* gradients, int64_t count) {
        sink = read_once(weights, count, threads);
        sink = read_once(gradients, count, threads);
      });
    };

    nlohmann::json facts = {{"work", "selection"},           {"threads", threads},
                            {"units", problem.parameters()}, {"sparsity", config.sparsity},
                            {"criterion", config.criterion}, {"detail", backend->info().detail}};
    if (sampling.interleave) {
      return bench::run_samples(sampling, facts, static_cast<double>(problem.parameters()), select, restore);
    }
    // Turn by turn in one process. Thread CPU time for one thread: other jobs then cost nothing; wall time
    // for more.
    const clockid_t clock = threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
    std::vector<double> reads, selections, cuts;
    for (int i = 0; i < sampling.warmup + sampling.samples; ++i) {
      const auto time = [&](std::vector<double>& seconds, auto work) {
        const double start = now(clock);
        work();
        if (i >= sampling.warmup) seconds.push_back(now(clock) - start);
      };
      restore();
      time(reads, read);
      time(selections, select);
      restore();
      time(cuts, [&] { problem.cut(); });
    }
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const PruneOutcome& outcome = problem.outcome();
    const auto put = [&](const std::string& name, const std::vector<double>& seconds) {
      facts[name + "_median_s"] = median(seconds);
      facts[name + "_min_s"] = *std::min_element(seconds.begin(), seconds.end());
    };
    put("read", reads);
    put("select", selections);
    put("cut_at_known_threshold", cuts);
    facts["over_read"] = median(selections) / median(reads);
    facts["over_cut"] = median(selections) / median(cuts);
    facts["kept"] = outcome.kept;
    facts["passes"] = outcome.passes;
    facts["bracket_misses"] = outcome.bracket_misses;
    facts["arrays_mib"] = problem.parameters() * 12 / (1 << 20);
    facts["peak_rss_mib"] = usage.ru_maxrss / 1024;
    std::cout << facts.dump() << std::endl;
  } catch (const std::exception& error) {
    std::cerr << "bench_selection: " << error.what() << "\n";
    return 1;
  }
}
