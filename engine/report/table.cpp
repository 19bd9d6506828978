#include "engine/report/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/report/sensitivity_pages.hpp"

namespace coppice {
namespace {

double fraction(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

/// Smaller is better for losses, larger for accuracy: > 0 where `b` is the better of the two.
double gain(const RunReport& report, const ModelMetrics& a, const ModelMetrics& b) {
  return report.metric == "accuracy" ? b.accuracy - a.accuracy : (a.loss - b.loss);
}

}  // namespace

std::string align_columns(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line = "  ";
    for (size_t c = 0; c < row.size(); ++c) {
      line += c == 0 ? fmt::format("{:<{}}", row[c], widths[c]) : fmt::format("  {:>{}}", row[c], widths[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string count_text(double count) {
  if (!std::isfinite(count)) return "-";
  const std::string digits = fmt::format("{:.0f}", std::abs(count));
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i != 0 && (digits.size() - i) % 3 == 0) text += ' ';
    text += digits[i];
  }
  return (count < 0 && digits != "0" ? "-" : "") + text;
}

std::string bytes_text(double bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  size_t unit = 0;
  while (bytes >= 999.5 && unit + 1 < std::size(kUnits)) {
    bytes /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes,
                     unit == 0 || bytes >= 99.95 ? 0
                     : bytes >= 9.995            ? 1
                                                 : 2,
                     kUnits[unit]);
}

std::string percent_text(double fraction) {
  if (!std::isfinite(fraction)) return "-";
  return fmt::format("{:.1f} %", 100 * fraction);
}

std::string seconds_text(double seconds) {
  if (!std::isfinite(seconds)) return "-";
  if (seconds < 0.9995) return fmt::format("{:.0f} ms", seconds * 1000);
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const int64_t whole = std::llround(seconds);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  if (shape.empty()) return "scalar";
  return fmt::format("{}", fmt::join(shape, " x "));
}

std::string metric_title(const RunReport& report) {
  return report.metric == "bits_per_char" ? "bits/char" : report.metric;
}

std::string metric_text(const RunReport& report, const ModelMetrics& metrics) {
  if (report.metric == "accuracy") return percent_text(metrics.accuracy);
  if (report.metric == "bits_per_char") return fmt::format("{:.4f}", metrics.bits_per_char);
  if (!(metrics.perplexity < 1e6)) return fmt::format("{:.3g}", metrics.perplexity);
  return fmt::format("{:.2f}", metrics.perplexity);
}

std::string loss_text(double loss) {
  if (!(loss < 1e4)) return fmt::format("{:.4g}", loss);
  return fmt::format("{:.4f}", loss);
}

std::string pruning_text(const RunReport& report) {
  const bool block = report.pattern.starts_with("block:");
  const bool weight =
      report.pattern == "element" || (!block && report.pattern.find(':') != std::string::npos);
  const std::string unit = weight ? "weight" : block ? "block" : report.pattern;
  const std::string share = report.percentile >= 0
                                ? fmt::format("below the {:g}th percentile", report.percentile)
                                : fmt::format("{:g} % of the {}s", 100 * report.sparsity, unit);
  return fmt::format("{} ({}), {}, {} scope, {}", report.criterion, report.formula, share, report.scope,
                     report.schedule);
}

std::vector<ModelRow> model_rows(const RunReport& report) {
  std::vector<ModelRow> rows;
  const auto add = [&](std::string label, const std::optional<ModelMetrics>& metrics, uint64_t bytes) {
    if (metrics) rows.push_back({std::move(label), &*metrics, bytes});
  };
  add("dense", report.dense, report.bytes.dense);
  add("dense, trained on", report.dense_continued, report.bytes.dense);
  add("just pruned", report.pruned, report.bytes.pruned);
  add("retrained", report.retrained, report.bytes.pruned);
  add(fmt::format("sparse ({})", report.layout), report.sparse, report.bytes.sparse);
  return rows;
}

std::string kept_table(const std::vector<TensorOutcome>& tensors) {
  size_t gates = 0;
  for (const TensorOutcome& tensor : tensors) {
    if (tensor.pruned) gates = std::max(gates, tensor.gate_names.size());
  }
  std::vector<std::vector<std::string>> table;
  std::vector<std::string> head = {"tensor", "shape", "kept", "of", "share"};
  for (size_t g = 0; g < gates; ++g) head.push_back(g == 0 ? "by gate" : "");
  table.push_back(head);
  uint64_t whole = 0;
  for (const TensorOutcome& tensor : tensors) {
    if (!tensor.pruned) {
      whole += tensor.size;
      continue;
    }
    std::vector<std::string> row = {
        tensor.name, shape_text(tensor.shape), count_text(static_cast<double>(tensor.kept)),
        count_text(static_cast<double>(tensor.size)), percent_text(fraction(tensor.kept, tensor.size))};
    for (size_t g = 0; g < tensor.gate_names.size(); ++g) {
      row.push_back(fmt::format("{} {}", tensor.gate_names[g],
                                percent_text(fraction(tensor.gate_kept[g], tensor.gate_size[g]))));
    }
    table.push_back(std::move(row));
  }
  std::string text = align_columns(table);
  if (whole != 0)
    text += fmt::format("  (not pruned: {} more weights)\n", count_text(static_cast<double>(whole)));
  return text;
}

std::string sensitivity_table(const SensitivityReport& report) {
  std::vector<std::vector<std::string>> rows = {{"loss, cut alone", "weights"}};
  for (double sparsity : report.sparsities) rows[0].push_back(percent_text(sparsity));
  for (const SensitivityCurve& curve : report.curves) {
    std::vector<std::string> row = {curve.name, count_text(static_cast<double>(curve.size))};
    for (double loss : curve.losses) row.push_back(loss_text(loss));
    rows.push_back(std::move(row));
  }
  return align_columns(rows) + fmt::format("  (nothing cut: {} on the {} split, {} targets)\n",
                                           loss_text(report.dense_loss), report.split,
                                           count_text(static_cast<double>(report.targets)));
}

std::vector<std::string> next_steps(const RunReport& report) {
  std::vector<std::string> steps;
  const ModelMetrics* reference = report.dense ? &*report.dense : nullptr;
  const ModelMetrics* final_metrics = report.retrained ? &*report.retrained
                                      : report.pruned  ? &*report.pruned
                                                       : nullptr;
  if (report.task == "language_model") {
    steps.push_back(fmt::format("coppice sample {}/retrained --prompt \"{}\"", report.folder,
                                report.metric == "bits_per_char" ? "The " : "the"));
  }
  if (reference != nullptr && final_metrics != nullptr && report.percentile < 0) {
    const double tolerance = report.metric == "accuracy" ? -0.005 : -0.01;  // 0.5 points; 1 % of perplexity
    if (gain(report, *reference, *final_metrics) >= tolerance) {
      const double more = 1.0 - (1.0 - report.sparsity) / 2;
      steps.push_back(fmt::format("cut more, quality held: --set prune.sparsity={:g}", more));
    } else {
      steps.push_back(fmt::format("quality was lost: cut less (--set prune.sparsity={:g}) or retrain longer",
                                  std::max(0.0, 1.0 - (1.0 - report.sparsity) * 2)));
    }
  }
  if (report.retrained && !report.dense_continued) {
    steps.push_back(
        "compare with the dense model trained on for as long: --set retrain.dense_continued=true");
  }
  if (report.criterion != "magnitude") steps.push_back("compare criteria: --set prune.criterion=magnitude");
  return steps;
}

std::string models_table(const RunReport& report) {
  const std::vector<ModelRow> rows = model_rows(report);
  if (rows.empty()) return "";
  const ModelMetrics& first = *rows.front().metrics;
  std::vector<std::vector<std::string>> table;
  table.push_back({"model", metric_title(report), "loss", "on disk", report.unit + "/s", "steps"});
  for (const ModelRow& row : rows) {
    table.push_back({row.label, metric_text(report, *row.metrics), loss_text(row.metrics->loss),
                     row.bytes != 0 ? bytes_text(static_cast<double>(row.bytes)) : "-",
                     row.metrics->units_per_second > 0 ? count_text(row.metrics->units_per_second) : "-",
                     count_text(static_cast<double>(row.metrics->optimizer_steps))});
  }
  return fmt::format("Held out: the {} split, {} {}\n{}", first.split,
                     count_text(static_cast<double>(first.targets)),
                     report.task == "language_model" ? report.unit : "labels", align_columns(table));
}

std::string closing_table(const RunReport& report) {
  std::string text = fmt::format("{}: {}\n", report.name, report.model);
  if (!report.criterion.empty()) text += fmt::format("pruned by {}\n", pruning_text(report));
  const std::string models = models_table(report);
  if (!models.empty()) text += "\n" + models;
  if (!report.tensors.empty()) text += "\nKept weights\n" + kept_table(report.tensors);

  double total = 0;
  for (const auto& [stage, seconds] : report.seconds) total += seconds;
  text += fmt::format("\nReport  {0}/report.html ({0}/report.json for programs), {1} in all\n", report.folder,
                      seconds_text(total));
  const std::vector<std::string> next = next_steps(report);
  for (size_t i = 0; i < next.size(); ++i)
    text += fmt::format("{}{}\n", i == 0 ? "Next    " : "        ", next[i]);
  return text;
}

}  // namespace coppice
