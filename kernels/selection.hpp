#pragma once

#include <vector>

#include "kernels/criteria.hpp"
#include "kernels/tensor.hpp"

namespace coppice {

// Selection works on *units* that have a place in one total order: (key of the score, position). The position is
// the unit's rank by tensor name (byte order), then row-major index, so that ties are cut the same way everywhere.
// A cut is one point in that order: everything below it goes. Scores are computed from w and the statistic on
// the fly in every pass; they are never stored and never sorted.
//
// The steps count, add, refine and apply are separate and public: histograms of different blocks, shards or ranks
// add up, and nothing else needs to travel.

/// A contiguous run of one tensor's elements, on the device.
struct ScoreBlock {
  DType dtype = DType::f32;         // of weights and statistic: f32, or f64 (scored in float64)
  const void* weights = nullptr;    // [count]
  const void* statistic = nullptr;  // [count] or null when the criterion needs none
  int64_t count = 0;
  uint64_t position = 0;            // of the first element, in the total order over all tensors
};

/// How scores are made.
struct Scoring {
  Criterion criterion = Criterion::magnitude;
  uint64_t seed = 0;  // random only
};

/// Keys are 64 bits wide: a float32 score widens exactly to float64, so one key serves both and mixed sets
/// order right. (Kernels may work on 32-bit keys inside where all blocks are f32.)
using Key = uint64_t;

/// A unit's place in the total order.
struct Place {
  Key key = 0;
  uint64_t position = 0;
  friend auto operator<=>(const Place&, const Place&) = default;
};

/// What one bracket pass finds: how many units lie below `low`, and those in [low, high] themselves.
struct BracketCount {
  uint64_t below = 0;
  uint64_t inside = 0;       // counted even when they no longer fit `candidates`
  uint64_t nan_count = 0;    // NaN scores
  uint64_t first_nan = ~uint64_t{0};  // the smallest position of one
};

class SelectionOps {
 public:
  virtual ~SelectionOps() = default;

  /// Keys of `places.size()` elements spread over the block, for a bracket; the draw is deterministic.
  virtual void sample(const Scoring& scoring, const ScoreBlock& block, int64_t count, uint64_t seed,
                      std::vector<Key>& keys) = 0;

  /// bins[d] += number of elements whose key's top `prefix_bits` equal `prefix` and whose next `digit_bits`
  /// are d. bins [2^digit_bits], on the host. Returns NaN scores like `bracket`.
  virtual BracketCount histogram(const Scoring& scoring, const ScoreBlock& block, Key prefix, int prefix_bits,
                                 int digit_bits, uint64_t* bins) = 0;

  /// One pass: counts below `low` and appends the places inside [low, high] to `candidates` until it holds
  /// `capacity` (order unspecified; the host sorts what it needs).
  virtual BracketCount bracket(const Scoring& scoring, const ScoreBlock& block, Key low, Key high,
                               int64_t capacity, std::vector<Place>& candidates) = 0;

  /// Elements below `cut` become +0 in `output` (may be `weights`; null: only the mask), the others keep their
  /// bits; mask bit i = 1 where kept (null: not wanted), bit 0 of the first word being the block's first
  /// element. Returns how many were cut.
  virtual uint64_t apply(const Scoring& scoring, const ScoreBlock& block, Place cut, void* output,
                         uint64_t* mask) = 0;

  // --- to be completed with groups (rows, columns), percentile and products by prune/
};

}  // namespace coppice
