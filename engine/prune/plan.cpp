#include "engine/prune/plan.hpp"

#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "kernels/error.hpp"

namespace coppice {
namespace {

template <class T, size_t N>
T chosen(std::string_view key, const std::string& text, const std::pair<std::string_view, T> (&choices)[N]) {
  std::string known;
  for (const auto& [name, value] : choices) {
    if (name == text) return value;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", name);
  }
  bad_input("prune.{} must be one of {}; found '{}'", key, known, text);
}

Criterion chosen_criterion(const std::string& text) {
  std::string known;
  for (Criterion criterion : kCriteria) {
    if (to_string(criterion) == text) return criterion;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", to_string(criterion));
  }
  bad_input("prune.criterion must be one of {}; found '{}'", known, text);
}

void check_range(std::string_view key, double value, double highest) {
  if (value >= 0.0 && value <= highest) return;  // false for NaN
  bad_input("prune.{} must be between 0 and {}; found {}", key, highest, value);
}

/// Which tensors fully match one of the patterns.
std::vector<bool> matches(std::string_view key, const std::vector<std::string>& patterns,
                          std::span<const SourceTensor> tensors) {
  std::vector<bool> matched(tensors.size(), false);
  for (const std::string& pattern : patterns) {
    const RE2 expression(pattern, RE2::Quiet);
    if (!expression.ok()) {
      bad_input("prune.{}: '{}' is no regular expression: {}", key, pattern, expression.error());
    }
    bool any = false;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const auto matches_name = [&](const std::string& name) { return RE2::FullMatch(name, expression); };
      if (!matches_name(tensors[i].name) &&
          std::none_of(tensors[i].aliases.begin(), tensors[i].aliases.end(), matches_name)) {
        continue;
      }
      matched[i] = any = true;
    }
    if (!any)
      bad_input("prune.{}: '{}' matches no tensor of the {} in the model", key, pattern, tensors.size());
  }
  return matched;
}

std::string gate_name(const SourceTensor& tensor, int64_t gate) {
  const bool named = static_cast<int64_t>(tensor.gate_names.size()) == tensor.gates;
  const std::string name =
      named ? std::string(1, tensor.gate_names[static_cast<size_t>(gate)]) : std::to_string(gate);
  return tensor.gates > 1 ? tensor.name + ":" + name : tensor.name;
}

uint64_t units_of(const Plan& plan, int64_t rows, int64_t cols) {
  if (rows == 0 || cols == 0) return 0;
  const auto up = [](int64_t length, int64_t side) { return (length - 1) / side + 1; };
  switch (plan.pattern) {
    case Pattern::element:
    case Pattern::n_of_m:
      return static_cast<uint64_t>(rows * cols);
    case Pattern::block:
      return static_cast<uint64_t>(up(rows, plan.block_rows) * up(cols, plan.block_cols));
    case Pattern::row:
      return static_cast<uint64_t>(rows);
    case Pattern::unit:
      return 0;  // of no tensor alone
    case Pattern::column:
      break;
  }
  return static_cast<uint64_t>(cols);
}

void set_targets(Plan& plan) {
  if (plan.pattern == Pattern::n_of_m) {
    for (PlanGroup& group : plan.groups) {
      for (const PlanPart& part : group.parts) {
        group.units += part.units;
        if (part.cols == 0) continue;
        const int64_t rest = part.cols % plan.of;
        const int64_t kept = part.cols / plan.of * plan.keep + kept_of_group(plan, rest);
        group.cut += static_cast<uint64_t>(part.count / part.cols * (part.cols - kept));
      }
    }
    return;
  }
  for (PlanGroup& group : plan.groups) {
    uint64_t protected_units = 0;
    for (const PlanPart& part : group.parts) {
      group.units += part.units;
      protected_units += part.at_least;
    }
    if (plan.percentile) continue;
    group.cut = units_to_cut(plan.sparsity, group.units);
    if (plan.scope == Scope::row) {
      group.cut = 0;
      for (const PlanPart& part : group.parts) {
        if (part.cols == 0) continue;
        const uint64_t cols = static_cast<uint64_t>(part.cols);
        group.cut += part.units / cols * units_to_cut(plan.sparsity, cols);
      }
    }
    const uint64_t most = group.units - protected_units;
    if (group.cut > most) {
      bad_input(
          "prune.min_density = {} protects {} of the {} units of '{}', so at most {} can be cut, but a "
          "sparsity of {} "
          "cuts {}: feasible is a sparsity up to {:.6g}",
          plan.min_density, protected_units, group.units, group.name, most, plan.sparsity, group.cut,
          static_cast<double>(most) / static_cast<double>(group.units));
    }
  }
}

}  // namespace

int64_t kept_of_group(const Plan& plan, int64_t elements) {
  return (elements * plan.keep + plan.of - 1) / plan.of;
}

uint64_t units_to_cut(double sparsity, uint64_t units) {
  return static_cast<uint64_t>(std::nearbyint(sparsity * static_cast<double>(units)));
}

Plan make_plan(std::span<const SourceTensor> tensors, const PruneConfig& config, uint64_t seed,
               double sparsity) {
  Plan plan;
  plan.scoring.criterion = chosen_criterion(config.criterion);
  plan.scoring.seed = seed;
  plan.statistic = statistic_of(plan.scoring.criterion);
  const PatternText pattern = parse_pattern(config.pattern);
  plan.pattern = pattern.kind;
  plan.block_rows = pattern.rows, plan.block_cols = pattern.cols;
  plan.keep = pattern.keep, plan.of = pattern.group;
  plan.reduce = chosen<Reduce>("reduce", config.reduce,
                               {{"sum", Reduce::sum},
                                {"mean", Reduce::mean},
                                {"max", Reduce::max},
                                {"l2", Reduce::l2},
                                {"product", Reduce::product}});
  plan.scope = chosen<Scope>(
      "scope", config.scope,
      {{"global", Scope::global}, {"tensor", Scope::tensor}, {"gate", Scope::gate}, {"row", Scope::row}});
  const bool n_of_m = plan.pattern == Pattern::n_of_m;
  if (plan.scope == Scope::row && plan.pattern != Pattern::element && !n_of_m) {
    bad_input("prune.scope is 'row' but prune.pattern is '{}': what competes within a row are elements",
              config.pattern);
  }
  const bool unit = plan.pattern == Pattern::unit;
  if (unit && (plan.scope == Scope::gate || config.min_density_scope == "gate")) {
    bad_input(
        "prune.pattern 'unit' cuts units through all gates: prune.scope and prune.min_density_scope can't be "
        "'gate'");
  }
  const bool overridden = !(sparsity < 0.0);
  plan.sparsity = overridden ? sparsity : config.sparsity;
  check_range("sparsity", plan.sparsity, 1.0);
  if (!overridden && !(config.percentile < 0.0)) {
    check_range("percentile", config.percentile, 100.0);
    plan.percentile = config.percentile;
  }
  plan.min_density = config.min_density;
  if (n_of_m) {
    check_implied_sparsity(pattern, config.pattern, plan.sparsity);
    if (plan.percentile) bad_input("prune.percentile can't be had with prune.pattern '{}'", config.pattern);
    if (plan.min_density != 0.0) {
      bad_input("prune.min_density is {} but prune.pattern is '{}', which keeps {} of {} everywhere",
                plan.min_density, config.pattern, plan.keep, plan.of);
    }
  }
  check_range("min_density", plan.min_density, 1.0);
  const Scope protected_scope = chosen<Scope>("min_density_scope", config.min_density_scope,
                                              {{"tensor", Scope::tensor}, {"gate", Scope::gate}});
  const bool by_gate = plan.scope == Scope::gate ||
                       (plan.scope != Scope::row && plan.min_density > 0.0 && protected_scope == Scope::gate);
  if (by_gate && plan.scope != Scope::gate && plan.pattern == Pattern::column) {
    bad_input(
        "prune.min_density_scope = 'gate' can't protect columns, which cross all gates of a tensor, unless "
        "prune.scope is 'gate' too");
  }

  std::vector<size_t> by_name(tensors.size());
  std::iota(by_name.begin(), by_name.end(), size_t{0});
  std::sort(by_name.begin(), by_name.end(),
            [&](size_t a, size_t b) { return tensors[a].name < tensors[b].name; });
  for (size_t i = 1; i < by_name.size(); ++i) {
    const std::string& name = tensors[by_name[i]].name;
    if (name == tensors[by_name[i - 1]].name) bad_input("two tensors have the name '{}'", name);
  }

  const std::vector<bool> included = matches("include", config.include, tensors);
  const std::vector<bool> excluded = matches("exclude", config.exclude, tensors);
  plan.selected.resize(tensors.size());
  bool any = false;
  for (size_t i = 0; i < tensors.size(); ++i) {
    plan.selected[i] = (config.include.empty() ? tensors[i].prunable : included[i]) && !excluded[i];
    any = any || plan.selected[i];
  }
  if (!any)
    bad_input("nothing to prune: prune.include and prune.exclude leave none of the {} tensors",
              tensors.size());

  if (unit) {
    plan.wiring = find_units(tensors, plan.selected, matches("unit_readers", config.unit_readers, tensors));
    plan.selected.assign(tensors.size(), false);
    for (const UnitTensor& tensor : plan.wiring.tensors) plan.selected[tensor.tensor] = true;
  }

  const auto protected_of = [&](uint64_t units) {
    return static_cast<uint64_t>(std::ceil(plan.min_density * static_cast<double>(units)));
  };
  plan.positions.resize(tensors.size());
  uint64_t element_position = 0, unit_position = 0;
  if (plan.scope == Scope::global) plan.groups.push_back({"all", {}, 0, 0});
  for (size_t index : by_name) {
    const SourceTensor& tensor = tensors[index];
    plan.positions[index] = element_position;
    element_position += static_cast<uint64_t>(tensor.size());
    if (!plan.selected[index]) continue;
    if (tensor.dtype != DType::f32 && tensor.dtype != DType::f64 && !is_half(tensor.dtype)) {
      bad_input("'{}' can't be pruned as {}: scores are made from f64, f32, f16 or bf16", tensor.name,
                to_string(tensor.dtype));
    }
    if (tensor.gates < 1 || tensor.rows() % tensor.gates != 0) {
      bad_input("'{}' has {} rows, which {} gates don't share evenly", tensor.name, tensor.rows(),
                tensor.gates);
    }
    if (tensor.dtype == DType::f64) plan.scoring.wide = true;
    if (unit) continue;
    if (plan.scope == Scope::tensor || plan.scope == Scope::row)
      plan.groups.push_back({tensor.name, {}, 0, 0});
    const int64_t pieces = by_gate ? tensor.gates : 1;
    const int64_t rows = tensor.rows() / pieces;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      if (plan.scope == Scope::gate) plan.groups.push_back({gate_name(tensor, piece), {}, 0, 0});
      PlanPart part;
      part.tensor = index;
      part.cols = tensor.cols();
      part.begin = piece * rows * part.cols;
      part.count = rows * part.cols;
      part.units = units_of(plan, rows, part.cols);
      part.position = plan.pattern == Pattern::element || n_of_m
                          ? plan.positions[index] + static_cast<uint64_t>(part.begin)
                          : unit_position;
      part.at_least = n_of_m ? 0
                      : plan.scope == Scope::row
                          ? static_cast<uint64_t>(rows) * protected_of(static_cast<uint64_t>(part.cols))
                          : protected_of(part.units);
      unit_position += part.units;
      plan.groups.back().parts.push_back(part);
    }
  }
  for (const UnitLayer& layer : plan.wiring.layers) {
    if (plan.scope == Scope::tensor) plan.groups.push_back({tensors[layer.recurrent].name, {}, 0, 0});
    PlanPart part;
    part.tensor = layer.recurrent;
    part.cols = layer.hidden;
    part.units = static_cast<uint64_t>(layer.hidden);
    part.position = unit_position;
    part.at_least = protected_of(part.units);
    unit_position += part.units;
    plan.groups.back().parts.push_back(part);
  }
  set_targets(plan);
  return plan;
}

}  // namespace coppice
