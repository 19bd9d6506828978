#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/bench/turns.hpp"

namespace coppice::bench {

inline constexpr int kBenchSchema = 1;

/// One that took turns in a cell of the table.
struct Entry {
  std::string name;         // "dense", "sell", "bsr 16x1", "oneDNN"
  std::string version;      // of the library that it belongs to
  std::string family;       // "dense", "unstructured", "blocks", "balanced"
  std::string layout;       // ours: as the backend knows it; else empty
  bool dense_bits = false;  // ours: gives the bits of the dense product
  double density = 1.0;     // of the matrices that it was given
  int64_t bytes = 0;        // that a call reads of them; 0: not known
  Timing timing;
  double share = 0.0;  // of the ceiling: the least time that the machine needs, over the one that it took

  friend bool operator==(const Entry&, const Entry&) = default;
};

/// A matrix (or cell) at one batch and sparsity, with all that took turns there.
struct TableCell {
  std::string name;            // of the matrix, or of the cell: "lstm 1024"
  int64_t rows = 0, cols = 0;  // of W_hh, or of the matrix
  int64_t batch = 1;
  double sparsity = 0.0;  // asked for, or found
  double gflops = 0.0;    // the machine's peak while the turns were taken
  double read_gbs = 0.0;  // read bandwidth of a block as large as the dense matrices
  std::vector<Entry> entries;

  friend bool operator==(const TableCell&, const TableCell&) = default;
};

/// What a benchmark found: bench.json.
struct BenchResult {
  std::string subject;  // "grid", or a model's folder
  std::string work, cell;
  std::string values = "fp32";  // of our weights: or "bf16"
  int64_t steps = 1;
  std::string device, processor, detail, system;
  int64_t threads = 0;
  std::string date;  // UTC
  double seconds = 0.0;
  std::map<std::string, std::string> versions;  // "coppice", "compiler", libraries
  std::vector<std::string> notes;               // baselines that are absent, and why
  std::vector<TableCell> cells;

  friend bool operator==(const BenchResult&, const BenchResult&) = default;
};

/// The fastest dense one of a cell, or null where none is there.
const Entry* best_dense(const TableCell& cell);
/// The fastest of ours in a family, or null. `family` empty: of all but dense.
const Entry* best_sparse(const TableCell& cell, std::string_view family);

enum class Verdict { pays, loses, too_noisy };
/// A sparse entry against a dense one.
struct Comparison {
  double ratio = 0.0;  // dense / sparse: above 1 sparse pays
  Verdict verdict = Verdict::loses;
};
/// Too noisy to tell: one of them is noisy, and 1 lies between the quartiles' ratios.
Comparison compare(const Entry& dense, const Entry& sparse);

/// The lowest sparsity from which on sparse pays, interpolated in the logarithm of the ratio between the last
/// that loses and the next. Points are (sparsity, ratio), in any order.
struct BreakEven {
  std::optional<double> sparsity;  // empty: it pays nowhere
  bool at_most = false;            // it pays at the lowest one measured: at or below `sparsity`
};
BreakEven break_even(std::vector<std::pair<double, double>> points);

/// The crossover of each (name, batch, family) that occurs, in order.
struct Crossover {
  std::string name;
  int64_t batch = 1;
  std::string family;
  BreakEven from;
};
std::vector<Crossover> crossovers(const BenchResult& result);

/// The families that occur in a result, in a fixed order, "dense" left out.
std::vector<std::string> families(const BenchResult& result);

std::string bench_json(const BenchResult& result);
/// Throws Error(bad_input) that starts with `what` where it isn't what bench_json writes.
BenchResult parse_bench(std::string_view text, const std::string& what);

}  // namespace coppice::bench
