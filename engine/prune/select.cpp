#include "engine/prune/select.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <optional>

#include "kernels/error.hpp"
#include "kernels/marking.hpp"

namespace coppice {
namespace {

// Groups up to this size log every element: 1 MB of places, and one pass is certain.
constexpr uint64_t kSmallGroup = uint64_t{1} << 16;

// The bracket spans the sample's quantile by so many standard deviations: a miss in a hundred thousand
// searches costs less than a wider bracket in each.
constexpr double kDeviations = 4.5;

uint64_t available(const PlanGroup& group, const Limits& limits) {
  uint64_t total = 0;
  for (size_t i = 0; i < group.parts.size(); ++i) total += limits.of(group, i);
  return total;
}

struct Bracket {
  Key low = 0;
  Key high = ~Key{0};
  double share = 1.0;     // of the units, that are likely to lie inside
  std::vector<Key> keys;  // of the sample, those inside, ascending
};

uint64_t scrambled(uint64_t x) {  // SplitMix64's finaliser
  x += 0x9e37'79b9'7f4a'7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58'476d'1ce4'e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d0'49bb'1331'11ebull;
  return x ^ (x >> 31);
}

Key key_of_value(Key key) {
  return key;
}
Key key_of_value(const Place& place) {
  return place.key;
}

/// Finds keys, or places, by rank: a histogram first, because nth_element over all of them would take a fifth
/// as long as the pass over all weights that found them, and on a GPU far longer than the pass.
template <class T>
class KeyBins {
 public:
  /// All keys lie in [low, high]; the values must outlive it.
  KeyBins(const std::vector<T>& values, Key low, Key high) : values_(values), low_(low) {
    while (((high - low) >> shift_) >= kBins) ++shift_;
    for (const T& value : values) ++bins_[bin_of(value)];
  }

  T nth(uint64_t index) const {
    uint64_t bin = 0;
    while (index >= bins_[bin]) index -= bins_[bin++];
    std::vector<T> same;
    same.reserve(bins_[bin]);
    for (const T& value : values_) {
      if (bin_of(value) == bin) same.push_back(value);
    }
    const auto nth = same.begin() + static_cast<ptrdiff_t>(index);
    std::nth_element(same.begin(), nth, same.end());
    return *nth;
  }

 private:
  static constexpr uint64_t kBins = 4096;
  uint64_t bin_of(const T& value) const { return (key_of_value(value) - low_) >> shift_; }

  const std::vector<T>& values_;
  Key low_;
  int shift_ = 0;
  std::vector<uint64_t> bins_ = std::vector<uint64_t>(kBins, 0);
};

/// A bracket that most likely holds the ranks: lines of 64 consecutive elements, one from each of equal
/// strata of the group.
Bracket sampled_bracket(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                        std::span<const uint64_t> ranks, const Limits& limits) {
  constexpr int64_t kLine = SelectionOps::kSampleLine;
  const int64_t units = static_cast<int64_t>(group.units);
  const int64_t lines = std::clamp<int64_t>(units / 4096, 512, 4096);
  const int64_t stride = units / lines;
  const auto start_of = [&](int64_t i) {
    const uint64_t room = static_cast<uint64_t>(std::max<int64_t>(1, stride - kLine + 1));
    return i * stride + static_cast<int64_t>(scrambled(static_cast<uint64_t>(i)) % room);
  };
  std::vector<Key> keys;
  std::vector<uint32_t> line_end;  // in `keys`
  keys.reserve(static_cast<size_t>(lines * kLine));
  line_end.reserve(static_cast<size_t>(lines));
  SelectionOps& ops = source.backend().selection();
  int64_t part_begin = 0, line = 0;
  std::vector<int64_t> wanted;
  for (size_t p = 0; p < group.parts.size(); ++p) {
    const PlanPart& part = group.parts[p];
    wanted.clear();
    for (; line < lines && start_of(line) < part_begin + part.count; ++line) {
      // A whole word of mask bits where the part has one: the kernels take those at a vector a time.
      const int64_t start = part.begin + start_of(line) - part_begin;
      wanted.push_back(std::max(part.begin, start / kLine * kLine));
    }
    part_begin += part.count;
    if (wanted.empty()) continue;
    source.read_lines(
        part.tensor, part.begin, part.count, wanted, plan.statistic,
        [&](const ParameterSource::Run& run, std::span<const int64_t> starts) {
          const ScoreBlock block = block_of(plan, source.tensors(), part.tensor, run);
          size_t at = keys.size(), out = at;
          ops.sample(plan.scoring, block, starts, keys);
          for (int64_t start : starts) {
            for (const size_t end = at + static_cast<size_t>(std::min(kLine, run.count - start)); at < end;
                 ++at) {
              // What is protected takes no part.
              if (limits.empty() || keys[at] < limits.first_protected[p].key) keys[out++] = keys[at];
            }
            line_end.push_back(static_cast<uint32_t>(out));
          }
          keys.resize(out);
        });
  }
  if (keys.empty()) return {};

  const double samples = static_cast<double>(keys.size());
  const double total = static_cast<double>(available(group, limits));
  const auto index_of = [&](uint64_t rank) { return (static_cast<double>(rank) + 0.5) / total * samples; };
  const auto [least, most] = std::minmax_element(keys.begin(), keys.end());
  const KeyBins<Key> ordered(keys, *least, *most);
  const auto sample_at = [&](double index) {
    return ordered.nth(static_cast<uint64_t>(std::clamp(index, 0.0, samples - 1.0)));
  };
  // Neighbours resemble each other (a dead row is a run of zeros), so the spread is taken between lines.
  const Key pivot = sample_at(index_of(ranks.front()));
  const double share =
      static_cast<double>(std::count_if(keys.begin(), keys.end(), [&](Key key) { return key < pivot; })) /
      samples;
  double between = 0.0;
  size_t begin = 0;
  for (uint32_t end : line_end) {
    const auto first = keys.begin() + static_cast<ptrdiff_t>(begin), last = keys.begin() + end;
    const double under =
        static_cast<double>(std::count_if(first, last, [&](Key key) { return key < pivot; }));
    const double excess = under - share * static_cast<double>(last - first);
    between += excess * excess;
    begin = end;
  }
  const double variance = share * (1.0 - share) * samples;
  const double margin = kDeviations * std::sqrt(std::max(variance, between)) + 2.0;
  const double low = std::floor(index_of(ranks.front()) - margin);
  const double high = std::ceil(index_of(ranks.back()) + margin);
  Bracket bracket;
  if (low >= 0.0) bracket.low = sample_at(low);
  if (high <= samples - 1.0) bracket.high = sample_at(high);
  for (Key key : keys) {
    if (key >= bracket.low && key <= bracket.high) bracket.keys.push_back(key);
  }
  std::sort(bracket.keys.begin(), bracket.keys.end());
  // Of values that few weights have to themselves, more than the margins span.
  bracket.share =
      std::max(std::min(high, samples) - std::max(low, 0.0), static_cast<double>(bracket.keys.size())) /
      samples;
  return bracket;
}

struct Counted {
  uint64_t below = 0;   // of what may be cut
  uint64_t inside = 0;  // likewise
  bool complete = false;
  std::vector<Place> candidates;  // part after part
  std::vector<size_t> ends;       // of each part in them
};

Counted count_bracket(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                      const Bracket& bracket, uint64_t capacity, size_t expected, const Limits& limits,
                      ReadingCost& cost, Marks* marks = nullptr) {
  SelectionOps& ops = source.backend().selection();
  Counted counted;
  counted.candidates.reserve(expected);
  uint64_t inside_unlimited = 0;
  for (size_t p = 0; p < group.parts.size(); ++p) {
    const PlanPart& part = group.parts[p];
    uint64_t below = 0, inside = 0;
    const size_t first = counted.candidates.size();
    for_blocks(source, plan, part, &cost, [&](const ScoreBlock& block, const ParameterSource::Run& run) {
      uint64_t* const bits =
          marks == nullptr ? nullptr : marks->words(p) + (run.begin / 64 - part.begin / 64);
      const BlockCount found =
          marks == nullptr
              ? ops.bracket(plan.scoring, block, bracket.low, bracket.high, capacity, counted.candidates)
              : marking(ops)->mark(plan.scoring, block, bracket.low, bracket.high, capacity,
                                   counted.candidates, bits);
      refuse_nan(found, plan, source, part.tensor);
      below += found.below;
      inside += found.inside;
    });
    inside_unlimited += inside;
    const uint64_t limit = limits.of(group, p);
    counted.below += std::min(below, limit);
    counted.inside += std::min(below + inside, limit) - std::min(below, limit);
    if (!limits.empty()) {
      const auto is_protected = [&](const Place& place) { return place >= limits.first_protected[p]; };
      counted.candidates.erase(std::remove_if(counted.candidates.begin() + static_cast<ptrdiff_t>(first),
                                              counted.candidates.end(), is_protected),
                               counted.candidates.end());
    }
    counted.ends.push_back(counted.candidates.size());
  }
  counted.complete = counted.candidates.size() == counted.inside && inside_unlimited <= capacity;
  return counted;
}

/// The `index`-th place of the candidates.
Place nth_candidate(const std::vector<Place>& candidates, uint64_t index, const Bracket& bracket) {
  return KeyBins(candidates, bracket.low, bracket.high).nth(index);
}

/// Keys at which a pass counts where the candidates would not fit: a few, because each looks at every block
/// again (which a cache still holds).
constexpr size_t kPivots = 7;

/// The bracket's values where they are few (bf16 weights: each value belongs to thousands), else its ends and
/// quantiles in between. Ascending, each once.
std::vector<Key> pivots_of(const Bracket& bracket) {
  std::vector<Key> values = bracket.keys;
  values.push_back(bracket.low);
  values.push_back(bracket.high);
  std::sort(values.begin(), values.end());
  std::vector<Key> pivots;
  std::unique_copy(values.begin(), values.end(), std::back_inserter(pivots));
  if (pivots.size() <= kPivots) return pivots;
  pivots.clear();
  for (size_t i = 0; i < kPivots; ++i) pivots.push_back(values[i * (values.size() - 1) / (kPivots - 1)]);
  pivots.erase(std::unique(pivots.begin(), pivots.end()), pivots.end());
  return pivots;
}

/// How many units lie below each pivot and how many have its key exactly, of what may be cut; and where the
/// latter are.
struct PivotCount {
  struct Run {
    int64_t begin, count;
    std::array<uint64_t, kPivots> ties;
  };
  struct Part {
    std::array<uint64_t, kPivots> ties;  // that may be cut: the first so many
    std::vector<Run> runs;
  };
  std::vector<uint64_t> below, ties;
  std::vector<Part> parts;
};

PivotCount count_pivots(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                        std::span<const Key> pivots, const Limits& limits, ReadingCost& cost) {
  SelectionOps& ops = source.backend().selection();
  PivotCount counted;
  counted.below.assign(pivots.size(), 0);
  counted.ties.assign(pivots.size(), 0);
  std::vector<Place> none;
  for (size_t p = 0; p < group.parts.size(); ++p) {
    PivotCount::Part& part = counted.parts.emplace_back();
    std::array<uint64_t, kPivots> below{}, ties{};
    for_blocks(source, plan, group.parts[p], &cost,
               [&](const ScoreBlock& block, const ParameterSource::Run& run) {
                 PivotCount::Run& here = part.runs.emplace_back(PivotCount::Run{run.begin, run.count, {}});
                 for (size_t i = 0; i < pivots.size(); ++i) {
                   const BlockCount found = ops.bracket(plan.scoring, block, pivots[i], pivots[i], 0, none);
                   refuse_nan(found, plan, source, group.parts[p].tensor);
                   below[i] += found.below;
                   ties[i] += here.ties[i] = found.inside;
                 }
               });
    const uint64_t limit = limits.of(group, p);
    for (size_t i = 0; i < pivots.size(); ++i) {
      part.ties[i] = std::min(below[i] + ties[i], limit) - std::min(below[i], limit);
      counted.below[i] += std::min(below[i], limit);
      counted.ties[i] += part.ties[i];
    }
  }
  return counted;
}

/// The place of the `tie`-th unit (from 0) with the key of pivot `i`: one run is read again.
Place place_of_tie(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                   const PivotCount& counted, size_t i, Key key, uint64_t tie, ReadingCost& cost) {
  for (size_t p = 0; p < group.parts.size(); ++p) {
    if (tie >= counted.parts[p].ties[i]) {
      tie -= counted.parts[p].ties[i];
      continue;
    }
    for (const PivotCount::Run& run : counted.parts[p].runs) {
      if (tie < run.ties[i])
        return locate(source, plan, group.parts[p], run.begin, run.count, key, tie, &cost);
      tie -= run.ties[i];
    }
  }
  failure("fewer units with the threshold's score than were counted: the source changed between passes");
}

/// Counts at pivots instead of logging places, so memory stays small whatever the ties. A rank whose key is a
/// pivot is found; of the others only a narrower bracket is known. Nothing is found where a rank lies
/// outside.
struct PivotSearch {
  std::vector<std::optional<Place>> places;  // by rank
  bool inside = true;                        // all others lie in `rest`
  Bracket rest;
  uint64_t rest_units = 0;  // in it, that may be cut
};

PivotSearch search_pivots(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                          std::span<const uint64_t> ranks, const Bracket& bracket, const Limits& limits,
                          ReadingCost& cost) {
  const std::vector<Key> pivots = pivots_of(bracket);
  const PivotCount counted = count_pivots(source, plan, group, pivots, limits, cost);
  PivotSearch search;
  search.places.resize(ranks.size());
  size_t low = pivots.size(), high = 0;  // the pivots around the ranks that are not found
  for (size_t r = 0; r < ranks.size(); ++r) {
    size_t i = 0;
    while (i < pivots.size() && ranks[r] >= counted.below[i] + counted.ties[i]) ++i;
    if (i < pivots.size() && ranks[r] >= counted.below[i]) {
      search.places[r] =
          place_of_tie(source, plan, group, counted, i, pivots[i], ranks[r] - counted.below[i], cost);
    } else if (i == 0 || i == pivots.size()) {
      search.inside = false;
    } else {
      low = std::min(low, i - 1);
      high = std::max(high, i);
    }
  }
  if (search.inside && low < high) {
    search.rest.low = pivots[low] + 1;
    search.rest.high = pivots[high] - 1;
    search.rest_units = counted.below[high] - counted.below[low] - counted.ties[low];
    for (Key key : bracket.keys) {
      if (key >= search.rest.low && key <= search.rest.high) search.rest.keys.push_back(key);
    }
  }
  return search;
}

}  // namespace

std::vector<Place> find_places(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                               std::span<const uint64_t> ranks, const Limits& limits, ReadingCost& cost,
                               Marks* marks) {
  if (ranks.empty()) return {};
  Bracket bracket;
  // A small group is scored again sooner than most of its bits are cleared one by one.
  if (group.units <= kSmallGroup || marking(source.backend().selection()) == nullptr) marks = nullptr;
  if (group.units > kSmallGroup) {
    if (!source.random_access()) return find_places_by_histogram(source, plan, group, ranks, limits, cost);
    bracket = sampled_bracket(source, plan, group, ranks, limits);
  }
  const uint64_t room = std::max(kSmallGroup, source.scratch_bytes() / sizeof(Place));
  const uint64_t capacity = std::min(kSmallGroup + group.units / 32, room);
  // An eighth more than expected: growing would copy, and touch twice the memory.
  uint64_t expected =
      std::min(static_cast<uint64_t>(1.125 * bracket.share * static_cast<double>(group.units)), group.units);
  std::vector<std::optional<Place>> places(ranks.size());
  std::vector<uint64_t> open(ranks.begin(), ranks.end());
  const auto take = [&](std::span<const std::optional<Place>> found) {
    size_t next = 0, left = 0;
    for (std::optional<Place>& place : places) {
      if (place) continue;
      place = found[next];
      if (!place) open[left++] = open[next];
      ++next;
    }
    open.resize(left);
  };
  // Ties, or too many for the memory: count before any place is logged.
  while (!open.empty() && (bracket.low == bracket.high || expected > capacity)) {
    PivotSearch search = search_pivots(source, plan, group, open, bracket, limits, cost);
    take(search.places);
    if (open.empty()) break;
    const bool narrower = search.inside && (search.rest_units <= capacity || !search.rest.keys.empty());
    if (!narrower) break;
    bracket = std::move(search.rest);
    expected = search.rest_units;
    if (expected <= capacity) break;
  }
  if (!open.empty() && expected <= capacity) {
    if (marks != nullptr) marks->reserve(source.backend(), group);
    Counted counted = count_bracket(source, plan, group, bracket, capacity, static_cast<size_t>(expected),
                                    limits, cost, marks);
    const bool hit = open.front() >= counted.below && open.back() < counted.below + counted.inside;
    if (hit && counted.complete) {
      std::vector<std::optional<Place>> found;
      for (uint64_t rank : open) {
        found.push_back(nth_candidate(counted.candidates, rank - counted.below, bracket));
      }
      take(found);
      if (marks != nullptr) {
        marks->complete(bracket.low, bracket.high, std::move(counted.candidates), std::move(counted.ends));
      }
    }
  }
  if (!open.empty()) {
    ++cost.bracket_misses;
    return find_places_by_histogram(source, plan, group, ranks, limits, cost);
  }
  std::vector<Place> found;
  for (const std::optional<Place>& place : places) found.push_back(*place);
  return found;
}

void check_scores(ParameterSource& source, const Plan& plan, const PlanGroup& group, ReadingCost& cost) {
  count_bracket(source, plan, group, {0, 0}, 0, 0, {}, cost);
}

std::vector<std::vector<UnitScore>> score_units(ParameterSource& source, const Plan& plan,
                                                const PlanGroup& group, ReadingCost& cost) {
  SelectionOps& ops = source.backend().selection();
  const UnitAxis axis = plan.pattern == Pattern::row ? UnitAxis::row : UnitAxis::column;
  std::vector<std::vector<UnitScore>> scores;
  for (const PlanPart& part : group.parts) {
    std::vector<UnitScore> units(static_cast<size_t>(part.units), start_unit(plan.reduce));
    for_blocks(source, plan, part, &cost, [&](const ScoreBlock& block, const ParameterSource::Run& run) {
      refuse_nan(ops.accumulate(plan.scoring, block, plan.reduce, axis, part.cols, run.begin - part.begin,
                                units.data()),
                 plan, source, part.tensor);
    });
    for (size_t i = 0; i < units.size(); ++i) {
      finish_unit(plan.reduce, units[i]);
      if (!std::isnan(units[i].mantissa)) continue;
      const SourceTensor& tensor = source.tensors()[part.tensor];
      const bool row = axis == UnitAxis::row;
      bad_input("the score of {} {} of '{}' is NaN: infinite element scores cancel", row ? "row" : "column",
                i + static_cast<size_t>(row ? part.begin / part.cols : 0), tensor.name);
    }
    scores.push_back(std::move(units));
  }
  return scores;
}

}  // namespace coppice
