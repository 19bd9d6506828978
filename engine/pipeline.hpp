#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "engine/config/recipe.hpp"
#include "engine/report/run_report.hpp"
#include "engine/sparse/layout_cache.hpp"
#include "engine/train/progress.hpp"
#include "kernels/backend.hpp"

namespace coppice {

// The stages in order: what the verbs do that train. Those that don't are in engine/verbs.hpp. None prints or
// exits.
//
// A run's folder can be taken up again after kill -9 at any moment: its one truth is
// checkpoint/state.safetensors, which is replaced in one rename and names the stage to go on with; every
// other file is complete when that says so.

/// What callers of every verb may say beside the recipe.
struct RunOptions {
  bool force = false;  // replace an existing output
  ProgressListener* listener = nullptr;
  const StopToken* stop = nullptr;        // set: save a checkpoint, then throw Error(interrupted)
  const LayoutCache* measured = nullptr;  // what the sparse layout "auto" goes by; null: nothing is known
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

}  // namespace coppice
