#include "engine/report/html.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/report/page.hpp"
#include "engine/report/sensitivity_pages.hpp"
#include "engine/report/table.hpp"

namespace coppice {
namespace {

double share_of(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

// --- charts

struct Point {
  double x = 0.0, y = 0.0;
};
struct Curve {
  std::string name;
  std::string color;  // a CSS variable
  bool dashed = false;
  std::vector<Point> points;
};
struct Mark {
  double x = 0.0;
  std::string label;
};

/// A step of 1, 2 or 5 times a power of ten that cuts `span` into about `count` parts.
double nice_step(double span, int count) {
  const double raw = span / count;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw) return factor * power;
  }
  return 10.0 * power;
}

std::string tick_text(double value, double step) {
  if (std::abs(value) >= 10000) return fmt::format("{:g}k", value / 1000);
  return fmt::format("{:.{}f}", value, std::max(0, static_cast<int>(-std::floor(std::log10(step)))));
}

std::string legend(const std::vector<Curve>& curves) {
  std::string html = "<div class=\"legend\">";
  for (const Curve& curve : curves) {
    html += fmt::format("<span{} style=\"--c:var({})\">{}</span>", curve.dashed ? " class=\"thin\"" : "",
                        curve.color, escape(curve.name));
  }
  return html + "</div>\n";
}

/// A line chart; values that are not finite leave a gap. Dots where there are few points, so that single ones
/// show.
std::string chart(const std::vector<Curve>& curves, const std::vector<Mark>& marks, std::string_view x_title,
                  std::string_view y_title, bool from_zero) {
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  for (const Curve& curve : curves) {
    for (const Point& p : curve.points) {
      if (!std::isfinite(p.y)) continue;
      x0 = std::min(x0, p.x), x1 = std::max(x1, p.x);
      y0 = std::min(y0, p.y), y1 = std::max(y1, p.y);
    }
  }
  if (!(x0 <= x1)) return "";
  if (from_zero) y0 = std::min(y0, 0.0);
  x0 = std::min(x0, 0.0);
  if (x1 == x0) x1 = x0 + 1;
  if (y1 == y0) y1 = y0 + (y0 == 0 ? 1 : std::abs(y0) * 0.1);
  const double y_step = nice_step(y1 - y0, 5), x_step = nice_step(x1 - x0, 8);
  y0 = std::floor(y0 / y_step) * y_step;
  y1 = std::ceil(y1 / y_step) * y_step;

  constexpr double kWidth = 960, kHeight = 330, kLeft = 56, kRight = 14, kTop = 22, kBottom = 44;
  const auto px = [&](double x) { return kLeft + (x - x0) / (x1 - x0) * (kWidth - kLeft - kRight); };
  const auto py = [&](double y) {
    return kHeight - kBottom - (y - y0) / (y1 - y0) * (kHeight - kTop - kBottom);
  };

  std::string svg = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{} over {}\">\n",
                                kWidth, kHeight, escape(y_title), escape(x_title));
  for (int i = 0; y0 + i * y_step <= y1 + y_step / 2; ++i) {
    const double y = y0 + i * y_step;
    svg += fmt::format(
        "<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"var(--line)\"/>"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
        kLeft, kWidth - kRight, py(y), py(y), kLeft - 8, py(y) + 4, tick_text(y, y_step));
  }
  for (int i = 0; x0 + i * x_step <= x1 + x_step * 1e-6; ++i) {
    const double x = x0 + i * x_step;
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", px(x),
                       kHeight - kBottom + 18, tick_text(x, x_step));
  }
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                     (kLeft + kWidth - kRight) / 2, kHeight - 6, escape(x_title));
  svg += fmt::format("<text x=\"{:.1f}\" y=\"12\">{}</text>\n", 2.0, escape(y_title));
  for (const Mark& mark : marks) {
    const bool flip = mark.x > x0 + 0.8 * (x1 - x0);
    svg += fmt::format(
        "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"var(--cut)\" "
        "stroke-dasharray=\"4 4\"/>"
        "<text x=\"{3:.1f}\" y=\"{4:.1f}\" text-anchor=\"{5}\" style=\"fill:var(--cut)\">{6}</text>\n",
        px(mark.x), kTop, kHeight - kBottom, px(mark.x) + (flip ? -6 : 6), kTop + 10.0,
        flip ? "end" : "start", escape(mark.label));
  }
  for (const Curve& curve : curves) {
    std::string path;
    bool pen = false;
    for (const Point& p : curve.points) {
      if (std::isfinite(p.y)) path += fmt::format("{}{:.1f} {:.1f} ", pen ? "L" : "M", px(p.x), py(p.y));
      pen = std::isfinite(p.y);
    }
    svg += fmt::format(
        "<path d=\"{}\" fill=\"none\" stroke=\"var({})\" stroke-width=\"{}\" stroke-linejoin=\"round\"{}/>\n",
        path, curve.color, curve.dashed ? 1.6 : 2.4, curve.dashed ? " stroke-dasharray=\"5 4\"" : "");
    if (curve.points.size() > 40) continue;
    for (const Point& p : curve.points) {
      if (!std::isfinite(p.y)) continue;
      svg += fmt::format(
          "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"var({})\"><title>{}: {:.4f} at "
          "{:g}</title></circle>\n",
          px(p.x), py(p.y), curve.dashed ? 2.2 : 3.2, curve.color, escape(curve.name), p.y, p.x);
    }
  }
  return svg + "</svg>\n";
}

/// Where each stage begins on the axis of optimizer steps: training at 0, each retraining where the one
/// before it ended, the dense model trained on where training ended.
std::map<std::string, double> stage_starts(const RunReport& report) {
  std::map<std::string, double> starts, ends;
  double training_end = 0.0, end = 0.0;
  for (const EpochRecord& epoch : report.epochs) {
    if (!starts.contains(epoch.stage)) {
      if (epoch.stage == "train") {
        starts[epoch.stage] = 0.0;
      } else {
        starts[epoch.stage] = epoch.stage == "dense_continued" ? training_end : end;
      }
    }
    const double now = starts[epoch.stage] + static_cast<double>(epoch.steps);
    if (epoch.stage == "train") training_end = std::max(training_end, now);
    if (epoch.stage != "dense_continued") end = std::max(end, now);
  }
  return starts;
}

std::string loss_section(const RunReport& report) {
  if (report.epochs.empty()) return "";
  std::map<std::string, double> starts = stage_starts(report);
  std::vector<Curve> curves;
  std::vector<Mark> marks;
  std::vector<std::string> stages;
  for (const EpochRecord& epoch : report.epochs) {
    if (std::find(stages.begin(), stages.end(), epoch.stage) == stages.end()) stages.push_back(epoch.stage);
  }
  for (const std::string& stage : stages) {
    const std::string color = stage == "train"             ? "--dense"
                              : stage == "dense_continued" ? "--continued"
                                                           : "--retrained";
    const std::string label = stage == "dense_continued" ? "dense, trained on" : stage;
    Curve train{label + ": training loss", color, true, {}};
    Curve valid{label + ": validation loss", color, false, {}};
    for (const EpochRecord& epoch : report.epochs) {
      if (epoch.stage != stage) continue;
      const double x = starts[stage] + static_cast<double>(epoch.steps);
      train.points.push_back({x, epoch.train_loss});
      valid.points.push_back({x, epoch.valid_loss});
    }
    const bool validated = std::any_of(valid.points.begin(), valid.points.end(),
                                       [](const Point& p) { return std::isfinite(p.y); });
    if (validated) curves.push_back(std::move(valid));
    curves.push_back(std::move(train));
    if (stage.starts_with("retrain")) {
      marks.push_back({starts[stage], report.schedule == "gradual" ? "cutting begins" : "cut"});
    }
  }
  std::string html = "<section><h2>Loss</h2>\n" + legend(curves) +
                     chart(curves, marks, "optimizer steps", "loss (nats)", false) + "</section>\n";
  if (report.cuts.size() > 1 && report.parameters.prunable != 0) {
    Curve sparsity{"share of prunable weights cut", "--cut", false, {}};
    for (const CutRecord& cut : report.cuts) {
      const auto start = starts.find(cut.stage);
      const double x = (start == starts.end() ? 0.0 : start->second) + static_cast<double>(cut.step);
      sparsity.points.push_back({x, 100 * (1 - share_of(cut.kept, report.parameters.prunable))});
    }
    html += "<section><h2>Sparsity on the way</h2>\n" +
            chart({sparsity}, {}, "optimizer steps", "% cut", true) + "</section>\n";
  }
  return html;
}

// --- the other sections

std::string bar(double share, std::string_view text) {
  return fmt::format(
      "<div class=\"bar\"><div style=\"width:{:.2f}%\"></div>{}</div>", 100 * std::clamp(share, 0.0, 1.0),
      text.empty() ? "" : fmt::format("<em{}>{}</em>", share > 0.3 ? " class=\"in\"" : "", text));
}

std::string sparsity_section(const RunReport& report) {
  if (report.tensors.empty()) return "";
  std::string html = "<section><h2>Cut per tensor and gate</h2>\n";
  uint64_t whole = 0;
  size_t whole_tensors = 0;
  for (const TensorOutcome& tensor : report.tensors) {
    if (!tensor.pruned) {
      whole += tensor.size;
      ++whole_tensors;
      continue;
    }
    html += fmt::format(
        "<div class=\"tensor\"><div><code>{}</code><br><span class=\"soft\">{} &middot; {} "
        "kept</span></div><div>{}",
        escape(tensor.name), escape(shape_text(tensor.shape)), count_text(static_cast<double>(tensor.kept)),
        bar(1 - share_of(tensor.kept, tensor.size),
            percent_text(1 - share_of(tensor.kept, tensor.size)) + " cut"));
    if (tensor.gate_names.size() > 1) {
      html += "<div class=\"gates\">";
      for (size_t g = 0; g < tensor.gate_names.size(); ++g) {
        const double cut = 1 - share_of(tensor.gate_kept[g], tensor.gate_size[g]);
        html += fmt::format("<div>{}<small>gate {} &middot; {}</small></div>", bar(cut, ""),
                            escape(tensor.gate_names[g]), percent_text(cut));
      }
      html += "</div>";
    }
    html += "</div></div>\n";
  }
  if (whole_tensors != 0) {
    html += fmt::format("<p class=\"soft\">Not pruned: {} more weights in {} tensor{}.</p>\n",
                        count_text(static_cast<double>(whole)), whole_tensors, whole_tensors == 1 ? "" : "s");
  }
  return html + "</section>\n";
}

std::string models_section(const RunReport& report) {
  const std::vector<ModelRow> rows = model_rows(report);
  if (rows.empty()) return "";
  const ModelMetrics& first = *rows.front().metrics;
  std::string html = fmt::format(
      "<section><h2>On held-out data</h2>\n<p class=\"soft\">The {} split: {} {} that count.</p>\n"
      "<table><tr><th>model</th><th>{}</th><th>loss</th><th>bytes on disk</th><th>{}/s</th>"
      "<th>optimizer steps</th></tr>\n",
      escape(first.split), count_text(static_cast<double>(first.targets)),
      report.task == "language_model" ? escape(report.unit) : "labels", escape(metric_title(report)),
      escape(report.unit));
  for (const ModelRow& row : rows) {
    html +=
        fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                    escape(row.label), metric_text(report, *row.metrics), loss_text(row.metrics->loss),
                    row.bytes != 0 ? bytes_text(static_cast<double>(row.bytes)) : "&ndash;",
                    row.metrics->units_per_second > 0 ? count_text(row.metrics->units_per_second) : "&ndash;",
                    count_text(static_cast<double>(row.metrics->optimizer_steps)));
  }
  return html + "</table></section>\n";
}

std::string cards(const RunReport& report) {
  const auto card = [](std::string_view figure, std::string_view words) {
    return fmt::format("<div class=\"card\"><b>{}</b><i>{}</i></div>\n", figure, words);
  };
  std::string html = "<div class=\"cards\">\n";
  const ModelMetrics* last = report.retrained ? &*report.retrained
                             : report.pruned  ? &*report.pruned
                                              : nullptr;
  if (last != nullptr) {
    html += card(metric_text(report, *last),
                 report.dense ? fmt::format("{} after pruning; dense {}", escape(metric_title(report)),
                                            metric_text(report, *report.dense))
                              : escape(metric_title(report)));
  }
  if (report.parameters.prunable != 0) {
    html += card(percent_text(1 - share_of(report.parameters.kept, report.parameters.prunable)),
                 fmt::format("cut of {} prunable weights",
                             count_text(static_cast<double>(report.parameters.prunable))));
  }
  if (report.bytes.sparse != 0 && report.bytes.dense != 0) {
    html +=
        card(fmt::format("{:.1f}&times;", share_of(report.bytes.dense, report.bytes.sparse)),
             fmt::format("smaller on disk: {} &rarr; {}", bytes_text(static_cast<double>(report.bytes.dense)),
                         bytes_text(static_cast<double>(report.bytes.sparse))));
  }
  if (report.sparse && report.dense && report.dense->units_per_second > 0 &&
      report.sparse->units_per_second > 0) {
    html +=
        card(fmt::format("{:.2f}&times;", report.sparse->units_per_second / report.dense->units_per_second),
             fmt::format("the dense model's speed, run sparse: {} {}/s",
                         count_text(report.sparse->units_per_second), escape(report.unit)));
  }
  return html + "</div>\n";
}

std::string details_section(const RunReport& report) {
  std::string html = "<section><h2>How it was done</h2>\n<dl>";
  const auto row = [&](std::string_view what, std::string_view value) {
    if (!value.empty()) html += fmt::format("<dt>{}</dt><dd>{}</dd>\n", escape(what), escape(value));
  };
  if (!report.criterion.empty()) row("pruned by", pruning_text(report));
  for (size_t g = 0; g < std::min<size_t>(report.groups.size(), 8); ++g) {
    const GroupOutcome& group = report.groups[g];
    row(g == 0 ? "thresholds" : "",
        fmt::format("{}: {} of {} units cut{}", group.name, count_text(static_cast<double>(group.cut)),
                    count_text(static_cast<double>(group.units)),
                    group.threshold_text.empty() ? "" : ", threshold " + group.threshold_text));
  }
  if (report.groups.size() > 8)
    row("", fmt::format("and {} more groups (report.json)", report.groups.size() - 8));
  if (!report.retraining.empty()) row("retrained", report.retraining);
  if (report.execution_bytes.sparse != 0) {
    row("in memory",
        fmt::format("matrices {} dense, {} as {}",
                    bytes_text(static_cast<double>(report.execution_bytes.dense)),
                    bytes_text(static_cast<double>(report.execution_bytes.sparse)), report.layout));
    row("sparse against masked",
        fmt::format("largest difference of a logit {:.2g}", report.probe_difference));
  }
  std::string times;
  for (const auto& [stage, seconds] : report.seconds) {
    times += fmt::format("{}{} {}", times.empty() ? "" : ", ", stage, seconds_text(seconds));
  }
  row("time", times);
  row("device", report.device_note.empty() ? report.device : report.device + ": " + report.device_note);
  row("machine",
      fmt::format("{}{}{}, {} cores, {} of memory", report.machine.name,
                  report.machine.detail.empty() ? "" : ", ", report.machine.detail, report.machine.cores,
                  bytes_text(static_cast<double>(report.machine.memory_bytes))));
  row("system", report.machine.system);
  row("seed, threads", fmt::format("{}, {}", report.seed, report.threads));
  std::string versions;
  for (const auto& [what, version] : report.versions) {
    versions += fmt::format("{}{} {}", versions.empty() ? "" : ", ", what, version);
  }
  row("versions", versions);
  row("started", report.started);
  if (report.resumed != 0) row("resumed", fmt::format("{} times", report.resumed));
  html += "</dl></section>\n";
  const std::vector<std::string> next = next_steps(report);
  if (!next.empty()) {
    html += "<section><h2>What to try next</h2>\n<ul>";
    for (const std::string& step : next) html += fmt::format("<li>{}</li>\n", escape(step));
    html += "</ul></section>\n";
  }
  return html;
}

}  // namespace

std::string report_html(const RunReport& report) {
  std::string html =
      fmt::format("<h1>{}</h1>\n<p class=\"soft\">{}</p>\n", escape(report.name), escape(report.model));
  html += cards(report) + models_section(report) + loss_section(report) + sparsity_section(report) +
          details_section(report);
  return page(report.name, "", html);
}

namespace {

/// As many curves as there are colours that the eye tells apart.
constexpr std::string_view kCurveStyle = R"css(
:root { --c0:#3b6fd4; --c1:#d9623b; --c2:#1f9d6b; --c3:#8a5cd0; --c4:#c79a1e; --c5:#2b9fb8; --c6:#c2497f; --c7:#6f7a8a; }
@media (prefers-color-scheme: dark) { :root { --c0:#6d9bf1; --c1:#ee8a63; --c2:#4cc790; --c3:#b394ee; --c4:#e3bf55;
  --c5:#63c8de; --c6:#e584b1; --c7:#a3aebd; } }
.scroll { overflow-x:auto; }
)css";
constexpr size_t kCurveColors = 8;

/// Loss over percent cut; the first point is the dense model's. More curves than colours make several charts.
std::string sensitivity_charts(const SensitivityReport& report,
                               const std::vector<const SensitivityCurve*>& chosen) {
  std::string html;
  for (size_t begin = 0; begin < chosen.size(); begin += kCurveColors) {
    std::vector<Curve> curves;
    for (size_t i = begin; i < std::min(chosen.size(), begin + kCurveColors); ++i) {
      const SensitivityCurve& from = *chosen[i];
      Curve curve{from.gate.empty() ? from.tensor : "gate " + from.gate,
                  fmt::format("--c{}", i - begin),
                  false,
                  {{0.0, report.dense_loss}}};
      for (size_t s = 0; s < from.losses.size(); ++s) {
        curve.points.push_back({100 * report.sparsities[s], from.losses[s]});
      }
      curves.push_back(std::move(curve));
    }
    html += legend(curves) + chart(curves, {}, "% cut", "loss (nats)", false);
  }
  return html;
}

}  // namespace

std::string sensitivity_html(const SensitivityReport& report) {
  std::string html = fmt::format(
      "<h1>Sensitivity of {}</h1>\n<p class=\"soft\">Each tensor, and each gate, cut alone by {} ({}), not "
      "retrained. Loss on the {} split, {} targets; {} with nothing cut.</p>\n",
      escape(report.model), escape(report.criterion), escape(report.formula), escape(report.split),
      count_text(static_cast<double>(report.targets)), loss_text(report.dense_loss));
  std::vector<const SensitivityCurve*> tensors;
  for (const SensitivityCurve& curve : report.curves) {
    if (curve.gate.empty()) tensors.push_back(&curve);
  }
  html += "<section><h2>Tensors</h2>\n" + sensitivity_charts(report, tensors) + "</section>\n";
  for (const SensitivityCurve* tensor : tensors) {
    std::vector<const SensitivityCurve*> gates;
    for (const SensitivityCurve& curve : report.curves) {
      if (curve.tensor == tensor->tensor && !curve.gate.empty()) gates.push_back(&curve);
    }
    if (gates.empty()) continue;
    html += fmt::format("<section><h2>Gates of <code>{}</code></h2>\n{}</section>\n", escape(tensor->tensor),
                        sensitivity_charts(report, gates));
  }
  html += "<section><h2>Losses</h2>\n<div class=\"scroll\"><table><tr><th>cut</th><th>weights</th>";
  for (double sparsity : report.sparsities) html += fmt::format("<th>{}</th>", percent_text(sparsity));
  html += "</tr>\n";
  for (const SensitivityCurve& curve : report.curves) {
    html += fmt::format("<tr><td><code>{}</code></td><td>{}</td>", escape(curve.name),
                        count_text(static_cast<double>(curve.size)));
    for (double loss : curve.losses) html += fmt::format("<td>{}</td>", loss_text(loss));
    html += "</tr>\n";
  }
  return page("Sensitivity of " + report.model, kCurveStyle, html + "</table></div></section>\n");
}

}  // namespace coppice
