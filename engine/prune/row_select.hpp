#pragma once

#include <cstdint>
#include <vector>

#include "engine/prune/plan.hpp"
#include "engine/prune/select.hpp"
#include "engine/prune/source.hpp"

namespace coppice {

// Scope row: every row of a matrix competes for itself, exactly and with ties by index, as everywhere. Rows
// come in millions and fit a cache, so each is selected on the host while it lies there: no histogram passes,
// and no launch for each.

/// Where one row is cut: what comes before (key, index) goes. The key is `ordered_key` of the score in the
/// tensor's own type (one more than its 32 bits can hold is possible: all of them go); 0 is what is cut
/// already. The index counts within the row.
struct RowPlace {
  uint64_t key = 0;
  uint64_t index = 0;
};

/// The places of all rows of a part. Adds to `cut` how many elements they cut (in percentile mode nothing:
/// only the writing tells).
std::vector<RowPlace> select_rows(ParameterSource& source, const Plan& plan, const PlanPart& part,
                                  uint64_t& cut, ReadingCost& cost);

/// As SelectionOps::apply, cutting each row of the part at its own place. The block starts at element `first`
/// of the part.
uint64_t apply_rows(Backend& backend, const Plan& plan, const ScoreBlock& block, const PlanPart& part,
                    int64_t first, const std::vector<RowPlace>& rows, void* output, uint64_t* mask);

}  // namespace coppice
