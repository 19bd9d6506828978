#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "engine/config/recipe.hpp"
#include "engine/data/batch.hpp"
#include "engine/model/network.hpp"
#include "engine/prune/prune.hpp"
#include "engine/train/progress.hpp"

namespace coppice {

/// The criterion of that name (kernels/criteria.hpp). Throws Error(bad_input) that lists the known ones.
Criterion find_criterion(std::string_view name);

/// What a gradient pass leaves: three buffers in the store's layout, summed over `batches` batches. A batch's
/// g is the gradient of its loss by the recipe's `loss_reduction`. Two aggregations come of it: of the mean
/// gradient
/// (|Σg|: the article's, signs cancel) and the mean of |·| (Σ|g|), with Σg² for the empirical Fisher.
struct GradientStatistics {
  Buffer sum;           // Σg
  Buffer absolute;      // Σ|g|
  Buffer squared;       // Σg²
  int64_t size = 0;     // floats of each: the store's size
  int64_t batches = 0;  // summed over

  VectorView<float> of(Statistic statistic) const;
};

/// Zeroed buffers for the statistics of `store`: all three, or `only` one (none for Statistic::none).
GradientStatistics make_statistics(ParameterStore& store, std::optional<Statistic> only = {});

/// Passes over training batches with dropout off and adds their gradients up: of the first `gradient_batches`
/// batches of epoch 0 (0: all of it), joined along the batch to `gradient_batch_size` sequences each (0: as
/// the source cuts them; −1: all sequences at once). Text batches, whose state is carried, can't be joined:
/// only 0 serves them. `only`: the statistic that is wanted; each costs a pass over its buffer a batch.
/// Leaves the values alone and the store's gradients zero; the carried state ends zero. Throws Error(failure)
/// when a gradient is not finite.
GradientStatistics collect_gradients(Network& network, BatchSource& source, const PruneConfig& config,
                                     std::string_view loss_reduction, std::optional<Statistic> only = {},
                                     ProgressListener* listener = nullptr, const StopToken* stop = nullptr);

/// Scores and cuts the store's weights in place by one statistic ([store.size()], or empty where the
/// criterion needs none) and writes its mask.
PruneOutcome prune_store(ParameterStore& store, const PruneConfig& config, uint64_t seed, Statistic kind,
                         VectorView<const float> statistic, double sparsity);

/// Safetensors with "<tensor>.sum", "<tensor>.absolute", "<tensor>.squared" for every tensor of the store and
/// the number of batches as "count" in its metadata. An existing file is refused without `force`.
void save_gradients(const std::filesystem::path& path, ParameterStore& store,
                    const GradientStatistics& statistics, bool force = false);
/// Throws Error(bad_input) naming the tensor that is missing or of another shape.
GradientStatistics load_gradients(const std::filesystem::path& path, ParameterStore& store);

}  // namespace coppice
