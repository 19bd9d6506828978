#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "engine/config/recipe.hpp"
#include "engine/model/parameter_store.hpp"
#include "engine/prune/prune.hpp"
#include "kernels/criteria.hpp"

namespace coppice {

/// Zhu & Gupta 2017: s_t = s_f + (s_i − s_f)·(1 − (t − begin)/(end − begin))³, s_i before begin, s_f after
/// end.
double cubic_sparsity(double initial, double final, int64_t begin, int64_t end, int64_t step);

/// Sparsity after round `round` (1-based) of `rounds`: the density falls by the same factor every round.
double round_sparsity(double final, int64_t round, int64_t rounds);

/// Prunes during training: every `frequency` steps from begin_step on, and at end_step, the weights are
/// scored again by the gradients of the steps since the last cut, and more of them are cut. Monotone: what is
/// cut stays cut. Between the cuts the store's mask holds. Keys are named as tfmot's PolynomialDecay names
/// them.
class GradualPruner {
 public:
  /// `total_steps`: of the training that it goes along with; end_step = 0 means half of them.
  /// Throws Error(bad_input) where the steps don't fit or the recipe asks for a percentile.
  GradualPruner(ParameterStore& store, const PruneConfig& config, uint64_t seed, int64_t total_steps);

  int64_t begin_step() const { return begin_; }
  int64_t end_step() const { return end_; }
  double sparsity() const { return sparsity_; }  // as of the last cut
  bool complete() const { return complete_; }    // the cut at end_step is done

  /// Steps are counted from 1 here: after `step` optimizer steps. True where a cut is due.
  bool cuts_after(int64_t step) const;
  /// Call with the gradients of step `step` in the store, before the optimizer uses them.
  void observe(int64_t step);
  /// Cuts, with what was observed. Where a cut is due before anything was, `fallback` is asked to observe the
  /// statistics of a gradient pass.
  PruneOutcome cut(int64_t step, const std::function<void()>& fallback = {});
  /// Takes the statistics of a gradient pass over `count` batches instead.
  void observe_statistics(VectorView<const float> statistic, uint64_t count);
  Statistic kind() const { return kind_; }

  /// In flight, for checkpoints.
  uint64_t observed() const { return observed_; }
  VectorView<float> statistic() const { return statistic_.vector<float>(statistic_floats_); }
  void restore(double sparsity, bool complete, uint64_t observed);

 private:
  ParameterStore* store_;
  PruneConfig config_;
  uint64_t seed_;
  Statistic kind_;
  int64_t begin_ = 0, end_ = 0, frequency_ = 1;
  double sparsity_ = 0.0;
  bool complete_ = false;
  uint64_t observed_ = 0;
  Buffer statistic_;
  int64_t statistic_floats_ = 0;
};

}  // namespace coppice
