#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/report/run_report.hpp"

namespace coppice {

/// What stands at the end of a run on the terminal: the models side by side, what was kept where, where the
/// report lies and what to try next.
std::string closing_table(const RunReport& report);

/// The models side by side, alone.
std::string models_table(const RunReport& report);

/// Kept weights per tensor and gate, without the rest.
std::string kept_table(const std::vector<TensorOutcome>& tensors);

/// What the figures suggest to do next, one line each; the first word of a line that starts with "coppice" is
/// a command.
std::vector<std::string> next_steps(const RunReport& report);

// --- what the table and the page say in the same words

/// The models of a report that were measured: (label, metrics, bytes on disk or 0), in the order of the job.
struct ModelRow {
  std::string label;  // "dense", "dense, trained on", "just pruned", "retrained", "sparse (csr)"
  const ModelMetrics* metrics;
  uint64_t bytes;
};
std::vector<ModelRow> model_rows(const RunReport& report);

/// The figure that the report's metric names, as text: "113.26", "1.9265", "98.5 %".
std::string metric_text(const RunReport& report, const ModelMetrics& metrics);
std::string metric_title(const RunReport& report);  // "perplexity", "bits/char", "accuracy"
std::string loss_text(double loss);
std::string pruning_text(const RunReport& report);  // "taylor (|w * sum g|), 90 % of ..., one-shot, global"

/// Rows in columns: the first flush left, the others flush right, indented by two.
std::string align_columns(const std::vector<std::vector<std::string>>& rows);

std::string count_text(double count);                       // 1 234 567
std::string bytes_text(double bytes);                       // 4.2 MB (powers of ten)
std::string percent_text(double fraction);                  // 90.3 %
std::string seconds_text(double seconds);                   // 4.2 s, 3 min 10 s
std::string shape_text(const std::vector<int64_t>& shape);  // 800 x 200

}  // namespace coppice
