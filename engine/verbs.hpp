#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "engine/config/recipe.hpp"
#include "engine/data/batch.hpp"
#include "engine/files/weight_output.hpp"
#include "engine/pipeline.hpp"
#include "engine/prune/prune_file.hpp"
#include "engine/report/run_report.hpp"

namespace coppice {

// What the verbs of the program do that don't train: from file to file, each for itself. None prints or
// exits.

/// Σg, Σ|g|, Σg² of a model over the recipe's training data, into a safetensors file. Returns the batches.
int64_t gradients_of(const std::filesystem::path& model, const Recipe& recipe,
                     const std::filesystem::path& output, const RunOptions& options = {});

/// Cuts a model's folder, or weights of any kind (safetensors, sharded, npz), by `config`; what is read
/// beside them and how stands in engine/prune/prune_file.hpp. A model gives a model, with masks.safetensors
/// and report.json inside; a file gives a safetensors file with zeros, and `output`.masks.safetensors and
/// `output`.report.json beside it; a sharded checkpoint gives a folder of the same shards.
PruneReport prune_model(const std::filesystem::path& weights, PruneFiles files, const PruneConfig& config,
                        uint64_t seed, const std::filesystem::path& output, const std::string& device,
                        int64_t threads, const RunOptions& options = {});

/// Writes a model's folder or a file of weights plain or in the sparse encoding, every bit kept.
ConvertReport convert_model(const std::filesystem::path& input, Encoding encoding,
                            const std::filesystem::path& output, const RunOptions& options = {});

/// Throws Error(bad_input) that says what differs, unless data fit the model in `path`.
void check_same_shape(const DataShape& model, const DataShape& data, const std::filesystem::path& path);

/// `config` for a model of ours: who reads its last recurrent layer.
PruneConfig with_decoder(PruneConfig config);

struct EvaluateOptions {
  std::filesystem::path data;  // a file; empty: the held-out split of `recipe`
  bool sparse = false;         // run in `layout`, each matrix where that takes less memory than dense
  std::string layout = "auto";
  std::string values = "fp32";  // or "bf16": the matrices rounded; of a sparse run
  int64_t batch_size = 0;       // 0: as the model was trained
  int64_t steps = 0;
  std::string device = "auto";
  int64_t threads = 0;
};

/// A model on held-out data, and how it is read: metric, unit.
struct EvaluateReport {
  ModelMetrics metrics;
  std::string metric;
  std::string unit;
  uint64_t weight_bytes = 0;                   // recurrent and dense matrices as they execute
  std::map<std::string, std::string> layouts;  // of each of them
};
EvaluateReport evaluate_model(const std::filesystem::path& model, const EvaluateOptions& evaluate,
                              const RunOptions& options = {});

}  // namespace coppice
