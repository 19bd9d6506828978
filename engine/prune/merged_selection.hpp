#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/prune/prune.hpp"
#include "engine/prune/rank_search.hpp"
#include "engine/prune/source.hpp"

namespace coppice {

/// A tensor, or the piece of it that one of several processes holds: its elements `first`, `first` + 1, …,
/// row-major.
struct TensorPiece {
  SourceTensor whole;  // as every process describes it
  int64_t first = 0;
  int64_t count = 0;
};

/// The same selection as `prune`, spread over processes that each hold pieces of the tensors. They count in
/// rounds and send one another nothing but counts:
///
///   while (!selection.done()) {
///     selection.count(source);                   // what this process holds
///     send(selection.counts()); for (bytes of every other process) selection.add(bytes);
///     selection.refine();                        // the same decision everywhere
///   }
///   selection.apply(source);
///
/// The first round tells everybody which pieces there are; the next ones are histograms (16 KB for each
/// group, rank_search.hpp), the last one counts ties. Masks are the bits that one process would make of the
/// union: ties go by the position in the whole. Elements of groups larger than rows only: pattern element,
/// scope global, tensor or gate.
///
/// Errors of the protocol (a round out of step, counts missing or added twice, pieces that overlap or leave a
/// hole, options that differ) are Error(bad_input) that says which.
class MergedSelection {
 public:
  /// Pieces in the order of the source's tensors, which they are.
  MergedSelection(std::vector<TensorPiece> pieces, const PruneConfig& config, uint64_t seed);

  bool done() const { return phase_ == Phase::done; }
  /// From 0.
  int64_t round() const { return round_; }

  /// Counts what this process holds, once a round. Error(bad_input) names the tensor and index of a NaN.
  void count(ParameterSource& source);
  /// What was counted and added in this round, to be sent: little-endian, for processes of the same version.
  std::vector<std::byte> counts() const;
  /// Adds another process's counts of this round.
  void add(std::span<const std::byte> counts);
  /// Takes a total in place of what was counted and added: where one process adds everything up.
  void adopt(std::span<const std::byte> total);
  /// Ends the round.
  void refine();

  /// Once done: thresholds of the groups over all processes, and how many units are cut there (0 where a
  /// percentile decides: only the writing tells).
  const std::vector<GroupOutcome>& groups() const { return outcomes_; }
  /// Once done: which of the source's tensors take part.
  std::vector<bool> selected() const;
  /// Once done: cuts what this process holds. Returns how many of its prunable elements are left.
  uint64_t apply(ParameterSource& source);

 private:
  enum class Phase : uint8_t { describe, cut_already, protect, protect_ties, search, search_ties, done };

  /// A piece of the union.
  struct Held {
    size_t tensor;
    int64_t first, count;
    std::optional<size_t> own;  // the source's tensor, when this process holds it
  };
  /// One rank that is searched.
  struct Search {
    PlanGroup group;  // of the plan, or one part of it
    Limits limits;
    RankSearch ranks;
    KeyWindow window{};              // that was counted last
    std::vector<uint64_t> expected;  // by row: what the window holds
    // Once found: the piece with the unit, and its index among the units of its key there.
    PlanPart part{};
    size_t piece = 0;
    uint64_t tie = 0;
  };

  void describe_union();
  void start_protection();
  void start_search();
  void start(Phase phase);
  void add_search(PlanGroup group, uint64_t rank, Limits limits);
  size_t expected_counts() const;
  void refine_windows();
  void resolve_ties();
  void finish();
  void count_ties(ParameterSource& source, const Search& search, uint64_t*& next);
  uint64_t digit(const Search& search) const;
  Place place_of(ParameterSource& source, const Search& search) const;
  PlanPart own_part(const PlanPart& part, const Held& piece) const;
  template <class Visit>
  void for_pieces(const PlanPart& part, Visit visit) const;

  std::vector<TensorPiece> own_;
  PruneConfig config_;
  uint64_t seed_;
  std::string options_;  // what all processes must have in common
  Phase phase_ = Phase::describe;
  int64_t round_ = 0;
  bool counted_ = false;

  std::vector<TensorPiece> described_;  // by all processes
  bool any_cut_ = false;                // something is cut already somewhere
  std::vector<SourceTensor> tensors_;   // the union's
  std::vector<Held> pieces_;            // by tensor, ascending
  std::vector<size_t> pieces_of_;       // by tensor: where its pieces start in `pieces_`; one more at the end
  Plan plan_;                           // of the union
  Plan own_plan_;                       // its positions for the source's tensors

  std::vector<uint64_t> counts_;
  std::vector<uint64_t> already_;                     // by part, all groups after one another
  std::vector<Search> searches_;                      // of this phase
  std::vector<Search> protection_;                    // those that are over
  std::vector<std::optional<size_t>> protected_by_;   // by part: in `protection_`
  std::vector<std::optional<size_t>> lower_, upper_;  // by group: in `searches_`
  std::vector<uint64_t> cut_;                         // by group
  std::vector<GroupOutcome> outcomes_;
};

}  // namespace coppice
