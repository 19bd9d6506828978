#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/config/pattern.hpp"
#include "engine/config/recipe.hpp"
#include "engine/prune/source.hpp"
#include "engine/prune/units.hpp"
#include "kernels/selection.hpp"

namespace coppice {

enum class Scope : uint8_t { global, tensor, gate, row };

/// A tensor, or one gate of it, within a group: the piece that a minimum density protects, and that is cut at
/// one place. Always whole rows, so a contiguous run of elements.
struct PlanPart {
  size_t tensor = 0;  // index in the source's list
  int64_t begin = 0;  // elements
  int64_t count = 0;
  int64_t cols = 0;
  uint64_t units = 0;     // elements, rows, columns, blocks or hidden units
  uint64_t position = 0;  // of the first unit in the total order
  uint64_t at_least = 0;  // units that the minimum density protects
};

/// The units that compete for one threshold. With scope row a group is a tensor, in which every row competes
/// for itself and `cut` counts them all.
struct PlanGroup {
  std::string name;             // "all", a tensor's name, or "tensor:gate"
  std::vector<PlanPart> parts;  // in the total order
  uint64_t units = 0;
  uint64_t cut = 0;  // k: exactly so many are to be cut (not in percentile mode)
};

/// The options of [prune], validated against the tensors of a source. Schedules are outside of it: they make
/// a plan for every step.
struct Plan {
  Scoring scoring;
  Statistic statistic = Statistic::none;
  Pattern pattern = Pattern::element;
  int64_t block_rows = 1,
          block_cols = 1;    // of a block; those at a part's lower and right edge may be smaller
  int64_t keep = 1, of = 1;  // n:m: so many of every so many consecutive elements of a row
  Reduce reduce = Reduce::sum;
  Scope scope = Scope::global;
  UnitWiring wiring;  // pattern unit: its layers are the parts, which have no elements of their own
  std::optional<double> percentile;  // cut where score < percentile(score, p) instead of k units
  double sparsity = 0.0;
  double min_density = 0.0;
  std::vector<PlanGroup> groups;
  std::vector<bool> selected;       // by tensor: takes part
  std::vector<uint64_t> positions;  // by tensor: of its first element in the total order of all elements
};

/// Of `elements` <= m consecutive ones n:m keeps ⌈elements · n / m⌉: n of a full group, and of the group that
/// a row's end cuts short never a smaller share.
int64_t kept_of_group(const Plan& plan, int64_t elements);

/// k of n units at `sparsity`: sparsity · n in float64, rounded half to even.
uint64_t units_to_cut(double sparsity, uint64_t units);

/// Throws Error(bad_input) naming the option, pattern or tensor at fault. `sparsity` >= 0 overrides the
/// recipe's and its percentile.
Plan make_plan(std::span<const SourceTensor> tensors, const PruneConfig& config, uint64_t seed,
               double sparsity = -1.0);

}  // namespace coppice
