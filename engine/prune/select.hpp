#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/prune/plan.hpp"
#include "engine/prune/source.hpp"

namespace coppice {

// Finding the unit of a given rank, in steps that other machines can share. With shards of the same plan:
//
//   RankSearch search(plan.scoring, rank, limits);
//   while (!search.found()) {
//     Histogram histogram = count(source, plan, group, search.window(), limits);   // each machine its shard
//     histogram.add(histograms of the others);                                    // 16 KB, or that for each
//     part search.refine(histogram);
//   }
//   Place place = locate(source, plan, group, search.key(), search.tie(), limits);
//
// `find_places` does the same on one machine, mostly in a single pass: it draws a bracket from a sample and
// falls back to the histograms when the rank isn't inside, or too many units are (mass ties).

/// How far a cut may go in each part of a group, for a minimum density: the units that may be cut, and the
/// place of the first that is protected. Empty: everywhere to the end.
struct Limits {
  std::vector<uint64_t> units;
  std::vector<Place> first_protected;
  bool empty() const { return units.empty(); }
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
/// arithmetic: all machines that see the same sums take the same decisions.
class RankSearch {
 public:
  RankSearch(const Scoring& scoring, uint64_t rank, const Limits& limits = {});

  bool found() const { return window_.digit_bits == 0; }
  /// What to count next.
  const KeyWindow& window() const { return window_; }
  void refine(const Histogram& histogram);

  /// Once found: the unit's key, and its index among the units of the same key that may be cut.
  Key key() const { return window_.prefix; }
  uint64_t tie() const { return rank_; }

 private:
  void next_window();

  int key_bits_;
  uint64_t rank_;
  std::vector<uint64_t> limits_;
  std::vector<uint64_t> below_;  // by row: units below the window's prefix
  KeyWindow window_;
};

/// How much reading a selection took.
struct ReadingCost {
  uint64_t elements = 0;        // read, all passes together
  uint64_t bracket_misses = 0;  // searches that a bracket did not settle
};

/// One round of the search over what this source holds of the group's elements. Throws Error(bad_input) that
/// names the tensor and index of the first NaN score.
Histogram count(ParameterSource& source, const Plan& plan, const PlanGroup& group, const KeyWindow& window,
                const Limits& limits, ReadingCost* cost = nullptr);

/// The place of the `tie`-th unit with exactly this key. One machine's part of it: parts come in the total
/// order, so machines subtract the ties of those before them.
Place locate(ParameterSource& source, const Plan& plan, const PlanGroup& group, Key key, uint64_t tie,
             const Limits& limits, ReadingCost* cost = nullptr);

/// Places of the elements at `ranks` (ascending, at most a few, near each other) in the group's total order.
std::vector<Place> find_places(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                               std::span<const uint64_t> ranks, const Limits& limits, ReadingCost& cost);

/// The same without a bracket, whatever the source: for tests, and for a caller who knows that ties abound.
std::vector<Place> find_places_by_histogram(ParameterSource& source, const Plan& plan, const PlanGroup& group,
                                            std::span<const uint64_t> ranks, const Limits& limits,
                                            ReadingCost& cost);

/// Reads a group once only to refuse NaN scores: for a cut that needs no search.
void check_scores(ParameterSource& source, const Plan& plan, const PlanGroup& group, ReadingCost& cost);

/// Scores of the group's rows or columns: [parts][units], finished. Units that are cut already have kept ==
/// 0.
std::vector<std::vector<UnitScore>> score_units(ParameterSource& source, const Plan& plan,
                                                const PlanGroup& group, ReadingCost& cost);

/// Throws Error(bad_input) that names the tensor and the index of the first NaN score, if there is one.
void refuse_nan(const BlockCount& found, const Plan& plan, const ParameterSource& source, size_t tensor);

/// What the kernels are told of a run.
ScoreBlock block_of(const Plan& plan, std::span<const SourceTensor> tensors, size_t tensor,
                    const ParameterSource::Run& run);

}  // namespace coppice
