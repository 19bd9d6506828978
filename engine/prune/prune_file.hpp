#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/config/recipe.hpp"
#include "engine/files/atomic_write.hpp"
#include "engine/prune/file_source.hpp"
#include "engine/prune/prune.hpp"
#include "engine/train/progress.hpp"
#include "kernels/backend.hpp"

namespace coppice {

/// The criterion that weighs by `PruneFiles::activations`; beside those of kernels/criteria.hpp.
inline constexpr std::string_view kWanda = "wanda";

/// What pruning weights on disk reads beside them, and how.
struct PruneFiles {
  std::vector<std::filesystem::path> gradients;        // added up: engine/prune/file_source.hpp
  std::filesystem::path activations;                   // norms of inputs, for the criterion "wanda"
  std::filesystem::path masks;                         // made earlier: their zeros stay
  bool masks_only = false;                             // cut by them alone, score nothing
  std::vector<std::string> keep_diagonal;              // patterns of matrices whose diagonal is never cut
  std::vector<std::pair<std::string, int64_t>> gates;  // pattern, how many: rows in blocks of equal height
  bool remove_units = false;                           // pattern unit: smaller tensors instead of zeros
  bool sparse_encoding = false;                        // write that, instead of plain files
  bool dry_run = false;                                // write nothing
  int64_t memory = 0;  // bytes that buffers and logs may take; 0: some hundred MiB at most
  ProgressListener* listener = nullptr;
  const StopToken* stop = nullptr;  // set: Error(interrupted), and nothing is left behind
};

/// A tensor that was carried over as it was, and why in a word.
struct CarriedTensor {
  std::string name;
  std::string reason;
};

/// What pruning weights on disk did.
struct PruneReport {
  PruneOutcome outcome;
  uint64_t bytes_before = 0;  // weight files
  uint64_t bytes_after = 0;   // likewise; of a dry run what it would write
  uint64_t sparse_bytes = 0;  // tensors in the sparse encoding, at most
  std::string weights, output;
  std::string criterion, formula, scope, pattern;
  int64_t hidden = -1;  // of every layer, where units were removed
  double sparsity = 0.0;
  double percentile = -1.0;
  uint64_t seed = 0;
  std::vector<CarriedTensor> carried;
  std::vector<std::vector<std::string>> tied;  // names of the same weights, pruned once
};

/// Cuts weights (safetensors, sharded, npz) that need not belong to a model known here, whatever their size:
/// blocks are streamed through a few buffers, two reads and one write as a rule. Where they have recurrent
/// matrices in PyTorch's names only these take part, else what default_tensors.hpp leaves; the recipe's
/// patterns narrow or widen that. Every kept bit stays as it was; cut is +0.
///
/// A file gives the safetensors file `output`, and beside it `output`.masks.safetensors and
/// `output`.report.json. A sharded checkpoint gives a folder with the same shards and index,
/// masks.safetensors and report.json, unless `output` is named like a file.
///
/// Where hidden units are removed the output is one file of smaller tensors, and there are no masks.
PruneReport prune_file(const std::filesystem::path& weights, const PruneFiles& files,
                       const PruneConfig& config, uint64_t seed, const std::filesystem::path& output,
                       Backend& backend, Existing existing);

/// The same into a folder that exists (an AtomicFolder's): `name` or shards, masks.safetensors, report.json.
/// `shown` is the output's name in the report.
PruneReport prune_into_folder(const std::filesystem::path& weights, const PruneFiles& files,
                              const PruneConfig& config, uint64_t seed, const std::filesystem::path& folder,
                              const std::string& name, const std::string& shown, Backend& backend);

/// The core of both, for weights that need not lie on a disk: scores as `scores` say (the files that `files`
/// names are not opened) and cuts into what `open_output` gives, which is told the numbers of the tensors
/// that have masks and is not asked in a dry run. Bytes of the report are those of the tensors.
PruneReport prune_weights(const WeightFile& weights, const ScoreFiles& scores, const PruneFiles& files,
                          const PruneConfig& config, uint64_t seed, Backend& backend,
                          const std::function<CutOutput*(const std::set<size_t>& masked)>& open_output);

}  // namespace coppice
