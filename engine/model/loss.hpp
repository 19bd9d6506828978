#pragma once

#include <string_view>

#include "engine/data/batch.hpp"

namespace coppice {

/// By what the gradient of Σ loss is scaled: "mean": 1 / targets that count; "sum_steps": 1 / B, the loss
/// summed over the steps and averaged over the batch, as language-model scripts since Zaremba et al. 2014
/// have it (so their rates and clips belong to that sum). 0 when no target counts.
double loss_scale(const Batch& batch, std::string_view reduction);

}  // namespace coppice
