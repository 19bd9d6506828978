#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/sampling.hpp"
#include "bench/selection_problem.hpp"

// Score, select and mask over float32 tensors on a device, in place, against what its memory allows. The
// yardstick is a copy on the same device in the same run, which reads and writes 8 bytes an element. The
// floor of a selection is taken as 16 bytes a parameter (w and g read; w, once the threshold is known, read
// and written again), that of a cut at a known threshold as 12 (w and g read, w written), that of counting
// as 8. Prints one line of JSON: seconds, and the median divided by the floor. bench/selection_cub.cu does
// the same work by sorting.

namespace {

using namespace coppice;

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
    bench::SelectionProblem problem(*backend, parameters, tensor_count);
    const auto copy = [&] { problem.restore(); };

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
      time(selections, [&] { problem.select(config); });
      time(counts, [&] { problem.count(); });
      copy();
      time(cuts, [&] { problem.cut(); });
    }
    const double elements = static_cast<double>(problem.parameters());
    const PruneOutcome& outcome = problem.outcome();
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
                            {"units", problem.parameters()},
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
