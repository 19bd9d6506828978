#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/prune/blocks.hpp"
#include "engine/prune/plan.hpp"
#include "engine/prune/source.hpp"

namespace coppice {

// Finding the unit of a given rank by counting alone, in steps that processes can share (merged_selection.hpp
// does). With shards of the same plan:
//
//   RankSearch search(plan.scoring, rank, limits);
//   while (!search.found()) {
//     Histogram histogram = count(source, plan, group, search.window(), limits);   // each process its shard
//     histogram.add(histograms of the others);                                    // 16 KB, or that for each
//     part search.refine(histogram);
//   }
//   Place place = locate(source, plan, group, search.key(), search.tie(), limits);

/// How far a cut may go in each part of a group, for a minimum density: the units that may be cut, and the
/// place of the first that is protected. Empty: everywhere to the end.
struct Limits {
  std::vector<uint64_t> units;
  std::vector<Place> first_protected;
  bool empty() const { return units.empty(); }
  /// Of a group's part.
  uint64_t of(const PlanGroup& group, size_t part) const {
    return empty() ? group.parts[part].units : units[part];
  }
};

/// How often keys fall into the bins of a window: one row for the whole group, or one for each part where
/// limits apply.
struct Histogram {
  KeyWindow window;
  int64_t rows = 1;
  std::vector<uint64_t> bins;  // [rows, window.bins()]

  Histogram(const KeyWindow& key_window, int64_t row_count);
  /// Of the same window over other elements.
  void add(const Histogram& other);
};

/// Narrows down the key of the unit at `rank` (from 0) in the total order of a group, window by window. Pure
/// arithmetic: all processes that see the same sums take the same decisions.
class RankSearch {
 public:
  RankSearch(const Scoring& scoring, uint64_t rank, const Limits& limits = {});

  bool found() const { return window_.digit_bits == 0; }
  /// What to count next.
  const KeyWindow& window() const { return window_; }
  /// Rows of the histograms that it takes.
  int64_t rows() const { return static_cast<int64_t>(limits_.size()); }
  void refine(const Histogram& histogram);

  /// Once found: the unit's key, and its index among the units of the same key that may be cut.
  Key key() const { return window_.prefix; }
  uint64_t tie() const { return rank_; }
  /// Of a row, its units with lower keys than the window's.
  uint64_t below(size_t row) const { return below_[row]; }

 private:
  void next_window();

  int key_bits_;
  uint64_t rank_;
  std::vector<uint64_t> limits_;
  std::vector<uint64_t> below_;  // by row: units below the window's prefix
  KeyWindow window_;
};

/// One round of the search over what this source holds of the group's elements. Throws Error(bad_input) that
/// names the tensor and index of the first NaN score.
Histogram count(ParameterSource& source, const Plan& plan, const PlanGroup& group, const KeyWindow& window,
                const Limits& limits, ReadingCost* cost = nullptr);

/// The place of the `tie`-th unit with exactly this key.
Place locate(ParameterSource& source, const Plan& plan, const PlanGroup& group, Key key, uint64_t tie,
             const Limits& limits, ReadingCost* cost = nullptr);

/// The same among the elements [begin, begin + count) of one part.
Place locate(ParameterSource& source, const Plan& plan, const PlanPart& part, int64_t begin, int64_t count,
             Key key, uint64_t tie, ReadingCost* cost = nullptr);

/// Places of the elements at `ranks` in the group's total order: for a source whose elements can't be
/// sampled, and where a bracket missed.
std::vector<Place> find_places_by_histogram(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                                            std::span<const uint64_t> ranks, const Limits& limits,
                                            ReadingCost& cost);

}  // namespace coppice
