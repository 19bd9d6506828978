#pragma once

#include <string>

#include "engine/sensitivity.hpp"

namespace coppice {

/// Losses in columns, one for each sparsity: for the terminal.
std::string sensitivity_table(const SensitivityReport& report);

/// {"schema": 1, model, criterion, formula, split, targets, dense_loss, seed, sparsities: [],
///  curves: [{name, tensor, gate (or null), size, losses: []}]}. Losses that are not finite are null.
std::string sensitivity_json(const SensitivityReport& report);

/// One self-contained page: the tensors' curves, then those of each tensor's gates, then the table.
std::string sensitivity_html(const SensitivityReport& report);

}  // namespace coppice
