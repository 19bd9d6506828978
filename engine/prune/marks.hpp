#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/prune/plan.hpp"
#include "kernels/backend.hpp"

namespace coppice {

/// What the pass that counts leaves behind: a bit for each element of a group, 0 where its key lies below the
/// bracket, and the places inside. Once it is known where each part is cut, the bits of those before it are
/// cleared too, and the group is cut by bits: nothing is scored, and no gradient read, a second time. An
/// eighth of a byte an element; a search that its bracket doesn't settle leaves none.
class Marks {
 public:
  /// Bytes for a group.
  static uint64_t bytes(const PlanGroup& group);

  /// Room for the group's bits, which say nothing yet.
  void reserve(Backend& backend, const PlanGroup& group);
  /// Bits of a part, from the word in which that of its first element lies.
  uint64_t* words(size_t part) { return static_cast<uint64_t*>(words_.data()) + first_word_[part]; }

  /// The bits were written by MarkingOps::mark with this bracket; `inside` are the places in it that may be
  /// cut, part after part, the first so many of `ends` up to each part's end.
  void complete(Key low, Key high, std::vector<Place> inside, std::vector<size_t> ends);
  bool is_complete() const { return !ends_.empty(); }
  /// Makes the bits of each part say what is kept when it is cut at its one of `places`, and forgets what lay
  /// inside. Once for all: [parts] pointers to the words, null where the bits can't say it.
  std::vector<const uint64_t*> settle(const PlanGroup& group, std::span<const Place> places);

 private:
  Buffer words_;
  std::vector<int64_t> first_word_;  // by part
  Key low_ = 0, high_ = 0;
  std::vector<Place> inside_;
  std::vector<size_t> ends_;  // by part; empty: not complete
};

}  // namespace coppice
