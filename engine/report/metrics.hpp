#pragma once

#include <cstdint>
#include <string>

#include "engine/data/batch.hpp"
#include "engine/report/run_report.hpp"
#include "engine/train/trainer.hpp"

namespace coppice {

/// Which of the metrics is the one to show, and what is counted a second, as report.json names them.
std::string metric_of(const DataShape& shape);
std::string unit_of(const DataShape& shape);

/// An evaluation on `split` behind which lie so many optimizer steps.
ModelMetrics metrics_of(const Evaluation& evaluation, std::string split, int64_t steps);

}  // namespace coppice
