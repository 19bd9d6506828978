#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/prune/block_scores.hpp"
#include "engine/prune/plan.hpp"
#include "engine/prune/row_select.hpp"
#include "engine/prune/source.hpp"
#include "kernels/selection.hpp"

namespace coppice {

/// Calls visit(gate, begin, end) for the pieces of [begin, end) that lie in one gate each.
template <class Visit>
void for_gates(const SourceTensor& tensor, int64_t begin, int64_t end, Visit visit) {
  const int64_t gate_size = tensor.size() / tensor.gates;
  for (int64_t gate = 0; gate < tensor.gates; ++gate) {
    const int64_t from = std::max(begin, gate * gate_size), to = std::min(end, (gate + 1) * gate_size);
    if (from < to) visit(static_cast<size_t>(gate), from, to);
  }
}

/// Where one part of a group is cut: at a place in the total order of elements or blocks, at a place of its
/// own in every row, by unit, or (n:m) as each group says.
struct PartCut {
  Place place{};                     // elements; blocks, with `blocks`
  const uint64_t* marks = nullptr;   // elements: the bits of what is kept, where the search left them
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
