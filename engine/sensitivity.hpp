#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "engine/config/recipe.hpp"
#include "engine/pipeline.hpp"

namespace coppice {

/// What cutting one tensor, or one gate of it, costs while everything else stays whole.
struct SensitivityCurve {
  std::string name;  // a tensor's, or "tensor:gate"
  std::string tensor;
  std::string gate;  // empty: the whole tensor
  uint64_t size = 0;
  std::vector<double> losses;  // [sparsities]
};

struct SensitivityReport {
  std::string model;
  std::string criterion, formula;
  std::string split;        // on which the loss was taken
  uint64_t targets = 0;     // that count in it
  double dense_loss = 0.0;  // nats a target, nothing cut
  std::vector<double> sparsities;
  std::vector<SensitivityCurve> curves;  // each tensor, followed by its gates
  uint64_t seed = 0;
};

/// Sparsities at which losses are taken when nobody asks for others.
inline constexpr double kSensitivitySparsities[] = {0.5, 0.7, 0.8, 0.9, 0.95, 0.99};

/// Loss against sparsity: cuts each tensor that the recipe's [prune] selects, and each of its gates, alone by
/// the recipe's criterion, and evaluates the model on its held-out split, without retraining. Writes a folder
/// with sensitivity.json and sensitivity.html. The model on disk stays as it is.
SensitivityReport sensitivity_of(const std::filesystem::path& model, const Recipe& recipe,
                                 std::span<const double> sparsities, const std::filesystem::path& output,
                                 const RunOptions& options = {});

}  // namespace coppice
