#pragma once

#include <compare>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/criteria.hpp"
#include "kernels/tensor.hpp"

namespace coppice {

// Selection works on *units* (elements, rows, columns) that have a place in one total order: (key of the
// score, position). The position is the unit's rank by tensor name (byte order), then row-major index, so
// that ties are cut the same way everywhere. A cut is one point in that order: everything below it goes.
// Scores of elements are computed from w and the statistic on the fly in every pass; they are never stored
// and never sorted.
//
// All operations wait for their result: selection is a handful of passes over the whole model, each of which
// decides what the next one looks for.

/// An order-preserving image of a score (ordered_key.hpp). Wide keys are those of the score as float64, into
/// which a float32 score widens exactly. Narrow keys are those of a float32 score in the upper 32 bits, the
/// lower ones zero: half the digits to look at when every tensor is f32. Key 0, below that of −∞, is what is
/// cut already.
using Key = uint64_t;
inline constexpr Key kCutAlready = 0;

/// How scores are made.
struct Scoring {
  Criterion criterion = Criterion::magnitude;
  uint64_t seed = 0;  // random only
  bool wide = false;  // keys are wide: set when any tensor of the selection is f64
};

/// What elements of a type are scored in: f64 in itself, all others in f32, into which half precision widens
/// exactly.
constexpr DType score_type(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}
constexpr bool is_half(DType dtype) {
  return dtype == DType::f16 || dtype == DType::bf16;
}

/// How a block's statistic comes from what lies there: the gradient of one batch counts as g, |g| or g².
enum class StatisticForm : uint8_t { as_is, absolute, squared };

/// A contiguous run of one tensor's elements, on the device.
struct ScoreBlock {
  DType dtype = DType::f32;                             // of the weights: f64, f32, f16 or bf16
  DType statistic_dtype = DType::f32;                   // f64 where the weights are, else one of the others
  StatisticForm statistic_form = StatisticForm::as_is;  // of f64: that alone
  const void* weights = nullptr;                        // [count]
  const void* statistic = nullptr;                      // [count], or null when the criterion needs none
  const uint64_t* kept = nullptr;  // bits, 0 where a weight is cut already; null: none is
  int mask_bit = 0;                // element i is bit (mask_bit + i) % 64 of word (mask_bit + i) / 64
  int64_t count = 0;
  uint64_t position = 0;  // of the first element, in the total order over all elements of all tensors
};

/// Throws Error(failure) where a block is none that can be scored so.
void check_block(const Scoring& scoring, const ScoreBlock& block);

/// The elements [begin, begin + count) of a block.
ScoreBlock part_of(const ScoreBlock& block, int64_t begin, int64_t count);

/// A unit's place in the total order.
struct Place {
  Key key = 0;
  uint64_t position = 0;
  friend auto operator<=>(const Place&, const Place&) = default;
};

/// What a counting pass over a block finds. Weights that are cut already are never NaN, whatever they hold.
struct BlockCount {
  uint64_t below = 0;                 // keys < low
  uint64_t inside = 0;                // low <= keys <= high, those too that no longer fit `candidates`
  uint64_t nan_count = 0;             // NaN scores; the other figures mean nothing when there is one
  uint64_t first_nan = ~uint64_t{0};  // the smallest position of one
};

/// How the scores of a row's or column's elements become the unit's score. All in float64, in index order.
enum class Reduce : uint8_t { sum, mean, max, l2, product };

/// Which elements of a [rows, cols] block make a unit.
enum class UnitAxis : uint8_t { row, column };

/// A unit's score while it is built and afterwards: mantissa · 2^exponent. The exponent serves products,
/// which leave float64's range (fifty factors near 1e-7 do); |mantissa| in [0.5, 1) there, or 0, or not
/// finite.
struct UnitScore {
  double mantissa = 0.0;
  int64_t exponent = 0;
  int64_t kept = 0;  // elements behind it; those that are cut already take no part
};

/// A window of key bits for a histogram: keys whose top `prefix_bits` are those of `prefix`, told apart by
/// the `digit_bits` that follow.
struct KeyWindow {
  Key prefix = 0;
  int prefix_bits = 0;
  int digit_bits = 0;
  int64_t bins() const { return int64_t{1} << digit_bits; }
};

class SelectionOps {
 public:
  virtual ~SelectionOps() = default;

  /// Appends the keys of up to `kSampleLine` consecutive elements from each of `starts` (fewer at the block's
  /// end): a word of mask bits, a few cache lines. NaN scores get a key outside the floats' range.
  static constexpr int64_t kSampleLine = 64;
  virtual void sample(const Scoring& scoring, const ScoreBlock& block, std::span<const int64_t> starts,
                      std::vector<Key>& keys) = 0;

  /// One pass: counts, and appends the places inside [low, high] to `candidates` until it holds `capacity`.
  /// Their order is unspecified; when they don't fit, which of them are there is too.
  virtual BlockCount bracket(const Scoring& scoring, const ScoreBlock& block, Key low, Key high,
                             uint64_t capacity, std::vector<Place>& candidates) = 0;

  /// bins[d] += how many keys of the window have digit d; bins [window.bins()] on the host. Only NaN is
  /// reported in the result.
  virtual BlockCount histogram(const Scoring& scoring, const ScoreBlock& block, const KeyWindow& window,
                               uint64_t* bins) = 0;

  /// Position of the `index`-th (from 0) element whose key is exactly `key`; the caller has counted that it
  /// exists.
  virtual uint64_t find_equal(const Scoring& scoring, const ScoreBlock& block, Key key, uint64_t index) = 0;

  /// Elements below `cut`, and those cut already, become +0 in `output` (may be the weights; null: only the
  /// mask); the others keep their bits. Mask bits, placed as `kept`'s (may be the same words; null: not
  /// wanted): 1 where kept; bits of the words that belong to no element of the block stay. Returns how many
  /// elements are cut.
  virtual uint64_t apply(const Scoring& scoring, const ScoreBlock& block, Place cut, void* output,
                         uint64_t* mask) = 0;

  /// Writes the ordered_key of each element's score to `keys` [count] on the host, as wide as the block's
  /// score_type: uint32_t, or uint64_t for f64; 0 for what is cut already, anything for NaN. For what
  /// competes in groups so small that the host selects them while they lie in its cache. Only NaN is reported
  /// in the result.
  virtual BlockCount keys(const Scoring& scoring, const ScoreBlock& block, void* keys) = 0;

  /// Adds a block's elements to the scores of the rows or columns that they lie in. The block starts at
  /// element `first` of a row-major matrix of `cols` columns; units [rows or cols of that matrix] on the
  /// host, started by `start_unit` and ended by `finish_unit`. Blocks come in index order. Only NaN is
  /// reported in the result.
  virtual BlockCount accumulate(const Scoring& scoring, const ScoreBlock& block, Reduce reduce, UnitAxis axis,
                                int64_t cols, int64_t first, UnitScore* units) = 0;

  /// As `apply`, cutting the elements of the units whose bit in `kept_units` (on the host) is 0.
  virtual uint64_t apply_units(const ScoreBlock& block, UnitAxis axis, int64_t cols, int64_t first,
                               const uint64_t* kept_units, void* output, uint64_t* mask) = 0;

  /// How many elements are not cut already, by `block.kept`.
  virtual uint64_t count_kept(const ScoreBlock& block) = 0;
};

/// The bits of a key that can differ.
constexpr int key_bits(const Scoring& scoring) {
  return scoring.wide ? 64 : 32;
}

/// The key of a score, the score of a key, and the smallest key whose score is >= `score`.
Key key_of(const Scoring& scoring, double score);
double score_of(const Scoring& scoring, Key key);
Key key_at_least(const Scoring& scoring, double score);

/// The wide key of a float32's ordered_key, and back: the smallest such key, as 32 bits, whose score as a
/// wide key is >= `key`; 2^32 when there is none.
Key widened(uint32_t key);
uint64_t narrow_at_least(Key key);

UnitScore start_unit(Reduce reduce);
/// Takes the mean or the root and normalises, so that units compare; a unit without elements scores 0.
void finish_unit(Reduce reduce, UnitScore& unit);
/// Order of finished scores, none of them NaN.
bool less(const UnitScore& a, const UnitScore& b);
/// unit *= factor, one rounding, with the exponent kept apart.
void multiply(UnitScore& unit, double factor);

}  // namespace coppice
