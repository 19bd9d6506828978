#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/prune/blocks.hpp"
#include "engine/prune/marks.hpp"
#include "engine/prune/plan.hpp"
#include "engine/prune/rank_search.hpp"
#include "engine/prune/source.hpp"

namespace coppice {

// Finding the place at which a group is cut, mostly in a single pass: a bracket is drawn from a sample, and
// only what lies inside is looked at closely. Where the rank isn't inside, or too many units are (mass ties),
// the histograms of rank_search.hpp find it.

/// Places of the elements at `ranks` (ascending, at most a few, near each other) in the group's total order.
/// `marks` (or null: not wanted) are complete where a sampled bracket settled it.
std::vector<Place> find_places(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                               std::span<const uint64_t> ranks, const Limits& limits, ReadingCost& cost,
                               Marks* marks = nullptr);

/// Reads a group once only to refuse NaN scores: for a cut that needs no search.
void check_scores(ParameterSource& source, const Plan& plan, const PlanGroup& group, ReadingCost& cost);

/// Scores of the group's rows or columns: [parts][units], finished. Units that are cut already have kept ==
/// 0.
std::vector<std::vector<UnitScore>> score_units(ParameterSource& source, const Plan& plan,
                                                const PlanGroup& group, ReadingCost& cost);

}  // namespace coppice
