#include "engine/bench/pages.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "engine/report/page.hpp"
#include "engine/report/table.hpp"

namespace coppice::bench {
namespace {

constexpr std::string_view kMapStyle = R"css(
.map text { font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif; fill:#1c2430; }
.map .title { font-size:14px; font-weight:600; } .map .soft { fill:#5d6b7e; } .map .on { fill:#fff; }
.map .win { fill:#2f6fd6; } .map .lose { fill:#d9622b; } .map .frame { fill:none; stroke:#8793a5; stroke-opacity:.35; }
.map .noisy { font-style:italic; }
@media (prefers-color-scheme: dark) { .map text { fill:#e6ebf2; } .map .soft { fill:#98a5b8; } .map .on { fill:#fff; } }
)css";

/// Rows and columns of a heat map: (name, batch) and sparsities, in the order in which they occur.
struct Axes {
  std::vector<std::pair<std::string, int64_t>> rows;
  std::vector<double> columns;
};

template <class T>
void add_new(std::vector<T>& list, const T& value) {
  if (std::find(list.begin(), list.end(), value) == list.end()) list.push_back(value);
}

Axes axes_of(const BenchResult& result) {
  Axes axes;
  for (const TableCell& cell : result.cells) {
    add_new(axes.rows, {cell.name, cell.batch});
    add_new(axes.columns, cell.sparsity);
  }
  std::stable_sort(axes.rows.begin(), axes.rows.end(),
                   [&](const auto& a, const auto& b) { return a.first == b.first && a.second < b.second; });
  std::sort(axes.columns.begin(), axes.columns.end());
  return axes;
}

const TableCell* find(const BenchResult& result, const std::pair<std::string, int64_t>& row,
                      double sparsity) {
  for (const TableCell& cell : result.cells) {
    if (cell.name == row.first && cell.batch == row.second && cell.sparsity == sparsity) return &cell;
  }
  return nullptr;
}

std::string ratio_text(double ratio) {
  return ratio < 2 ? fmt::format("{:.2f}", ratio) : fmt::format("{:.1f}", ratio);
}

std::string microseconds(double seconds) {
  return seconds < 1e-4 ? fmt::format("{:.1f}", seconds * 1e6) : count_text(std::round(seconds * 1e6));
}

std::string break_even_text(const BreakEven& from) {
  if (!from.sparsity) return "nowhere";
  return fmt::format("{}{:.0f} %", from.at_most ? "<= " : "", 100 * *from.sparsity);
}

std::string row_text(const std::pair<std::string, int64_t>& row) {
  return fmt::format("{}, B {}", row.first, row.second);
}

const Crossover* find(const std::vector<Crossover>& list, const std::pair<std::string, int64_t>& row,
                      const std::string& family) {
  for (const Crossover& crossover : list) {
    if (crossover.name == row.first && crossover.batch == row.second && crossover.family == family) {
      return &crossover;
    }
  }
  return nullptr;
}

std::string what_was_timed(const BenchResult& result) {
  const std::string values = result.values == "fp32" ? "" : fmt::format(", weights in {}", result.values);
  const std::string letter = result.cell == "lstm" ? "4H" : result.cell == "gru" ? "3H" : "H";
  if (result.work == "sequence") {
    return fmt::format("inference of a whole {} layer, {} steps, both matrices sparse{}", result.cell,
                       result.steps, values);
  }
  if (result.work == "frame")
    return fmt::format("one step of a {} layer, both matrices sparse{}", result.cell, values);
  return result.subject == "grid"
             ? fmt::format("the product [{0}, H] x [H, B] of a {1}{2}", letter, result.cell, values)
             : "the products of the model's own matrices" + values;
}

std::string machine_text(const BenchResult& result) {
  return fmt::format(
      "{}, {}{}", result.processor, result.detail,
      result.threads > 0 ? fmt::format(", {} thread{}", result.threads, result.threads == 1 ? "" : "s") : "");
}

std::string grid_table(const BenchResult& result) {
  const Axes axes = axes_of(result);
  const std::vector<Crossover> crossing = crossovers(result);
  std::string text = fmt::format(
      "Speed-up over the best dense of {}, {}.\nIn brackets the share of the ceiling; ~ too noisy to tell.\n",
      what_was_timed(result), machine_text(result));
  for (const std::string& family : families(result)) {
    std::vector<std::vector<std::string>> rows = {{family}};
    for (const double sparsity : axes.columns) rows[0].push_back(percent_text(sparsity));
    rows[0].insert(rows[0].end(), {"pays from", "best dense"});
    for (const auto& row : axes.rows) {
      std::vector<std::string> line = {row_text(row)};
      std::set<std::string> names;
      for (const double sparsity : axes.columns) {
        const TableCell* cell = find(result, row, sparsity);
        const Entry* dense = cell != nullptr ? best_dense(*cell) : nullptr;
        const Entry* sparse = cell != nullptr ? best_sparse(*cell, family) : nullptr;
        if (dense == nullptr || sparse == nullptr) {
          line.emplace_back("");
          continue;
        }
        const Comparison found = compare(*dense, *sparse);
        line.push_back(fmt::format("{}{} ({:.2f})", found.verdict == Verdict::too_noisy ? "~" : "",
                                   ratio_text(found.ratio), sparse->share));
        names.insert(dense->name);
      }
      const Crossover* crossover = find(crossing, row, family);
      line.push_back(crossover != nullptr ? break_even_text(crossover->from) : "");
      line.push_back(fmt::format("{}", fmt::join(names, "/")));
      rows.push_back(std::move(line));
    }
    text += "\n" + align_columns(rows);
  }
  return text;
}

/// One row a matrix and batch, under a row of titles.
std::vector<std::vector<std::string>> model_rows(const BenchResult& result) {
  std::vector<std::vector<std::string>> rows = {{"matrix", "shape", "density", "batch", "dense us",
                                                 "best dense", "best layout", "us", "speed-up", "of ceiling",
                                                 ""}};
  for (const TableCell& cell : result.cells) {
    const Entry *dense = best_dense(cell), *sparse = best_sparse(cell, "");
    if (dense == nullptr || sparse == nullptr) continue;
    const Comparison found = compare(*dense, *sparse);
    rows.push_back({cell.name, shape_text({cell.rows, cell.cols}), percent_text(1 - cell.sparsity),
                    std::to_string(cell.batch), microseconds(dense->timing.median), dense->name, sparse->name,
                    microseconds(sparse->timing.median), ratio_text(found.ratio),
                    fmt::format("{:.2f}", sparse->share),
                    found.verdict == Verdict::pays        ? "sparse pays"
                    : found.verdict == Verdict::too_noisy ? "too noisy to tell"
                                                          : "dense is faster"});
  }
  return rows;
}

std::string model_table(const BenchResult& result) {
  const std::vector<std::vector<std::string>> rows = model_rows(result);
  const auto pays =
      std::count_if(rows.begin(), rows.end(), [](const auto& row) { return row.back() == "sparse pays"; });
  return fmt::format("{}: {}, {}.\n", result.subject, what_was_timed(result), machine_text(result)) +
         align_columns(rows) + fmt::format("Sparse pays in {} of {} products.\n", pays, rows.size() - 1);
}

std::string model_section(const BenchResult& result) {
  std::string html = "<section><h2>Matrix by matrix</h2>\n<div class=\"scroll\"><table>";
  const char* tag = "th";
  for (const std::vector<std::string>& row : model_rows(result)) {
    html += "<tr>";
    for (const std::string& text : row) html += fmt::format("<{0}>{1}</{0}>", tag, escape(text));
    html += "</tr>\n";
    tag = "td";
  }
  return html + "</table></div></section>\n";
}

std::string map_section(const BenchResult& result) {
  return fmt::format(
      "<section><h2>Speed-up over the best dense</h2>\n<p class=\"soft\">Blue: sparse is faster. Orange: "
      "dense is. ~: too noisy to tell. Each cell names both when pointed at.</p>\n<div "
      "class=\"scroll\">{}</div></section>\n",
      heat_map_svg(result));
}

// --- the heat map

constexpr double kLabel = 118, kWide = 58, kHigh = 26, kEdge = 74, kHead = 54;

std::string map_cell(double x, double y, const TableCell& cell, const Entry& dense, const Entry& sparse) {
  const Comparison found = compare(dense, sparse);
  const double strength = std::clamp(std::abs(std::log2(found.ratio)) / std::log2(12.0), 0.0, 1.0);
  const double opacity = 0.08 + 0.84 * strength;
  const bool noisy = found.verdict == Verdict::too_noisy;
  std::string marks = opacity > 0.6 ? "on" : "";
  if (noisy) marks += " noisy";
  return fmt::format(
      "<g><title>{}, B {}, {}: {} {} us, {} {} us ({:.0f} % of the ceiling)</title>"
      "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"{}\" class=\"{}\" fill-opacity=\"{:.2f}\"/>"
      "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\" class=\"{}\">{}{}</text></g>\n",
      escape(cell.name), cell.batch, percent_text(cell.sparsity), escape(dense.name),
      microseconds(dense.timing.median), escape(sparse.name), microseconds(sparse.timing.median),
      100 * sparse.share, x + 1, y + 1, kWide - 2, kHigh - 2, found.ratio > 1 ? "win" : "lose", opacity,
      x + kWide / 2, y + kHigh / 2 + 4, marks, noisy ? "~" : "", ratio_text(found.ratio));
}

std::string panel(const BenchResult& result, const Axes& axes, const std::vector<Crossover>& crossing,
                  const std::string& family, double top) {
  std::string svg = fmt::format("<text x=\"2\" y=\"{:.1f}\" class=\"title\">{}</text>\n", top + 18, family);
  for (size_t c = 0; c < axes.columns.size(); ++c) {
    svg +=
        fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\" class=\"soft\">{}</text>\n",
                    kLabel + (static_cast<double>(c) + 0.5) * kWide, top + 44, percent_text(axes.columns[c]));
  }
  const double right = kLabel + static_cast<double>(axes.columns.size()) * kWide;
  svg +=
      fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"soft\">pays from</text>\n", right + 8, top + 44);
  for (size_t r = 0; r < axes.rows.size(); ++r) {
    const double y = top + kHead + static_cast<double>(r) * kHigh;
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kLabel - 8,
                       y + kHigh / 2 + 4, escape(row_text(axes.rows[r])));
    for (size_t c = 0; c < axes.columns.size(); ++c) {
      const double x = kLabel + static_cast<double>(c) * kWide;
      const TableCell* cell = find(result, axes.rows[r], axes.columns[c]);
      const Entry* dense = cell != nullptr ? best_dense(*cell) : nullptr;
      const Entry* sparse = cell != nullptr ? best_sparse(*cell, family) : nullptr;
      if (dense != nullptr && sparse != nullptr) svg += map_cell(x, y, *cell, *dense, *sparse);
    }
    if (const Crossover* crossover = find(crossing, axes.rows[r], family)) {
      svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"soft\">{}</text>\n", right + 8,
                         y + kHigh / 2 + 4, escape(break_even_text(crossover->from)));
    }
  }
  return svg;
}

std::string times_section(const BenchResult& result) {
  std::string html =
      "<section><h2>Every time</h2>\n<details><summary>Medians of interleaved turns, hot</summary>\n"
      "<div class=\"scroll\"><table><tr><th>cell</th><th>B</th><th>sparsity</th><th></th><th>us</th>"
      "<th>quartiles</th><th>over the best dense</th><th>of the ceiling</th><th>turns</th></tr>\n";
  for (const TableCell& cell : result.cells) {
    const Entry* dense = best_dense(cell);
    for (const Entry& entry : cell.entries) {
      html += fmt::format(
          "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{} &ndash; {}</td><td>{}</td>"
          "<td>{:.2f}</td><td>{}{}</td></tr>\n",
          escape(cell.name), cell.batch, percent_text(cell.sparsity), escape(entry.name),
          microseconds(entry.timing.median), microseconds(entry.timing.low), microseconds(entry.timing.high),
          dense != nullptr ? ratio_text(compare(*dense, entry).ratio) : "", entry.share, entry.timing.samples,
          entry.timing.noisy ? ", noisy" : "");
    }
  }
  return html + "</table></div></details></section>\n";
}

std::string how_section(const BenchResult& result) {
  std::string html = "<section><h2>How it was measured</h2>\n<dl>";
  const auto row = [&](std::string_view what, std::string_view value) {
    if (!value.empty()) html += fmt::format("<dt>{}</dt><dd>{}</dd>\n", escape(what), escape(value));
  };
  row("machine", machine_text(result));
  row("system", result.system);
  std::vector<double> peaks;
  for (const TableCell& cell : result.cells) peaks.push_back(cell.gflops);
  row("peak of multiply-adds, meanwhile", fmt::format("{:.0f} GFLOP/s", median_of(peaks)));
  row("ceiling",
      "the least time for the nonzeros' multiply-adds at that peak, or for one read of the matrix "
      "from the cache that it fits into");
  row("turns",
      "all take turns within one run, each warmed up; turns that a neighbour spoilt, seen by the peak, "
      "are discarded; the figures are medians");
  std::string versions;
  for (const auto& [what, version] : result.versions) {
    versions += fmt::format("{}{}", versions.empty() ? "" : "; ",
                            version.starts_with(what) ? version : what + " " + version);
  }
  row("versions", versions);
  for (const std::string& note : result.notes) row("note", note);
  row("date", result.date);
  row("took", seconds_text(result.seconds));
  return html + "</dl></section>\n";
}

}  // namespace

std::string bench_table(const BenchResult& result) {
  std::string text = result.subject == "grid" ? grid_table(result) : model_table(result);
  for (const std::string& note : result.notes) text += fmt::format("Note: {}\n", note);
  return text;
}

std::string heat_map_svg(const BenchResult& result) {
  const Axes axes = axes_of(result);
  const std::vector<Crossover> crossing = crossovers(result);
  const double width = kLabel + static_cast<double>(axes.columns.size()) * kWide + kEdge;
  const double height = kHead + static_cast<double>(axes.rows.size()) * kHigh + 12;
  const std::vector<std::string> shown = families(result);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"map\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
      "style=\"max-width:{0:.0f}px\" role=\"img\" aria-label=\"Speed-up over the best dense by batch and "
      "sparsity\">\n<style>{2}</style>\n",
      width, height * static_cast<double>(shown.size()), kMapStyle);
  for (size_t f = 0; f < shown.size(); ++f) {
    svg += panel(result, axes, crossing, shown[f], static_cast<double>(f) * height);
  }
  return svg + "</svg>\n";
}

std::string bench_html(const BenchResult& result) {
  constexpr std::string_view kStyle = ".scroll { overflow-x:auto; } summary { cursor:pointer; }\n";
  const std::string title = result.subject == "grid" ? fmt::format("Where sparse pays: {}", result.cell)
                                                     : "Where sparse pays: " + result.subject;
  std::string html = fmt::format("<h1>{}</h1>\n<p class=\"soft\">{} &middot; {}</p>\n", escape(title),
                                 escape(what_was_timed(result)), escape(machine_text(result)));
  html += result.subject == "grid" ? map_section(result) : model_section(result);
  return page(title, kStyle, html + times_section(result) + how_section(result));
}

}  // namespace coppice::bench
