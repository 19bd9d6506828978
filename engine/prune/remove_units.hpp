#pragma once

#include <cstdint>
#include <memory>

#include "engine/files/weight_file.hpp"
#include "engine/prune/prune.hpp"

namespace coppice {

/// A file without the hidden units that a pruning cut: rows and columns of cut units are gone from every
/// tensor that has them, and everything else is as it was. It reads `file`, which must outlive it.
///
/// PyTorch's stacks have one hidden size, so all layers must have been left as many units, and at least one:
/// otherwise Error(bad_input) names two of them.
std::unique_ptr<WeightFile> without_units(const WeightFile& file, const PruneOutcome& outcome);

/// How many units each layer is left with, by the same rule.
int64_t remaining_units(const PruneOutcome& outcome);

}  // namespace coppice
