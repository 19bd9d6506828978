#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/backend.hpp"
#include "kernels/criteria.hpp"
#include "kernels/selection.hpp"

namespace coppice {

// What competes in small groups (a row, n of m, a block) is scored on the host while it lies in its cache,
// whatever the device: groups come in millions. Scores are those of the kernels, bit for bit.

/// The arrays of a block where the host can read them.
class HostBlock {
 public:
  HostBlock(Backend& backend, const ScoreBlock& block);
  const ScoreBlock& operator*() const { return block_; }
  const ScoreBlock* operator->() const { return &block_; }

 private:
  ScoreBlock block_;
  std::vector<uint64_t> weights_, statistic_, kept_;
};

/// How many threads serve work on the host beside a backend.
inline int threads_of(Backend& backend) {
  return std::max(1, backend.info().threads);
}

/// Whether element `i` of a block on the host is not cut already.
inline bool is_kept(const ScoreBlock& block, int64_t i) {
  const int64_t bit = block.mask_bit + i;
  return block.kept == nullptr || (block.kept[bit / 64] >> (bit % 64) & 1) != 0;
}

/// Calls put(i, score) for the elements begin + i, i < count, of a block on the host whose type is T, those
/// too that are cut already. Returns the index (in the block) of the first of the others whose score is NaN,
/// or −1.
template <class T, class Put>
int64_t score_elements(const Scoring& scoring, const ScoreBlock& block, int64_t begin, int64_t count,
                       Put put) {
  const T* const weights = static_cast<const T*>(block.weights) + begin;
  const T* const statistic =
      block.statistic == nullptr ? nullptr : static_cast<const T*>(block.statistic) + begin;
  const uint64_t position = block.position + static_cast<uint64_t>(begin);
  int64_t nan = -1;
  visit(scoring.criterion, [&](auto criterion) {
    using C = decltype(criterion);
    const auto score = [&](int64_t i) {
      const T s = C::statistic == Statistic::none ? T(0) : statistic[i];
      return C::score(weights[i], s, position + static_cast<uint64_t>(i), scoring.seed);
    };
    uint32_t unordered = 0;
    for (int64_t i = 0; i < count; ++i) {
      const T value = score(i);
      unordered |= static_cast<uint32_t>(value != value);
      put(i, value);
    }
    for (int64_t i = 0; unordered != 0 && nan < 0 && i < count; ++i) {
      const T value = score(i);
      if (value != value && is_kept(block, begin + i)) nan = begin + i;
    }
  });
  return nan;
}

/// Adds one element's score to its unit's.
inline void add_to_unit(Reduce reduce, UnitScore& unit, double score) {
  ++unit.kept;
  switch (reduce) {
    case Reduce::sum:
    case Reduce::mean:
      unit.mantissa += score;
      return;
    case Reduce::max:
      unit.mantissa = std::max(unit.mantissa, score);
      return;
    case Reduce::l2:
      unit.mantissa += score * score;
      return;
    case Reduce::product:
      multiply(unit, score);
  }
}

/// As SelectionOps::apply, cutting what `kept` says, bits on the host placed as the block's own, and what is
/// cut already.
uint64_t apply_bits(Backend& backend, const ScoreBlock& block, const uint64_t* kept, void* output,
                    uint64_t* mask);

}  // namespace coppice
