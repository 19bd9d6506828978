#include "engine/bench/result.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/files/strict_json.hpp"
#include "kernels/error.hpp"

namespace coppice::bench {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const Entry& entry) {
  return {{"name", entry.name},
          {"version", entry.version},
          {"family", entry.family},
          {"layout", entry.layout},
          {"dense_bits", entry.dense_bits},
          {"density", entry.density},
          {"bytes", entry.bytes},
          {"seconds", entry.timing.median},
          {"quartiles", {entry.timing.low, entry.timing.high}},
          {"samples", entry.timing.samples},
          {"discarded", entry.timing.discarded},
          {"noisy", entry.timing.noisy},
          {"share_of_ceiling", entry.share}};
}

Entry entry_of(const nlohmann::json& json) {
  Entry entry;
  entry.name = json.at("name"), entry.version = json.at("version"), entry.family = json.at("family");
  entry.layout = json.at("layout"), entry.dense_bits = json.at("dense_bits");
  entry.density = json.at("density"), entry.bytes = json.at("bytes");
  entry.timing.median = json.at("seconds");
  entry.timing.low = json.at("quartiles").at(0);
  entry.timing.high = json.at("quartiles").at(1);
  entry.timing.samples = json.at("samples"), entry.timing.discarded = json.at("discarded");
  entry.timing.noisy = json.at("noisy");
  entry.share = json.at("share_of_ceiling");
  return entry;
}

Json json_of(const TableCell& cell) {
  Json json = {{"name", cell.name},         {"rows", cell.rows},         {"cols", cell.cols},
               {"batch", cell.batch},       {"sparsity", cell.sparsity}, {"peak_gflops", cell.gflops},
               {"read_gb_s", cell.read_gbs}};
  const Entry* dense = best_dense(cell);
  json["best_dense"] = dense != nullptr ? Json(dense->name) : Json(nullptr);
  json["entries"] = Json::array();
  for (const Entry& entry : cell.entries) {
    Json item = json_of(entry);
    if (dense != nullptr && entry.family != "dense" && entry.timing.median > 0) {
      item["speedup"] = compare(*dense, entry).ratio;
    }
    json["entries"].push_back(std::move(item));
  }
  return json;
}

TableCell cell_of(const nlohmann::json& json) {
  TableCell cell;
  cell.name = json.at("name"), cell.rows = json.at("rows"), cell.cols = json.at("cols");
  cell.batch = json.at("batch"), cell.sparsity = json.at("sparsity");
  cell.gflops = json.at("peak_gflops"), cell.read_gbs = json.at("read_gb_s");
  for (const nlohmann::json& entry : json.at("entries")) cell.entries.push_back(entry_of(entry));
  return cell;
}

const Entry* fastest(const TableCell& cell, auto&& counts) {
  const Entry* best = nullptr;
  for (const Entry& entry : cell.entries) {
    if (!counts(entry) || !(entry.timing.median > 0)) continue;
    if (best == nullptr || entry.timing.median < best->timing.median) best = &entry;
  }
  return best;
}

}  // namespace

const Entry* best_dense(const TableCell& cell) {
  return fastest(cell, [](const Entry& entry) { return entry.family == "dense"; });
}

const Entry* best_sparse(const TableCell& cell, std::string_view family) {
  return fastest(cell, [&](const Entry& entry) {
    return !entry.layout.empty() && entry.family != "dense" && (family.empty() || entry.family == family);
  });
}

Comparison compare(const Entry& dense, const Entry& sparse) {
  Comparison result;
  result.ratio = dense.timing.median / sparse.timing.median;
  result.verdict = result.ratio > 1 ? Verdict::pays : Verdict::loses;
  const bool noisy = dense.timing.noisy || sparse.timing.noisy;
  const double lowest = dense.timing.low / sparse.timing.high;
  const double highest = dense.timing.high / sparse.timing.low;
  if (noisy && lowest < 1 && highest > 1) result.verdict = Verdict::too_noisy;
  return result;
}

BreakEven break_even(std::vector<std::pair<double, double>> points) {
  std::sort(points.begin(), points.end());
  size_t first = points.size();  // the first of those behind which none loses
  while (first > 0 && points[first - 1].second > 1) --first;
  if (first == points.size()) return {};
  if (first == 0) return {points[0].first, true};
  const auto [low, low_ratio] = points[first - 1];
  const auto [high, high_ratio] = points[first];
  if (!(low_ratio > 0)) return {high, false};
  const double place = -std::log(low_ratio) / (std::log(high_ratio) - std::log(low_ratio));
  return {low + place * (high - low), false};
}

std::vector<std::string> families(const BenchResult& result) {
  std::vector<std::string> found;
  for (const char* family : {"unstructured", "blocks", "balanced"}) {
    const bool there = std::any_of(result.cells.begin(), result.cells.end(), [&](const TableCell& cell) {
      return best_sparse(cell, family) != nullptr;
    });
    if (there) found.emplace_back(family);
  }
  return found;
}

std::vector<Crossover> crossovers(const BenchResult& result) {
  std::vector<Crossover> list;
  for (const std::string& family : families(result)) {
    for (size_t i = 0; i < result.cells.size(); ++i) {
      const TableCell& first = result.cells[i];
      const auto same = [&](const TableCell& cell) {
        return cell.name == first.name && cell.batch == first.batch;
      };
      if (std::any_of(result.cells.begin(), result.cells.begin() + static_cast<ptrdiff_t>(i), same)) continue;
      std::vector<std::pair<double, double>> points;
      for (const TableCell& cell : result.cells) {
        if (!same(cell)) continue;
        const Entry *dense = best_dense(cell), *sparse = best_sparse(cell, family);
        if (dense != nullptr && sparse != nullptr) {
          points.emplace_back(cell.sparsity, compare(*dense, *sparse).ratio);
        }
      }
      if (!points.empty()) list.push_back({first.name, first.batch, family, break_even(std::move(points))});
    }
  }
  return list;
}

std::string bench_json(const BenchResult& result) {
  Json json = {{"schema", kBenchSchema},
               {"subject", result.subject},
               {"work", result.work},
               {"cell", result.cell},
               {"values", result.values},
               {"steps", result.steps},
               {"machine",
                {{"device", result.device},
                 {"processor", result.processor},
                 {"detail", result.detail},
                 {"system", result.system},
                 {"threads", result.threads}}},
               {"date", result.date},
               {"seconds", result.seconds}};
  json["versions"] = Json::object();
  for (const auto& [name, version] : result.versions) json["versions"][name] = version;
  json["notes"] = result.notes;
  json["crossover"] = Json::array();
  for (const Crossover& crossover : crossovers(result)) {
    json["crossover"].push_back(
        {{"name", crossover.name},
         {"batch", crossover.batch},
         {"family", crossover.family},
         {"sparsity", crossover.from.sparsity ? Json(*crossover.from.sparsity) : Json(nullptr)},
         {"at_most", crossover.from.at_most}});
  }
  json["cells"] = Json::array();
  for (const TableCell& cell : result.cells) json["cells"].push_back(json_of(cell));
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

BenchResult parse_bench(std::string_view text, const std::string& what) {
  const nlohmann::json json = parse_json(text, what);
  try {
    if (const int schema = json.at("schema"); schema != kBenchSchema) {
      bad_input("{}: schema {}, expected {}", what, schema, kBenchSchema);
    }
    BenchResult result;
    result.subject = json.at("subject"), result.work = json.at("work"), result.cell = json.at("cell");
    result.steps = json.at("steps");
    result.values = json.value("values", "fp32");
    const nlohmann::json& machine = json.at("machine");
    result.device = machine.at("device"), result.processor = machine.at("processor");
    result.detail = machine.at("detail"), result.system = machine.at("system");
    result.threads = machine.at("threads");
    result.date = json.at("date"), result.seconds = json.at("seconds");
    for (const auto& [name, version] : json.at("versions").items()) {
      result.versions.emplace(name, version);
    }
    result.notes = json.at("notes").get<std::vector<std::string>>();
    for (const nlohmann::json& cell : json.at("cells")) result.cells.push_back(cell_of(cell));
    return result;
  } catch (const nlohmann::json::exception& error) {
    bad_input("{}: not the result of a benchmark: {}", what, error.what());
  }
}

}  // namespace coppice::bench
