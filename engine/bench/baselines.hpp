#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engine/bench/child_process.hpp"
#include "engine/bench/problem.hpp"
#include "engine/bench/turns.hpp"

namespace coppice::bench {

// Other libraries, each in a process of its own, so that this program depends on none of them and no two
// pools of threads fight. A manifest (baselines.json) says how they are started:
//   {"baselines": [{"name": "oneDNN", "kind": "dense" | "sparse", "works": ["product", ...],
//                   "values": "bf16", "command": ["path", ...], "environment": ["NAME=value"],
//                   "unset": ["NAME"]}]}
// `values` is fp32 where it isn't there.
// They answer lines with lines (bench/baselines/protocol.hpp and protocol.py):
//   {"problem": {work, cell, batch, steps, rows, cols, threads, recurrent: FILE, input: FILE}}
//     -> {"ready": {"library", "version", "probe": [numbers]}} or {"absent": "why"}
//   {"turn": repeats, "warm_up_calls": N, "warm_up_seconds": S}
//     -> {"seconds": of all repeats, "polluted": bool}
// FILE holds float32 in row-major order. The probe of a product is its first and last element.

struct Baseline {
  std::string name;
  bool sparse = false;
  DType values = DType::f32;  // bf16: it rounds the matrices, and takes part where ours are rounded
  std::vector<std::string> works;
  std::vector<std::string> command, environment, unset;
};

/// Those of a manifest that differ from each other here: one that is there to have variables unset, of which
/// none is set, is another once more, and left out. Throws Error(bad_input) for a file that is no manifest.
std::vector<Baseline> read_baselines(const std::filesystem::path& manifest);

/// A problem as baselines get it: the matrices lie in files.
struct BaselineProblem {
  Work work = Work::product;
  Cell cell = Cell::lstm;
  int64_t batch = 1, steps = 1;
  int64_t rows = 0, cols = 0;  // of W_hh
  std::filesystem::path recurrent, input;
  /// Of a product: what y[0][0] and y[B-1][rows-1] must be, with x[b][c] = ((7·c + 13·b) mod 31 - 15) / 16.
  std::vector<double> probe;
};

/// The probe of a product, in double precision.
std::vector<double> probe_of(const HostMatrix& matrix, int64_t batch);

/// One of them while it runs. What it can't do is told in words, never thrown.
class RunningBaseline {
 public:
  RunningBaseline(Baseline baseline, int64_t threads);

  const std::string& name() const { return baseline_.name; }
  bool sparse() const { return baseline_.sparse; }
  DType values() const { return baseline_.values; }
  bool serves(Work work) const;
  /// Sets the problem up; false where it can't be done, and `why` says why.
  bool prepare(const BaselineProblem& problem, std::string& why);
  const std::string& version() const { return version_; }
  Turn turn();

 private:
  Baseline baseline_;
  int64_t threads_;
  std::unique_ptr<ChildProcess> process_;
  std::string version_, broken_;
};

}  // namespace coppice::bench
