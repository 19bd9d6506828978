#include "engine/prune/rank_search.hpp"

#include <algorithm>
#include <optional>

#include "kernels/error.hpp"

namespace coppice {
namespace {

// Digits of a key from the top: 2048 bins are 16 KB, which stays in L1 and is little to send.
constexpr int kDigitBits = 11;

}  // namespace

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
      refuse_nan(ops.histogram(plan.scoring, block, window, bins), plan, source, group.parts[p].tensor);
    });
  }
  return histogram;
}

Place locate(ParameterSource& source, const Plan& plan, const PlanPart& part, int64_t begin, int64_t count,
             Key key, uint64_t tie, ReadingCost* cost) {
  PlanPart piece = part;
  piece.begin = begin;
  piece.count = count;
  SelectionOps& ops = source.backend().selection();
  std::optional<uint64_t> position;
  std::vector<Place> none;
  for_blocks(source, plan, piece, cost, [&](const ScoreBlock& block, const ParameterSource::Run&) {
    if (position) return;
    const uint64_t ties = ops.bracket(plan.scoring, block, key, key, 0, none).inside;
    if (tie < ties) position = ops.find_equal(plan.scoring, block, key, tie);
    tie -= std::min(tie, ties);
  });
  if (!position) {
    failure("fewer units with the threshold's score than were counted: the source changed between passes");
  }
  return {key, *position};
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
    const uint64_t limit = limits.of(group, p);
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
      return locate(source, plan, group.parts[p], run.begin, run.count, key, tie, cost);
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

}  // namespace coppice
