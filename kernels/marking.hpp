#pragma once

#include <cstdint>
#include <vector>

#include "kernels/selection.hpp"

namespace coppice {

/// An operation of selection that not every backend has: one whose memory is the host's implements it beside
/// `SelectionOps`.
class MarkingOps {
 public:
  virtual ~MarkingOps() = default;

  /// As `SelectionOps::bracket`, and on the way bits, placed as `kept`'s (other words; null: not wanted): 0
  /// where a key is below `low` or an element cut already, 1 elsewhere, those inside included. Once the cut's
  /// place is known and the bits of the candidates before it are cleared, the bits are the mask, and
  /// `SelectionOps::apply` at the lowest of all places cuts by them: nobody scores a second time.
  virtual BlockCount mark(const Scoring& scoring, const ScoreBlock& block, Key low, Key high,
                          uint64_t capacity, std::vector<Place>& candidates, uint64_t* bits) = 0;
};

/// That operation of a backend, or null.
inline MarkingOps* marking(SelectionOps& ops) {
  return dynamic_cast<MarkingOps*>(&ops);
}

}  // namespace coppice
