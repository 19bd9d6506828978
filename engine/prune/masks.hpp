#pragma once

#include <cstdint>
#include <vector>

#include "engine/prune/block_scores.hpp"
#include "engine/prune/plan.hpp"
#include "engine/prune/row_select.hpp"
#include "engine/prune/source.hpp"
#include "kernels/selection.hpp"

namespace coppice {

/// Where one part of a group is cut: at a place in the total order of elements or blocks, at a place of its
/// own in every row, by unit, or (n:m) as each group says.
struct PartCut {
  Place place{};                     // elements; blocks, with `blocks`
  std::vector<RowPlace> rows;        // elements, scope row
  std::vector<uint64_t> kept_units;  // rows, columns, blocks: ⌈units/64⌉ words of bits, 1 = keep
  BlockScores* blocks = nullptr;     // of the group, whose part this is by `part`
  size_t part = 0;
};

/// What was cut of a part: elements, and of elements or blocks that lie below a place how many.
struct PartWritten {
  uint64_t elements = 0;
  uint64_t units = 0;
};

/// Writes +0 and mask bits where `cut` says so and where the source's weights are cut already. Adds to
/// `cut_by_gate` ([tensor.gates]) how many elements of each gate are cut now.
PartWritten write_part(ParameterSource& source, const Plan& plan, const PlanPart& part, const PartCut& cut,
                       std::vector<uint64_t>& cut_by_gate);

}  // namespace coppice
