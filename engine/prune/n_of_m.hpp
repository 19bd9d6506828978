#pragma once

#include <cstdint>
#include <vector>

#include "engine/prune/plan.hpp"
#include "engine/prune/select.hpp"
#include "engine/prune/source.hpp"

namespace coppice {

// n:m: of every m consecutive elements of a row, from its first on, the n with the highest scores are kept
// and of equal ones the later. What is cut already counts among those that go. A group needs nothing but
// itself, so the pass that writes selects again what lies in the cache; the one before it only refuses NaN
// and counts.

/// Which of some consecutive elements of a tensor are kept: element `begin` + i is bit (begin + i) % 64 of
/// word (begin + i) / 64 − begin / 64, as in a source's runs.
struct KeptBits {
  std::vector<uint64_t> words;
  uint64_t cut_units = 0;
};

/// Where a stretch of whole groups ends that begins at element `begin` of the tensor and fits a cache.
int64_t end_of_groups(const Plan& plan, const PlanPart& part, int64_t begin);

/// Selects in the elements [begin, end) of the tensor: whole groups.
KeptBits select_groups(ParameterSource& source, const Plan& plan, const PlanPart& part, int64_t begin,
                       int64_t end, ReadingCost* cost);

/// How many elements the pattern cuts of a part. Throws Error(bad_input) where a score is NaN.
uint64_t count_group_cuts(ParameterSource& source, const Plan& plan, const PlanPart& part, ReadingCost& cost);

}  // namespace coppice
