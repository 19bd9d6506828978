#include <omp.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <ctime>
#include <memory>
#include <random>

#include "bench/sampling.hpp"
#include "engine/prune/prune.hpp"
#include "engine/prune/source.hpp"
#include "kernels/backend.hpp"

// Score, select and mask over float32 tensors held in memory, cut in place, against one streaming read of the
// same weights and gradients. Alone it prints a line for the read, one for the selection, and their ratio;
// with
// --interleave it takes turns with another program that does the same work.

namespace {

using namespace coppice;

double now(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// Normal values from a table: as much entropy as selection can tell apart, and fast to fill.
void fill_normal(float* data, int64_t count, float scale, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> table(1 << 16);
  for (float& x : table) x = normal(random);
  uint64_t s = seed * 0x9e37'79b9'7f4a'7c15ull + 1;
  for (int64_t i = 0; i < count; ++i) {
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    data[i] = table[s & 0xffff] * (1.0f + static_cast<float>(s >> 44) * 0x1p-22f);
  }
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
  app.add_option("--pattern", config.pattern, "element, row or column");
  app.add_option("--scope", config.scope, "global, tensor or gate");
  app.add_option("--min-density", config.min_density, "share of every tensor that stays");
  app.add_option("--zeros", zeros, "share of the gradients that are exactly zero");
  CLI11_PARSE(app, argc, argv);

  try {
    const std::unique_ptr<Backend> backend = open_backend("cpu", {threads});
    const int64_t rows = 1000, cols = parameters / tensor_count / rows, size = rows * cols;
    struct Arrays {
      Buffer original, weights, gradients, mask;
    };
    std::vector<Arrays> arrays;
    std::vector<MemoryTensor> tensors;
    for (int64_t t = 0; t < tensor_count; ++t) {
      Arrays a{Buffer(*backend, size * 4, "weights"), Buffer(*backend, size * 4, "weights"),
               Buffer(*backend, size * 4, "gradients"), Buffer(*backend, (size + 63) / 64 * 8, "mask")};
      fill_normal(static_cast<float*>(a.original.data()), size, 0.05f, static_cast<uint64_t>(2 * t + 1));
      float* g = static_cast<float*>(a.gradients.data());
      fill_normal(g, size, 1e-3f, static_cast<uint64_t>(2 * t + 2));
      std::mt19937 random(static_cast<uint32_t>(t));
      for (int64_t i = 0; zeros > 0.0 && i < size; ++i) {
        if (static_cast<double>(random()) < zeros * 0x1p32) g[i] = 0.0f;
      }
      MemoryTensor tensor;
      tensor.info = {"tensor" + std::to_string(t), {rows, cols}, DType::f32, 1, "", true};
      tensor.weights = tensor.output = a.weights.data();
      tensor.sum = tensor.absolute = tensor.squared = a.gradients.data();
      tensor.mask = static_cast<uint64_t*>(a.mask.data());
      tensors.push_back(tensor);
      arrays.push_back(std::move(a));
    }
    MemorySource source(*backend, tensors);
    const auto restore = [&] {
      for (const Arrays& a : arrays) backend->copy(a.original.data(), a.weights.data(), size * 4);
    };
    PruneOutcome outcome;
    const auto select = [&] { outcome = prune(source, config, 1); };
    volatile float sink = 0.0f;
    const auto read = [&] {
      for (const Arrays& a : arrays) {
        sink = read_once(static_cast<const float*>(a.weights.data()), size, threads);
        sink = read_once(static_cast<const float*>(a.gradients.data()), size, threads);
      }
    };

    nlohmann::json facts = {{"work", "selection"},           {"threads", threads},
                            {"units", size * tensor_count},  {"sparsity", config.sparsity},
                            {"criterion", config.criterion}, {"detail", backend->info().detail}};
    if (sampling.interleave) {
      return bench::run_samples(sampling, facts, static_cast<double>(size * tensor_count), select, restore);
    }
    // Turn by turn in one process. Thread CPU time for one thread: other jobs then cost nothing; wall time
    // for more.
    const clockid_t clock = threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
    std::vector<double> reads, selections;
    for (int i = 0; i < sampling.warmup + sampling.samples; ++i) {
      restore();
      double start = now(clock);
      read();
      const double read_seconds = now(clock) - start;
      start = now(clock);
      select();
      const double select_seconds = now(clock) - start;
      if (i < sampling.warmup) continue;
      reads.push_back(read_seconds);
      selections.push_back(select_seconds);
    }
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    facts["read_median_s"] = median(reads);
    facts["select_median_s"] = median(selections);
    facts["read_min_s"] = *std::min_element(reads.begin(), reads.end());
    facts["select_min_s"] = *std::min_element(selections.begin(), selections.end());
    facts["ratio"] = median(selections) / median(reads);
    facts["kept"] = outcome.kept;
    facts["passes"] = outcome.passes;
    facts["bracket_misses"] = outcome.bracket_misses;
    facts["arrays_mib"] = size * tensor_count * 12 / (1 << 20);
    facts["peak_rss_mib"] = usage.ru_maxrss / 1024;
    std::cout << facts.dump() << std::endl;
  } catch (const std::exception& error) {
    std::cerr << "bench_selection: " << error.what() << "\n";
    return 1;
  }
}
