#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/config/recipe.hpp"
#include "engine/prune/source.hpp"
#include "engine/prune/units.hpp"

namespace coppice {

/// One selection group of the plan: the units of one scope that compete for the same threshold.
struct GroupOutcome {
  std::string name;    // "all", a tensor's name, or "tensor:gate"
  uint64_t units = 0;  // elements, rows, columns, blocks or hidden units
  uint64_t cut = 0;
  double threshold =
      0.0;  // score of the last unit cut under the total order (or the percentile); NaN: none cut
  std::string threshold_text;  // as a decimal, or m·2^e where float64 can't hold it (products)
};

/// What happened to one tensor.
struct TensorOutcome {
  std::string name;
  std::vector<int64_t> shape;
  bool pruned = false;  // took part
  uint64_t size = 0;
  uint64_t kept = 0;  // nonzero mask bits
  std::vector<std::string> gate_names;
  std::vector<uint64_t> gate_size;
  std::vector<uint64_t> gate_kept;
};

/// Hidden units of a recurrent layer in one direction.
struct LayerOutcome {
  std::string name;  // of its weight_hh
  uint64_t hidden = 0;
  std::vector<uint64_t> kept;  // their numbers
};

struct PruneOutcome {
  std::vector<GroupOutcome> groups;
  std::vector<TensorOutcome> tensors;
  std::vector<LayerOutcome> layers;  // pattern unit alone
  UnitWiring wiring;                 // likewise: where those lie in `tensors`
  uint64_t total = 0;                // elements of all tensors
  uint64_t prunable = 0;             // elements that took part
  uint64_t kept = 0;                 // of those
  uint64_t passes = 0;               // times that the weights were read
  uint64_t bracket_misses = 0;
};

/// Scores, selects, cuts and writes the masks of `source` by DESIGN's rules: exact, and the same bits for any
/// backend, thread count and block size. `seed` serves the random criterion. `sparsity` overrides the
/// recipe's (a gradual schedule passes its own; negative: the recipe's). Errors name the tensor, pattern or
/// option.
PruneOutcome prune(ParameterSource& source, const PruneConfig& config, uint64_t seed, double sparsity = -1.0);

}  // namespace coppice
