#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "bench/sampling.hpp"
#include "engine/prune/prune.hpp"
#include "engine/prune/source.hpp"
#include "kernels/backend.hpp"

// Score, select and mask over float32 tensors on a device, in place, against what its memory allows. The
// yardstick is a copy on the same device in the same run, which reads and writes 8 bytes an element. The floor
// of a selection is taken as 16 bytes a parameter (w and g read; w, once the threshold is known, read and
// written again), that of a cut at a known threshold as 12 (w and g read, w written), that of counting as 8.
// Prints one line of JSON: seconds, and the median divided by the floor. bench/selection_cub.cu does the same
// work by sorting.

namespace {

using namespace coppice;

/// Normal values from a table: as much entropy as selection can tell apart, and fast to fill.
std::vector<float> normal_values(int64_t count, float scale, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> table(1 << 16), values(static_cast<size_t>(count));
  for (float& x : table) x = normal(random);
  uint64_t s = seed * 0x9e37'79b9'7f4a'7c15ull + 1;
  for (float& x : values) {
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    x = table[s & 0xffff] * (1.0f + static_cast<float>(s >> 44) * 0x1p-22f);
  }
  return values;
}

struct Arrays {
  Buffer original, weights, gradients, mask;
};

struct Times {
  std::vector<double> seconds;
  double median() {
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  }
  double least() const { return *std::min_element(seconds.begin(), seconds.end()); }
};

}  // namespace

int main(int argc, char** argv) {
  std::string device = "cuda";
  bench::Sampling sampling;
  int64_t parameters = 100'000'000, tensor_count = 10;
  PruneConfig config;
  config.criterion = "taylor";
  CLI::App app{"score, select and mask on a device, against its copy bandwidth"};
  app.add_option("--device", device, "cuda, cuda:1, cpu");
  app.add_option("--samples", sampling.samples, "timed samples");
  app.add_option("--warmup", sampling.warmup, "samples before them");
  app.add_option("--parameters", parameters, "weights");
  app.add_option("--tensors", tensor_count, "tensors that they are spread over");
  app.add_option("--sparsity", config.sparsity, "share to cut");
  app.add_option("--criterion", config.criterion, "score, of the sum of the gradients");
  CLI11_PARSE(app, argc, argv);

  try {
    const std::unique_ptr<Backend> backend = open_backend(device);
    const int64_t rows = 1000, cols = parameters / tensor_count / rows, size = rows * cols, bytes = size * 4;
    std::vector<Arrays> arrays;
    std::vector<MemoryTensor> tensors;
    for (int64_t t = 0; t < tensor_count; ++t) {
      Arrays a{Buffer(*backend, bytes, "weights"), Buffer(*backend, bytes, "weights"),
               Buffer(*backend, bytes, "gradients"), Buffer(*backend, (size + 63) / 64 * 8, "mask")};
      backend->upload(normal_values(size, 0.05f, static_cast<uint64_t>(2 * t + 1)),
                      a.original.vector<float>(size));
      backend->upload(normal_values(size, 1e-3f, static_cast<uint64_t>(2 * t + 2)),
                      a.gradients.vector<float>(size));
      MemoryTensor tensor;
      tensor.info = {"tensor" + std::to_string(t), {rows, cols}, DType::f32, 1, "", true};
      tensor.weights = tensor.output = a.weights.data();
      tensor.sum = tensor.absolute = tensor.squared = a.gradients.data();
      tensor.mask = static_cast<uint64_t*>(a.mask.data());
      tensors.push_back(tensor);
      arrays.push_back(std::move(a));
    }
    MemorySource source(*backend, tensors);
    const auto copy = [&] {
      for (const Arrays& a : arrays) backend->copy(a.original.data(), a.weights.data(), bytes);
    };
    PruneOutcome outcome;
    const auto select = [&] { outcome = prune(source, config, 1); };

    // The passes alone, at the threshold that the selection found.
    Scoring scoring;
    for (Criterion criterion : kCriteria) {
      if (to_string(criterion) == config.criterion) scoring.criterion = criterion;
    }
    const auto for_blocks = [&](auto visit) {
      uint64_t position = 0;
      for (const MemoryTensor& tensor : tensors) {
        ScoreBlock block;
        block.weights = tensor.weights;
        block.statistic = tensor.sum;
        block.count = size;
        block.position = position;
        visit(block, tensor);
        position += static_cast<uint64_t>(size);
      }
    };
    SelectionOps& ops = backend->selection();
    const auto threshold = [&] { return key_of(scoring, outcome.groups.front().threshold); };
    std::vector<Place> none;
    const auto count = [&] {
      for_blocks([&](const ScoreBlock& block, const MemoryTensor&) {
        ops.bracket(scoring, block, threshold(), threshold(), 0, none);
      });
    };
    const auto cut = [&] {
      for_blocks([&](const ScoreBlock& block, const MemoryTensor& tensor) {
        ops.apply(scoring, block, {threshold(), 0}, tensor.output, tensor.mask);
      });
    };

    Times copies, selections, counts, cuts;
    for (int i = 0; i < sampling.warmup + sampling.samples; ++i) {
      const auto time = [&](Times& times, auto work) {
        backend->synchronize();
        const auto start = std::chrono::steady_clock::now();
        work();
        backend->synchronize();
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        if (i >= sampling.warmup) times.seconds.push_back(seconds.count());
      };
      time(copies, copy);
      time(selections, select);
      time(counts, count);
      copy();
      time(cuts, cut);
    }
    const double elements = static_cast<double>(size * tensor_count);
    const double second_a_byte = copies.least() / (8.0 * elements);
    const auto timed = [&](Times& times, double bytes_an_element) {
      const double floor = bytes_an_element * elements * second_a_byte;
      return nlohmann::json{{"median_s", times.median()},
                            {"min_s", times.least()},
                            {"floor_s", floor},
                            {"over_floor", times.median() / floor}};
    };
    nlohmann::json facts = {{"work", "selection"},
                            {"device", backend->info().name},
                            {"detail", backend->info().detail},
                            {"units", size * tensor_count},
                            {"sparsity", config.sparsity},
                            {"criterion", config.criterion},
                            {"kept", outcome.kept},
                            {"passes", outcome.passes},
                            {"bracket_misses", outcome.bracket_misses},
                            {"copy_gb_per_s", 1e-9 / second_a_byte},
                            {"select", timed(selections, 16.0)},
                            {"count_below", timed(counts, 8.0)},
                            {"cut_at_known_threshold", timed(cuts, 12.0)}};
    std::cout << facts.dump() << std::endl;
  } catch (const std::exception& error) {
    std::cerr << "bench_selection_gpu: " << error.what() << "\n";
    return 1;
  }
}
