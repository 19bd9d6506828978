#include "engine/prune/select.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/error.hpp"

namespace coppice {
namespace {

// Digits of a key from the top: 2048 bins are 16 KB, which stays in L1 and is little to send.
constexpr int kDigitBits = 11;

// Groups up to this size log every element: 1 MB of places, and one pass is certain.
constexpr uint64_t kSmallGroup = uint64_t{1} << 16;

// The bracket spans the sample's quantile by so many standard deviations: a miss in a hundred thousand
// searches costs less than a wider bracket in each.
constexpr double kDeviations = 4.5;

std::string where(const SourceTensor& tensor, uint64_t index) {
  if (tensor.cols() <= 1) return fmt::format("index {}", index);
  const uint64_t cols = static_cast<uint64_t>(tensor.cols());
  return fmt::format("index {} (row {}, column {})", index, index / cols, index % cols);
}

void refuse_nan(const BlockCount& found, const Plan& plan, std::span<const SourceTensor> tensors,
                size_t tensor) {
  if (found.nan_count == 0) return;
  bad_input("the score {} of '{}' is NaN at {}: its weight or gradient is not a number",
            formula(plan.scoring.criterion), tensors[tensor].name,
            where(tensors[tensor], found.first_nan - plan.positions[tensor]));
}

/// Calls visit(block, run) for the runs of a part, in order.
template <class Visit>
void for_blocks(ParameterSource& source, const Plan& plan, const PlanPart& part, ReadingCost* cost,
                Visit visit) {
  if (part.count == 0) return;
  const std::span<const SourceTensor> tensors = source.tensors();
  source.read(part.tensor, part.begin, part.count, plan.statistic, false,
              [&](const ParameterSource::Run& run) {
                if (cost != nullptr) cost->elements += static_cast<uint64_t>(run.count);
                visit(block_of(plan, tensors, part.tensor, run), run);
              });
}

uint64_t limit_of(const PlanGroup& group, const Limits& limits, size_t part) {
  return limits.empty() ? group.parts[part].units : limits.units[part];
}

uint64_t available(const PlanGroup& group, const Limits& limits) {
  uint64_t total = 0;
  for (size_t i = 0; i < group.parts.size(); ++i) total += limit_of(group, limits, i);
  return total;
}

struct Bracket {
  Key low = 0;
  Key high = ~Key{0};
  double share = 1.0;  // of the units, that are likely to lie inside
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
  std::vector<int64_t> starts;
  for (size_t p = 0; p < group.parts.size(); ++p) {
    const PlanPart& part = group.parts[p];
    for_blocks(source, plan, part, nullptr, [&](const ScoreBlock& block, const ParameterSource::Run& run) {
      const int64_t begin = part_begin + run.begin - part.begin;  // of the run, in the group
      starts.clear();
      for (; line < lines && start_of(line) < begin + run.count; ++line) {
        // A whole word of mask bits where the run has one: the kernels take those at a vector a time.
        const int64_t start = start_of(line) - begin + block.mask_bit;
        starts.push_back(std::max<int64_t>(0, start / kLine * kLine - block.mask_bit));
      }
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
    part_begin += part.count;
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
  bracket.share = (std::min(high, samples) - std::max(low, 0.0)) / samples;
  return bracket;
}

struct Counted {
  uint64_t below = 0;   // of what may be cut
  uint64_t inside = 0;  // likewise
  bool complete = false;
  std::vector<Place> candidates;
};

Counted count_bracket(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                      const Bracket& bracket, uint64_t capacity, size_t expected, const Limits& limits,
                      ReadingCost& cost) {
  SelectionOps& ops = source.backend().selection();
  Counted counted;
  counted.candidates.reserve(expected);
  uint64_t inside_unlimited = 0;
  for (size_t p = 0; p < group.parts.size(); ++p) {
    const PlanPart& part = group.parts[p];
    uint64_t below = 0, inside = 0;
    const size_t first = counted.candidates.size();
    for_blocks(source, plan, part, &cost, [&](const ScoreBlock& block, const ParameterSource::Run&) {
      const BlockCount found =
          ops.bracket(plan.scoring, block, bracket.low, bracket.high, capacity, counted.candidates);
      refuse_nan(found, plan, source.tensors(), part.tensor);
      below += found.below;
      inside += found.inside;
    });
    inside_unlimited += inside;
    const uint64_t limit = limit_of(group, limits, p);
    counted.below += std::min(below, limit);
    counted.inside += std::min(below + inside, limit) - std::min(below, limit);
    if (limits.empty()) continue;
    const auto is_protected = [&](const Place& place) { return place >= limits.first_protected[p]; };
    counted.candidates.erase(std::remove_if(counted.candidates.begin() + static_cast<ptrdiff_t>(first),
                                            counted.candidates.end(), is_protected),
                             counted.candidates.end());
  }
  counted.complete = counted.candidates.size() == counted.inside && inside_unlimited <= capacity;
  return counted;
}

/// The `index`-th place of the candidates.
Place nth_candidate(const std::vector<Place>& candidates, uint64_t index, const Bracket& bracket) {
  return KeyBins(candidates, bracket.low, bracket.high).nth(index);
}

}  // namespace

ScoreBlock block_of(const Plan& plan, std::span<const SourceTensor> tensors, size_t tensor,
                    const ParameterSource::Run& run) {
  ScoreBlock block;
  block.dtype = tensors[tensor].dtype;
  block.weights = run.weights;
  block.statistic = run.statistic;
  block.kept = run.kept;
  block.mask_bit = static_cast<int>(run.begin % 64);
  block.count = run.count;
  block.position = plan.positions[tensor] + static_cast<uint64_t>(run.begin);
  return block;
}

Histogram::Histogram(const KeyWindow& key_window, int64_t row_count)
    : window(key_window), rows(row_count), bins(static_cast<size_t>(row_count * key_window.bins()), 0) {}

void Histogram::add(const Histogram& other) {
  if (other.bins.size() != bins.size() || other.window.prefix != window.prefix ||
      other.window.prefix_bits != window.prefix_bits) {
    failure("histograms of different windows can't be added");
  }
  for (size_t i = 0; i < bins.size(); ++i) bins[i] += other.bins[i];
}

RankSearch::RankSearch(const Scoring& scoring, uint64_t rank, const Limits& limits)
    : key_bits_(key_bits(scoring)),
      rank_(rank),
      limits_(limits.empty() ? std::vector<uint64_t>{~uint64_t{0}} : limits.units),
      below_(limits_.size(), 0) {
  next_window();
}

void RankSearch::next_window() {
  window_.digit_bits = std::min(kDigitBits, key_bits_ - window_.prefix_bits);
}

void RankSearch::refine(const Histogram& histogram) {
  if (histogram.bins.size() != limits_.size() * static_cast<size_t>(window_.bins())) {
    failure("a histogram of {} bins doesn't answer a search over {} rows", histogram.bins.size(),
            limits_.size());
  }
  for (int64_t digit = 0; digit < window_.bins(); ++digit) {
    // Of a part, what may be cut is a prefix of its order, so counts below any key are simply cut off at the
    // limit.
    uint64_t here = 0;
    for (size_t row = 0; row < limits_.size(); ++row) {
      const uint64_t bin =
          histogram.bins[row * static_cast<size_t>(window_.bins()) + static_cast<size_t>(digit)];
      here += std::min(below_[row] + bin, limits_[row]) - std::min(below_[row], limits_[row]);
    }
    if (rank_ < here) {
      window_.prefix |= static_cast<Key>(digit) << (64 - window_.prefix_bits - window_.digit_bits);
      window_.prefix_bits += window_.digit_bits;
      next_window();
      return;
    }
    rank_ -= here;
    for (size_t row = 0; row < limits_.size(); ++row) {
      below_[row] += histogram.bins[row * static_cast<size_t>(window_.bins()) + static_cast<size_t>(digit)];
    }
  }
  failure("fewer units than the rank that is searched: the source changed between passes");
}

Histogram count(ParameterSource& source, const Plan& plan, const PlanGroup& group, const KeyWindow& window,
                const Limits& limits, ReadingCost* cost) {
  SelectionOps& ops = source.backend().selection();
  Histogram histogram(window, limits.empty() ? 1 : static_cast<int64_t>(group.parts.size()));
  for (size_t p = 0; p < group.parts.size(); ++p) {
    uint64_t* bins = histogram.bins.data() + (limits.empty() ? 0 : p * static_cast<size_t>(window.bins()));
    for_blocks(source, plan, group.parts[p], cost, [&](const ScoreBlock& block, const ParameterSource::Run&) {
      refuse_nan(ops.histogram(plan.scoring, block, window, bins), plan, source.tensors(),
                 group.parts[p].tensor);
    });
  }
  return histogram;
}

Place locate(ParameterSource& source, const Plan& plan, const PlanGroup& group, Key key, uint64_t tie,
             const Limits& limits, ReadingCost* cost) {
  SelectionOps& ops = source.backend().selection();
  std::vector<Place> none;
  for (size_t p = 0; p < group.parts.size(); ++p) {
    struct RunTies {
      int64_t begin, count;
      uint64_t ties;
    };
    std::vector<RunTies> runs;
    uint64_t below = 0, ties = 0;
    for_blocks(source, plan, group.parts[p], cost,
               [&](const ScoreBlock& block, const ParameterSource::Run& run) {
                 const BlockCount found = ops.bracket(plan.scoring, block, key, key, 0, none);
                 below += found.below;
                 ties += found.inside;
                 runs.push_back({run.begin, run.count, found.inside});
               });
    const uint64_t limit = limit_of(group, limits, p);
    const uint64_t usable = std::min(below + ties, limit) - std::min(below, limit);
    if (tie >= usable) {
      tie -= usable;
      continue;
    }
    for (const RunTies& run : runs) {
      if (tie >= run.ties) {
        tie -= run.ties;
        continue;
      }
      Place place{key, 0};
      PlanPart piece = group.parts[p];
      piece.begin = run.begin;
      piece.count = run.count;
      for_blocks(source, plan, piece, cost, [&](const ScoreBlock& block, const ParameterSource::Run&) {
        place.position = ops.find_equal(plan.scoring, block, key, tie);
      });
      return place;
    }
  }
  failure("fewer units with the threshold's score than were counted: the source changed between passes");
}

std::vector<Place> find_places_by_histogram(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                                            std::span<const uint64_t> ranks, const Limits& limits,
                                            ReadingCost& cost) {
  std::vector<Place> places;
  for (uint64_t rank : ranks) {
    RankSearch search(plan.scoring, rank, limits);
    while (!search.found()) search.refine(count(source, plan, group, search.window(), limits, &cost));
    places.push_back(locate(source, plan, group, search.key(), search.tie(), limits, &cost));
  }
  return places;
}

std::vector<Place> find_places(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                               std::span<const uint64_t> ranks, const Limits& limits, ReadingCost& cost) {
  if (ranks.empty()) return {};
  Bracket bracket;
  if (group.units > kSmallGroup) {
    if (!source.random_access()) return find_places_by_histogram(source, plan, group, ranks, limits, cost);
    bracket = sampled_bracket(source, plan, group, ranks, limits);
  }
  const bool one_key = bracket.low == bracket.high;
  const uint64_t capacity = one_key ? 0 : kSmallGroup + group.units / 32;
  // An eighth more than expected: growing would copy, and touch twice the memory.
  const uint64_t expected = static_cast<uint64_t>(1.125 * bracket.share * static_cast<double>(group.units));
  const Counted counted = count_bracket(source, plan, group, bracket, capacity,
                                        static_cast<size_t>(std::min(expected, capacity)), limits, cost);
  const bool hit = ranks.front() >= counted.below && ranks.back() < counted.below + counted.inside;
  if (!hit || !(one_key || counted.complete)) {
    ++cost.bracket_misses;
    return find_places_by_histogram(source, plan, group, ranks, limits, cost);
  }
  std::vector<Place> places;
  for (uint64_t rank : ranks) {
    const uint64_t index = rank - counted.below;
    places.push_back(one_key ? locate(source, plan, group, bracket.low, index, limits, &cost)
                             : nth_candidate(counted.candidates, index, bracket));
  }
  return places;
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
                 plan, source.tensors(), part.tensor);
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
