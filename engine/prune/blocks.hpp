#pragma once

#include <cstdint>
#include <span>

#include "engine/prune/plan.hpp"
#include "engine/prune/source.hpp"

namespace coppice {

// A part of a plan as the kernels see it: block by block.

/// How much reading a selection took.
struct ReadingCost {
  uint64_t elements = 0;        // read, all passes together
  uint64_t bracket_misses = 0;  // searches that a bracket did not settle
};

/// What the kernels are told of a run.
ScoreBlock block_of(const Plan& plan, std::span<const SourceTensor> tensors, size_t tensor,
                    const ParameterSource::Run& run);

/// Throws Error(bad_input) that names the tensor and the index of the first NaN score, if there is one.
void refuse_nan(const BlockCount& found, const Plan& plan, const ParameterSource& source, size_t tensor);

/// Calls visit(block, run) for the runs of a part, in order, to be counted.
template <class Visit>
void for_blocks(ParameterSource& source, const Plan& plan, const PlanPart& part, ReadingCost* cost,
                Visit visit) {
  if (part.count == 0) return;
  const std::span<const SourceTensor> tensors = source.tensors();
  source.read(part.tensor, part.begin, part.count, plan.statistic, false,
              [&](const ParameterSource::Run& run) {
                if (cost != nullptr) cost->elements += static_cast<uint64_t>(run.count);
                visit(block_of(plan, tensors, part.tensor, run), run);
              });
}

}  // namespace coppice
