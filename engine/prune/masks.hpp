#pragma once

#include <cstdint>
#include <vector>

#include "engine/prune/plan.hpp"
#include "engine/prune/row_select.hpp"
#include "engine/prune/source.hpp"
#include "kernels/selection.hpp"

namespace coppice {

/// Where one part of a group is cut: at a place in the total order of elements, at a place of its own in
/// every row, or by unit.
struct PartCut {
  Place place{};                     // element pattern
  std::vector<RowPlace> rows;        // the same, scope row
  std::vector<uint64_t> kept_units;  // row and column: ⌈units/64⌉ words of bits, 1 = keep
};

/// Writes +0 and mask bits where `cut` says so and where the source's weights are cut already. Adds to
/// `cut_by_gate`
/// ([tensor.gates]) how many elements of each gate are cut now, and returns their sum.
uint64_t write_part(ParameterSource& source, const Plan& plan, const PlanPart& part, const PartCut& cut,
                    std::vector<uint64_t>& cut_by_gate);

}  // namespace coppice
