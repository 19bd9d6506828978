#pragma once

#include <cstdint>
#include <filesystem>

#include "engine/config/recipe.hpp"
#include "engine/files/atomic_write.hpp"
#include "engine/prune/prune.hpp"
#include "kernels/backend.hpp"

namespace coppice {

/// What pruning weights on disk did.
struct PruneReport {
  PruneOutcome outcome;
  uint64_t bytes_before = 0;  // weight files
  uint64_t bytes_after = 0;
};

/// Cuts a file of weights (safetensors, sharded, npz) that need not belong to a model known here. Where it
/// has recurrent matrices in PyTorch's names only these take part, else every tensor of two or more
/// dimensions; the recipe's patterns narrow or widen that. Writes `output`, a safetensors file with +0 where
/// cut and every other bit as it was, and `output`.masks.safetensors. `gradients`: a file of Σg, Σ|g|, Σg²
/// under the tensors' names with
/// ".sum", ".absolute", ".squared" behind, or empty where the criterion needs none.
PruneReport prune_file(const std::filesystem::path& weights, const std::filesystem::path& gradients,
                       const PruneConfig& config, uint64_t seed, const std::filesystem::path& output,
                       bool sparse_encoding, Backend& backend, Existing existing);

}  // namespace coppice
