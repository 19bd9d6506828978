#include "engine/prune/prune.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/prune/block_scores.hpp"
#include "engine/prune/masks.hpp"
#include "engine/prune/n_of_m.hpp"
#include "engine/prune/percentile.hpp"
#include "engine/prune/plan.hpp"
#include "engine/prune/select.hpp"
#include "engine/prune/unit_select.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Where a group is cut, and what the report says of it.
struct GroupCut {
  std::vector<PartCut> parts;
  std::unique_ptr<BlockScores> blocks;
  Marks marks;
  double threshold = std::numeric_limits<double>::quiet_NaN();
  std::string threshold_text = "none";
  // What the selection expects; in percentile mode, unless all scores are held, only the writing tells.
  uint64_t cut_units = 0;
  bool held = false;
};

/// The place right behind a unit: it is cut, the next one stays.
Place behind(const Place& place) {
  return {place.key, place.position + 1};
}

/// Units of each part that are cut already. Elements only; rows and columns know from their scores.
std::vector<uint64_t> cut_already(ParameterSource& source, const PlanGroup& group) {
  std::vector<uint64_t> cut;
  for (const PlanPart& part : group.parts) {
    cut.push_back(static_cast<uint64_t>(part.count) - source.count_kept(part.tensor, part.begin, part.count));
  }
  return cut;
}

uint64_t sum(const std::vector<uint64_t>& values) {
  uint64_t total = 0;
  for (uint64_t value : values) total += value;
  return total;
}

/// `room`: bytes that marks may take, less afterwards by what they took.
GroupCut select_elements(ParameterSource& source, const Plan& plan, const PlanGroup& group, ReadingCost& cost,
                         uint64_t& room) {
  GroupCut result;
  result.parts.resize(group.parts.size());
  Marks* const marks = Marks::bytes(group) <= room ? &result.marks : nullptr;
  const std::vector<uint64_t> already = cut_already(source, group);

  Limits limits;
  if (plan.min_density > 0.0) {
    for (size_t i = 0; i < group.parts.size(); ++i) {
      const PlanPart& part = group.parts[i];
      const uint64_t limit = std::max(part.units - part.at_least, already[i]);
      Place first{~Key{0}, ~uint64_t{0}};
      if (limit < part.units) {
        const PlanGroup alone{group.name, {part}, part.units, 0};
        first = find_places(source, plan, alone, std::vector{limit}, {}, cost).front();
      }
      limits.units.push_back(limit);
      limits.first_protected.push_back(first);
    }
  }

  Place cut{};
  if (plan.percentile) {
    if (group.units == 0) return result;
    const PercentileRank rank(*plan.percentile, group.units);
    std::vector<uint64_t> ranks{rank.lower};
    if (rank.upper != rank.lower) ranks.push_back(rank.upper);
    const std::vector<Place> places = find_places(source, plan, group, ranks, {}, cost, marks);
    const auto score = [&](const Place& place) {
      return place.key == kCutAlready ? -kInfinity : score_of(plan.scoring, place.key);
    };
    result.threshold = coppice::interpolate(score(places.front()), score(places.back()), rank.fraction);
    result.threshold_text = fmt::format("{}", result.threshold);
    cut = {key_at_least(plan.scoring, result.threshold), 0};
  } else {
    result.cut_units = std::max(group.cut, sum(already));
    if (result.cut_units == 0) {
      check_scores(source, plan, group, cost);
    } else {
      const Place last =
          find_places(source, plan, group, std::vector{result.cut_units - 1}, limits, cost, marks).front();
      cut = behind(last);
      if (last.key != kCutAlready) {
        result.threshold = score_of(plan.scoring, last.key);
        result.threshold_text = fmt::format("{}", result.threshold);
      }
    }
  }
  std::vector<Place> places;
  for (size_t i = 0; i < group.parts.size(); ++i) {
    places.push_back(limits.empty() ? cut : std::min(cut, limits.first_protected[i]));
  }
  const std::vector<const uint64_t*> bits = result.marks.settle(group, places);
  for (size_t i = 0; i < group.parts.size(); ++i) {
    result.parts[i].place = places[i];
    result.parts[i].marks = bits[i];
  }
  if (result.marks.is_complete()) {
    room -= Marks::bytes(group);
  } else {
    result.marks = {};
  }
  return result;
}

GroupCut select_each_row(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                         ReadingCost& cost) {
  GroupCut result;
  result.threshold_text = "by row";
  for (const PlanPart& part : group.parts) {
    PartCut cut;
    cut.rows = select_rows(source, plan, part, result.cut_units, cost);
    result.parts.push_back(std::move(cut));
  }
  return result;
}

/// A unit by its part and its number in it: large models have millions of rows.
struct UnitIndex {
  uint32_t part = 0;
  uint32_t unit = 0;
};

/// Finished scores of a group's units and their order: units that are cut already come before all others,
/// ties go by position.
class RankedUnits {
 public:
  explicit RankedUnits(std::vector<std::vector<UnitScore>> scores) : scores_(std::move(scores)) {}

  const std::vector<UnitScore>& part(size_t index) const { return scores_[index]; }
  const UnitScore& score(UnitIndex unit) const { return scores_[unit.part][unit.unit]; }

  bool before(UnitIndex a, UnitIndex b) const {
    const UnitScore &score_a = score(a), &score_b = score(b);
    const bool a_kept = score_a.kept != 0, b_kept = score_b.kept != 0;
    if (a_kept != b_kept) return b_kept;
    if (a_kept) {
      if (less(score_a, score_b)) return true;
      if (less(score_b, score_a)) return false;
    }
    return a.part != b.part ? a.part < b.part : a.unit < b.unit;
  }

  UnitIndex at_rank(std::vector<UnitIndex>& units, uint64_t rank) const {
    const auto nth = units.begin() + static_cast<ptrdiff_t>(rank);
    std::nth_element(units.begin(), nth, units.end(),
                     [this](UnitIndex a, UnitIndex b) { return before(a, b); });
    return *nth;
  }

 private:
  std::vector<std::vector<UnitScore>> scores_;
};

/// As a float64, and as text also where that can't hold it.
void set_threshold(GroupCut& result, const UnitScore& score) {
  const int exponent = static_cast<int>(std::clamp<int64_t>(score.exponent, -100'000, 100'000));
  result.threshold = std::ldexp(score.mantissa, exponent);
  const bool fits =
      score.mantissa == 0.0 || !std::isfinite(score.mantissa) || std::isnormal(result.threshold);
  result.threshold_text =
      fits ? fmt::format("{}", result.threshold) : fmt::format("{}·2^{}", score.mantissa, score.exponent);
}

/// The interpolation on scores that may lie outside float64's range: both are scaled by one power of two,
/// which changes no bit of the result where float64 can hold it.
UnitScore interpolate(const UnitScore& lower, const UnitScore& upper, double fraction) {
  if (fraction == 0.0) return lower;
  if (!std::isfinite(lower.mantissa) || !std::isfinite(upper.mantissa)) return upper;
  const auto exponent_of = [](const UnitScore& score) {
    return score.mantissa == 0.0 ? std::numeric_limits<int64_t>::min() : score.exponent;
  };
  const int64_t scale = std::max(exponent_of(lower), exponent_of(upper));
  if (scale == std::numeric_limits<int64_t>::min()) return lower;
  const auto scaled = [&](const UnitScore& score) {
    const int64_t shift = score.mantissa == 0.0 ? 0 : std::max<int64_t>(score.exponent - scale, -100'000);
    return std::ldexp(score.mantissa, static_cast<int>(shift));
  };
  int exponent = 0;
  UnitScore result;
  result.mantissa = std::frexp(coppice::interpolate(scaled(lower), scaled(upper), fraction), &exponent);
  result.exponent = result.mantissa == 0.0 ? 0 : scale + exponent;
  result.kept = 1;
  return result;
}

/// Of units whose finished scores, [parts][units], are held at once.
GroupCut select_units(const Plan& plan, const PlanGroup& group, std::vector<std::vector<UnitScore>> scores) {
  GroupCut result;
  result.held = true;
  result.parts.resize(group.parts.size());
  const RankedUnits ranked(std::move(scores));

  // The best units of each part are out of the competition.
  std::vector<UnitIndex> eligible;
  std::vector<std::optional<UnitIndex>> first_protected(group.parts.size());
  uint64_t already = 0;
  for (size_t p = 0; p < group.parts.size(); ++p) {
    std::vector<UnitIndex> units;
    uint64_t cut = 0;
    for (size_t u = 0; u < ranked.part(p).size(); ++u) {
      units.push_back({static_cast<uint32_t>(p), static_cast<uint32_t>(u)});
      cut += ranked.part(p)[u].kept == 0 ? 1 : 0;
    }
    already += cut;
    uint64_t limit = units.size();
    if (plan.min_density > 0.0) {
      limit = std::max(group.parts[p].units - group.parts[p].at_least, cut);
      if (limit < units.size()) first_protected[p] = ranked.at_rank(units, limit);
    }
    // A percentile is one of all units, protected or not.
    if (plan.percentile) limit = units.size();
    eligible.insert(eligible.end(), units.begin(), units.begin() + static_cast<ptrdiff_t>(limit));
  }

  // is_cut(unit) says on which side of the cut a unit lies, protection aside.
  std::function<bool(UnitIndex)> is_cut = [](UnitIndex) { return false; };
  if (plan.percentile && !eligible.empty()) {
    const PercentileRank rank(*plan.percentile, group.units);
    const auto score_at = [&](uint64_t r) {
      const UnitScore& score = ranked.score(ranked.at_rank(eligible, r));
      return score.kept == 0 ? UnitScore{-kInfinity, 0, 0} : score;
    };
    const UnitScore lower = score_at(rank.lower);
    const UnitScore threshold = interpolate(lower, score_at(rank.upper), rank.fraction);
    set_threshold(result, threshold);
    is_cut = [&ranked, threshold](UnitIndex unit) { return less(ranked.score(unit), threshold); };
  } else if (!plan.percentile) {
    const uint64_t target = std::max(group.cut, already);
    if (target > 0) {
      const UnitIndex last = ranked.at_rank(eligible, target - 1);
      if (ranked.score(last).kept != 0) set_threshold(result, ranked.score(last));
      is_cut = [&ranked, last](UnitIndex unit) { return !ranked.before(last, unit); };
    }
  }
  for (size_t p = 0; p < group.parts.size(); ++p) {
    std::vector<uint64_t>& kept = result.parts[p].kept_units;
    kept.assign((ranked.part(p).size() + 63) / 64, 0);
    for (size_t u = 0; u < ranked.part(p).size(); ++u) {
      const UnitIndex unit{static_cast<uint32_t>(p), static_cast<uint32_t>(u)};
      const bool safe = first_protected[p] && !ranked.before(unit, *first_protected[p]);
      if (ranked.score(unit).kept != 0 && (safe || !is_cut(unit))) {
        kept[u / 64] |= uint64_t{1} << (u % 64);
      } else {
        ++result.cut_units;
      }
    }
  }
  return result;
}

/// Products need an exponent beside each score and are held; all other scores are made anew by every pass.
GroupCut select_blocks(ParameterSource& source, const Plan& plan, const PlanGroup& group, ReadingCost& cost) {
  auto blocks = std::make_unique<BlockScores>(source, plan, group);
  GroupCut result;
  if (plan.reduce == Reduce::product) {
    const uint64_t bytes = group.units * (sizeof(UnitScore) + sizeof(UnitIndex));
    if (bytes > source.scratch_bytes()) {
      bad_input(
          "prune.reduce 'product' of {} blocks of '{}' holds {} bytes of scores, more than the {} that "
          "--memory leaves; expected larger blocks, another reduction or more memory",
          group.units, group.name, bytes, source.scratch_bytes());
    }
    std::vector<std::vector<UnitScore>> scores;
    for (size_t p = 0; p < group.parts.size(); ++p) scores.push_back(blocks->unit_scores(p));
    result = select_units(plan, group, std::move(scores));
  } else {
    ReadingCost of_blocks;
    uint64_t no_room = 0;  // their places are bits of blocks, which the writing makes bits of elements
    result = select_elements(*blocks, blocks->plan(), blocks->group(), of_blocks, no_room);
    cost.bracket_misses += of_blocks.bracket_misses;
    for (size_t p = 0; p < group.parts.size(); ++p) {
      result.parts.at(p).blocks = blocks.get();
      result.parts.at(p).part = p;
    }
  }
  cost.elements += blocks->elements_read();
  result.blocks = std::move(blocks);
  return result;
}

GroupCut select_n_of_m(ParameterSource& source, const Plan& plan, const PlanGroup& group, ReadingCost& cost) {
  GroupCut result;
  result.threshold_text = "by group";
  result.parts.resize(group.parts.size());
  for (const PlanPart& part : group.parts) result.cut_units += count_group_cuts(source, plan, part, cost);
  return result;
}

GroupCut select(ParameterSource& source, const Plan& plan, const PlanGroup& group, ReadingCost& cost,
                uint64_t& room) {
  switch (plan.pattern) {
    case Pattern::element:
      return plan.scope == Scope::row ? select_each_row(source, plan, group, cost)
                                      : select_elements(source, plan, group, cost, room);
    case Pattern::n_of_m:
      return select_n_of_m(source, plan, group, cost);
    case Pattern::block:
      return select_blocks(source, plan, group, cost);
    case Pattern::row:
    case Pattern::column:
    case Pattern::unit:
      break;
  }
  return select_units(plan, group, score_units(source, plan, group, cost));
}

/// Hidden units are scored over all layers at once: what one makes another reads.
std::vector<GroupCut> select_hidden_units(ParameterSource& source, const Plan& plan, ReadingCost& cost) {
  std::vector<std::vector<UnitScore>> scores = score_hidden_units(source, plan, cost);
  std::vector<GroupCut> cuts;
  size_t layer = 0;
  for (const PlanGroup& group : plan.groups) {
    std::vector<std::vector<UnitScore>> of_group;
    for (size_t i = 0; i < group.parts.size(); ++i) of_group.push_back(std::move(scores[layer++]));
    cuts.push_back(select_units(plan, group, std::move(of_group)));
  }
  return cuts;
}

/// Cuts them, and says which are left.
std::vector<LayerOutcome> write_hidden_units(ParameterSource& source, const Plan& plan,
                                             const std::vector<GroupCut>& cuts,
                                             std::vector<std::vector<uint64_t>>& cut_by_gate) {
  std::vector<LayerOutcome> layers;
  std::vector<std::vector<uint64_t>> kept;
  for (const GroupCut& cut : cuts) {
    for (const PartCut& part : cut.parts) kept.push_back(part.kept_units);
  }
  for (size_t l = 0; l < plan.wiring.layers.size(); ++l) {
    const UnitLayer& layer = plan.wiring.layers[l];
    LayerOutcome& outcome = layers.emplace_back();
    outcome.name = source.tensors()[layer.recurrent].name;
    outcome.hidden = static_cast<uint64_t>(layer.hidden);
    for (uint64_t u = 0; u < outcome.hidden; ++u) {
      if ((kept[l][u / 64] >> (u % 64) & 1) != 0) outcome.kept.push_back(u);
    }
  }
  cut_hidden_units(source, plan, kept, cut_by_gate);
  return layers;
}

TensorOutcome outcome_of(const SourceTensor& tensor, bool selected) {
  TensorOutcome outcome;
  outcome.name = tensor.name;
  outcome.shape = tensor.shape;
  outcome.pruned = selected;
  outcome.size = static_cast<uint64_t>(tensor.size());
  const int64_t gates = tensor.gates;
  const bool named = static_cast<int64_t>(tensor.gate_names.size()) == gates;
  for (int64_t gate = 0; gates > 1 && gate < gates; ++gate) {
    outcome.gate_names.push_back(named ? std::string(1, tensor.gate_names[static_cast<size_t>(gate)])
                                       : std::to_string(gate));
    outcome.gate_size.push_back(outcome.size / static_cast<uint64_t>(gates));
  }
  return outcome;
}

}  // namespace

PruneOutcome prune(ParameterSource& source, const PruneConfig& config, uint64_t seed, double sparsity) {
  const std::span<const SourceTensor> tensors = source.tensors();
  const Plan plan = make_plan(tensors, config, seed, sparsity);

  // Everything is selected before anything is written, so that an error leaves the weights as they were.
  ReadingCost cost;
  std::vector<GroupCut> cuts;
  if (plan.pattern == Pattern::unit) {
    cuts = select_hidden_units(source, plan, cost);
  } else {
    uint64_t room = source.scratch_bytes() / 2;  // the places of a search take the rest
    for (const PlanGroup& group : plan.groups) cuts.push_back(select(source, plan, group, cost, room));
  }

  PruneOutcome outcome;
  std::vector<std::vector<uint64_t>> cut_by_gate;
  for (const SourceTensor& tensor : tensors) cut_by_gate.emplace_back(static_cast<size_t>(tensor.gates), 0);
  for (size_t g = 0; g < plan.groups.size(); ++g) {
    const PlanGroup& group = plan.groups[g];
    uint64_t cut = 0;
    for (size_t i = 0; i < group.parts.size(); ++i) {
      const PlanPart& part = group.parts[i];
      cut += write_part(source, plan, part, cuts[g].parts[i], cut_by_gate[part.tensor]).units;
      cost.elements += static_cast<uint64_t>(part.count);
      outcome.prunable += static_cast<uint64_t>(part.count);
    }
    if (cuts[g].held) {
      cut = cuts[g].cut_units;
    } else if (!plan.percentile && cut != cuts[g].cut_units) {
      failure("'{}': {} units were cut instead of {}: the source changed between passes", group.name, cut,
              cuts[g].cut_units);
    }
    outcome.groups.push_back({group.name, group.units, cut, cuts[g].threshold, cuts[g].threshold_text});
  }
  if (plan.pattern == Pattern::unit) {
    outcome.layers = write_hidden_units(source, plan, cuts, cut_by_gate);
    outcome.wiring = plan.wiring;
    for (const UnitTensor& tensor : plan.wiring.tensors) {
      outcome.prunable += static_cast<uint64_t>(tensors[tensor.tensor].size());
    }
    cost.elements += outcome.prunable;
  }
  source.finish_writing();

  for (size_t t = 0; t < tensors.size(); ++t) {
    TensorOutcome tensor = outcome_of(tensors[t], plan.selected[t]);
    if (plan.selected[t]) {
      tensor.kept = tensor.size - sum(cut_by_gate[t]);
      outcome.kept += tensor.kept;
    } else {
      tensor.kept = source.count_kept(t, 0, tensors[t].size());
    }
    for (size_t gate = 0; gate < tensor.gate_size.size(); ++gate) {
      const int64_t size = static_cast<int64_t>(tensor.gate_size[gate]);
      tensor.gate_kept.push_back(plan.selected[t]
                                     ? tensor.gate_size[gate] - cut_by_gate[t][gate]
                                     : source.count_kept(t, static_cast<int64_t>(gate) * size, size));
    }
    outcome.total += tensor.size;
    outcome.tensors.push_back(std::move(tensor));
  }
  // To the nearest: a search among ties reads one block again.
  if (outcome.prunable > 0) {
    outcome.passes = std::max<uint64_t>(1, (cost.elements + outcome.prunable / 2) / outcome.prunable);
  }
  outcome.bracket_misses = cost.bracket_misses;
  return outcome;
}

}  // namespace coppice
