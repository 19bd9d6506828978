#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "engine/config/recipe.hpp"
#include "engine/data/batch.hpp"
#include "engine/files/weight_output.hpp"
#include "engine/prune/prune_file.hpp"
#include "engine/report/run_report.hpp"
#include "engine/train/progress.hpp"
#include "kernels/backend.hpp"

namespace coppice {

// The stages in order, file to file. Each function is what one verb of the program does; none prints or
// exits.
//
// A run's folder can be taken up again after kill -9 at any moment: its one truth is
// checkpoint/state.safetensors, which is replaced in one rename and names the stage to go on with; every
// other file is complete when that says so.

/// What callers of every verb may say beside the recipe.
struct RunOptions {
  bool force = false;  // replace an existing output
  ProgressListener* listener = nullptr;
  const StopToken* stop = nullptr;  // set: save a checkpoint, then throw Error(interrupted)
};

/// How the recipe's device is to be opened.
BackendOptions backend_options(const Recipe& recipe);

/// data → train dense (or load weights) → evaluate → gradients → prune → evaluate → retrain with the masks
/// held → evaluate → run sparse, check it against the masked model, evaluate → the dense model trained on for
/// as many steps (where the recipe wants it) → report. Writes the run's folder: recipe.toml (resolved),
/// dense/, retrained/, sparse/ (models), masks.safetensors, metrics.jsonl, checkpoint/, report.json,
/// report.html.
RunReport run_recipe(const Recipe& recipe, const std::filesystem::path& folder,
                     const RunOptions& options = {});

/// Goes on with an interrupted or killed run (of any verb that trains), bit-identically for the same thread
/// count. A complete run gives its report again.
RunReport resume_run(const std::filesystem::path& folder, const RunOptions& options = {});

/// The first stage alone: a model folder at `output`. While it trains, its checkpoint lies in
/// `output` + ".run", a folder for resume_run.
RunReport train_model(const Recipe& recipe, const std::filesystem::path& output,
                      const RunOptions& options = {});

/// Trains an existing model on by the recipe's [retrain], its masks held: those of masks.safetensors in its
/// folder, else the zeros of its prunable tensors. The checkpoint lies in `output` + ".run".
RunReport retrain_model(const std::filesystem::path& model, const Recipe& recipe,
                        const std::filesystem::path& output, const RunOptions& options = {});

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

struct EvaluateOptions {
  std::filesystem::path data;  // a file; empty: the held-out split of `recipe`
  bool sparse = false;         // run in `layout`, each matrix where that takes less memory than dense
  std::string layout = "auto";
  int64_t batch_size = 0;  // 0: as the model was trained
  int64_t steps = 0;
  std::string device = "auto";
  int64_t threads = 0;
};

/// A model on held-out data, and how it is read: metric, unit.
struct EvaluateReport {
  ModelMetrics metrics;
  std::string metric;
  std::string unit;
  uint64_t weight_bytes = 0;  // recurrent and dense matrices as they execute
};
EvaluateReport evaluate_model(const std::filesystem::path& model, const EvaluateOptions& evaluate,
                              const RunOptions& options = {});

}  // namespace coppice
