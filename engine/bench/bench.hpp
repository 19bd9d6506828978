#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/bench/problem.hpp"
#include "engine/bench/result.hpp"
#include "engine/pipeline.hpp"
#include "engine/sparse/layout_cache.hpp"

namespace coppice::bench {

/// What both benchmarks are told.
struct BenchOptions {
  std::vector<int64_t> batch = {1, 32};
  std::vector<std::string> layouts;  // empty, or "all": all of the device's that store `values`
  /// Of our weights: "fp32", or "bf16". Rounded, our dense takes part in float32 as well, for the best dense
  /// may be either; so do the baselines.
  std::string values = "fp32";
  std::string device = "auto";
  int64_t threads = 1;  // of the CPU; 0: all
  int turns = 9;
  /// A manifest of other libraries that take part (engine/bench/baselines.hpp); empty: none.
  std::filesystem::path baselines;
};

/// A cell of recurrent networks over a grid of widths, batches and sparsities; masks at random, of the
/// pattern that each layout is made for.
struct GridOptions : BenchOptions {
  Work work = Work::product;
  std::string cell = "lstm";  // rnn, lstm, gru
  std::vector<int64_t> hidden = {256, 512, 1024};
  std::vector<double> sparsity = {0.5, 0.7, 0.8, 0.9, 0.95};
  int64_t steps = 64;  // of a sequence
};

/// Measures dense, every layout and the baselines side by side, cell by cell. Tells `options.listener` how it
/// goes on and throws Error(interrupted) when `options.stop` is requested.
BenchResult bench_grid(const GridOptions& grid, const RunOptions& options = {});

/// About how long that takes on an idle machine, in seconds. Throws Error(bad_input) for a grid that can't be
/// measured.
double estimated_seconds(const GridOptions& grid);

/// A model's own matrices (a model's folder, or a run's: its sparse, else its retrained model), in every
/// layout that each of them admits.
BenchResult bench_model(const std::filesystem::path& model, const BenchOptions& bench,
                        const RunOptions& options = {});

/// Puts what a model's matrices took into the cache; times that were too noisy are left out, and those of
/// rounded values (a choice among them is a choice of results). Returns how many matrices and batches that
/// were.
int64_t remember(const BenchResult& result, LayoutCache& cache);

}  // namespace coppice::bench
