#include "engine/train/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/error.hpp"

namespace coppice {

int64_t steps_per_epoch(const TrainConfig& config, int64_t batches) {
  const int64_t group = std::max<int64_t>(config.accumulate, 1);
  return (batches + group - 1) / group;
}

int64_t total_steps(const TrainConfig& config, int64_t batches) {
  const int64_t all = config.epochs * steps_per_epoch(config, batches);
  return config.max_steps > 0 ? std::min(all, config.max_steps) : all;
}

double rate_at(const TrainConfig& config, int64_t epoch, int64_t step, int64_t batches) {
  const double rate = config.optimizer.rate;
  if (config.rate_schedule == "constant") return rate;
  if (config.rate_schedule == "step" || config.rate_schedule == "halving") {
    const int64_t every = config.rate_schedule == "halving" ? 1 : std::max<int64_t>(config.rate_every, 1);
    const int64_t first = config.rate_after > 0 ? config.rate_after : every;
    const int64_t changes = epoch < first ? 0 : 1 + (epoch - first) / every;
    return rate * std::pow(config.rate_factor, static_cast<double>(changes));
  }
  if (config.rate_schedule == "cosine") {
    const int64_t begin = config.rate_after * steps_per_epoch(config, batches);
    const int64_t end = total_steps(config, batches);
    if (step <= begin || end <= begin) return rate;
    const double x = std::min(1.0, static_cast<double>(step - begin) / static_cast<double>(end - begin));
    return rate * 0.5 * (1.0 + std::cos(std::numbers::pi * x));
  }
  bad_input("rate_schedule: expected constant, step, halving or cosine, found \"{}\"", config.rate_schedule);
}

}  // namespace coppice
