#include "engine/report/metrics.hpp"

#include <cmath>
#include <numbers>
#include <utility>

namespace coppice {

std::string metric_of(const DataShape& shape) {
  if (shape.task == Task::classification) return "accuracy";
  return shape.character ? "bits_per_char" : "perplexity";
}

std::string unit_of(const DataShape& shape) {
  if (shape.task == Task::classification) return "sequences";
  return shape.character ? "characters" : "words";
}

ModelMetrics metrics_of(const Evaluation& evaluation, std::string split, int64_t steps) {
  ModelMetrics metrics;
  metrics.split = std::move(split);
  metrics.loss = evaluation.totals.mean();
  metrics.perplexity = std::exp(metrics.loss);
  metrics.bits_per_char = metrics.loss / std::numbers::ln2;
  metrics.accuracy = evaluation.totals.count > 0 ? evaluation.totals.correct / evaluation.totals.count : 0.0;
  metrics.targets = static_cast<int64_t>(evaluation.totals.count);
  metrics.optimizer_steps = steps;
  metrics.seconds = evaluation.seconds;
  metrics.units_per_second = evaluation.seconds > 0 ? evaluation.units / evaluation.seconds : 0.0;
  return metrics;
}

}  // namespace coppice
