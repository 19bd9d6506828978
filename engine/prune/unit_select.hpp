#pragma once

#include <cstdint>
#include <vector>

#include "engine/prune/plan.hpp"
#include "engine/prune/select.hpp"
#include "engine/prune/source.hpp"

namespace coppice {

/// Finished scores of the units of all layers of plan.wiring, [layer][unit]. A unit's elements are reduced in
/// float64, tensor after tensor in the byte order of names and in index order within each; the element of
/// weight_hh from a unit to itself counts once, those that are cut already not at all.
std::vector<std::vector<UnitScore>> score_hidden_units(ParameterSource& source, const Plan& plan,
                                                       ReadingCost& cost);

/// Cuts everything that belongs to a unit whose bit is 0 in `kept`, [layer] words of bits. Adds to
/// `cut_by_gate`, [tensor][gate], how many elements are cut now.
void cut_hidden_units(ParameterSource& source, const Plan& plan,
                      const std::vector<std::vector<uint64_t>>& kept,
                      std::vector<std::vector<uint64_t>>& cut_by_gate);

}  // namespace coppice
