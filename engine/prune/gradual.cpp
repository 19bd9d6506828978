#include "engine/prune/gradual.hpp"

#include <algorithm>
#include <cmath>

#include "engine/prune/gradients.hpp"
#include "kernels/error.hpp"

namespace coppice {

double cubic_sparsity(double initial, double final, int64_t begin, int64_t end, int64_t step) {
  if (step >= end) return final;
  if (step <= begin) return initial;
  const double left = 1.0 - static_cast<double>(step - begin) / static_cast<double>(end - begin);
  return final + (initial - final) * left * left * left;
}

double round_sparsity(double final, int64_t round, int64_t rounds) {
  if (round >= rounds) return final;
  return 1.0 - std::pow(1.0 - final, static_cast<double>(round) / static_cast<double>(rounds));
}

GradualPruner::GradualPruner(ParameterStore& store, const PruneConfig& config, uint64_t seed,
                             int64_t total_steps)
    : store_(&store),
      config_(config),
      seed_(seed),
      kind_(statistic_of(find_criterion(config.criterion))),
      begin_(config.begin_step),
      end_(config.end_step > 0 ? config.end_step : std::max(config.begin_step + 1, total_steps / 2)),
      frequency_(config.frequency) {
  if (config.percentile >= 0.0)
    bad_input("prune.percentile: a gradual schedule needs prune.sparsity instead");
  if (frequency_ < 1) bad_input("prune.frequency is {}, expected at least 1", frequency_);
  if (begin_ < 0 || begin_ >= end_) {
    bad_input("prune.begin_step is {}, expected 0 or more and less than prune.end_step, which is {}", begin_,
              end_);
  }
  if (end_ > total_steps) {
    bad_input("prune.end_step is {}, but the retraining has only {} steps", end_, total_steps);
  }
  if (config.initial_sparsity < 0.0 || config.initial_sparsity > config.sparsity) {
    bad_input("prune.initial_sparsity is {}, expected between 0 and prune.sparsity, which is {}",
              config.initial_sparsity, config.sparsity);
  }
  if (kind_ != Statistic::none) {
    statistic_floats_ = store.size();
    statistic_ = Buffer(store.backend(), statistic_floats_ * static_cast<int64_t>(sizeof(float)),
                        "gradient statistic");
    store.backend().fill_zero(statistic());
  }
}

bool GradualPruner::cuts_after(int64_t step) const {
  if (complete_ || step < begin_) return false;
  if (step >= end_) return true;
  // At begin itself the schedule asks for s_i, which is often nothing.
  if (cubic_sparsity(config_.initial_sparsity, config_.sparsity, begin_, end_, step) <= 0.0) return false;
  return (step - begin_) % frequency_ == 0;
}

void GradualPruner::observe(int64_t step) {
  // The window before the first cut is as long as those between the cuts.
  if (kind_ == Statistic::none || complete_ || step <= begin_ - frequency_) return;
  const VectorView<float> s = statistic();
  const auto where = [&](Statistic kind) { return kind_ == kind ? s : VectorView<float>{}; };
  store_->backend().optimizer().accumulate_statistics(store_->gradients(), where(Statistic::sum),
                                                      where(Statistic::absolute), where(Statistic::squared));
  ++observed_;
}

void GradualPruner::observe_statistics(VectorView<const float> statistic, uint64_t count) {
  store_->backend().copy(statistic.data, statistic_.data(), statistic_.bytes());
  observed_ = count;
}

PruneOutcome GradualPruner::cut(int64_t step, const std::function<void()>& fallback) {
  if (kind_ != Statistic::none && observed_ == 0 && fallback) fallback();
  const double target =
      std::max(sparsity_, cubic_sparsity(config_.initial_sparsity, config_.sparsity, begin_, end_, step));
  PruneOutcome outcome = prune_store(*store_, config_, seed_, kind_, statistic(), target);
  sparsity_ = target;
  complete_ = step >= end_;
  observed_ = 0;
  if (kind_ != Statistic::none) store_->backend().fill_zero(statistic());
  return outcome;
}

void GradualPruner::restore(double sparsity, bool complete, uint64_t observed) {
  sparsity_ = sparsity;
  complete_ = complete;
  observed_ = observed;
}

}  // namespace coppice
