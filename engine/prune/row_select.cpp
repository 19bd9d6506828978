#include "engine/prune/row_select.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "engine/prune/host_scores.hpp"
#include "engine/prune/percentile.hpp"
#include "kernels/error.hpp"
#include "kernels/ordered_key.hpp"

namespace coppice {
namespace {

/// Beyond this a row is a group like any other: it doesn't fit a cache, and there are few of them.
constexpr int64_t kLongRow = int64_t{1} << 18;

/// Elements whose keys are held at a time: they fit a cache.
constexpr int64_t kStretch = int64_t{1} << 18;

constexpr int64_t kWord = 64;

/// The element at `rank` in the order of (key, index), of one row. A histogram of the upper bits first, so
/// that the exact search sees few keys.
template <class Key>
RowPlace at_rank(const Key* keys, int64_t cols, uint64_t rank, std::vector<Key>& scratch) {
  constexpr int kDigitBits = 11;
  constexpr int kShift = std::numeric_limits<Key>::digits - kDigitBits;
  uint64_t before = 0;  // elements of lower bins
  scratch.clear();
  if (cols < 512) {
    scratch.assign(keys, keys + cols);
  } else {
    uint32_t bins[1 << kDigitBits] = {};
    for (int64_t i = 0; i < cols; ++i) ++bins[keys[i] >> kShift];
    Key bin = 0;
    while (rank >= before + bins[bin]) before += bins[bin++];
    for (int64_t i = 0; i < cols; ++i) {
      if (keys[i] >> kShift == bin) scratch.push_back(keys[i]);
    }
  }
  const auto nth = scratch.begin() + static_cast<ptrdiff_t>(rank - before);
  std::nth_element(scratch.begin(), nth, scratch.end());
  const Key key = *nth;
  uint64_t tie = rank - before;
  for (Key other : scratch) tie -= other < key ? 1 : 0;
  for (int64_t i = 0; i < cols; ++i) {
    if (keys[i] == key && tie-- == 0) return {key, static_cast<uint64_t>(i)};
  }
  failure("a row has fewer elements than the rank that is searched");
}

RowPlace earlier(const RowPlace& a, const RowPlace& b) {
  return a.key < b.key || (a.key == b.key && a.index < b.index) ? a : b;
}

/// The smallest key of a type whose score is at least `score`.
uint64_t key_at_least(DType dtype, double score) {
  return dtype == DType::f64 ? ordered_key(score) : narrow_at_least(ordered_key(score));
}

double score_of_key(DType dtype, uint64_t key) {
  if (key == 0) return -std::numeric_limits<double>::infinity();
  return dtype == DType::f64 ? value_of_key(key) : value_of_key(static_cast<uint32_t>(key));
}

/// The rules of DESIGN for one row, whose element at a rank `find` tells.
template <class Find>
RowPlace cut_of_row(const Plan& plan, DType dtype, uint64_t cols, uint64_t already, uint64_t& cut,
                    Find find) {
  if (!plan.percentile) {
    const uint64_t target = std::max(units_to_cut(plan.sparsity, cols), already);
    cut += target;
    if (target == 0) return {};
    RowPlace place = find(target - 1);
    ++place.index;
    return place;
  }
  const PercentileRank rank(*plan.percentile, cols);
  const double lower = score_of_key(dtype, find(rank.lower).key);
  const double upper = rank.upper == rank.lower ? lower : score_of_key(dtype, find(rank.upper).key);
  const RowPlace place{key_at_least(dtype, interpolate(lower, upper, rank.fraction)), 0};
  const uint64_t safe = static_cast<uint64_t>(std::ceil(plan.min_density * static_cast<double>(cols)));
  const uint64_t limit = std::max(cols - safe, already);
  return safe == 0 || limit == cols ? place : earlier(place, find(limit));
}

template <class Key>
std::vector<RowPlace> select_short_rows(ParameterSource& source, const Plan& plan, const PlanPart& part,
                                        uint64_t& cut, ReadingCost& cost) {
  const DType dtype = source.tensors()[part.tensor].dtype;
  const int threads = threads_of(source.backend());
  std::vector<RowPlace> places(static_cast<size_t>(part.count / part.cols));
  std::vector<Key> keys;  // of a stretch, behind those of a row that the stretch before it began
  int64_t held = 0, row = 0;
  const auto on_stretch = [&](const ScoreBlock& block) {
    keys.resize(static_cast<size_t>(held + block.count));
    refuse_nan(source.backend().selection().keys(plan.scoring, block, keys.data() + held), plan, source,
               part.tensor);
    const int64_t rows = (held + block.count) / part.cols;
    uint64_t here = 0;
#pragma omp parallel num_threads(threads) if (rows > 1 && block.count > kStretch / 4)
    {
      std::vector<Key> scratch;
#pragma omp for reduction(+ : here)
      for (int64_t r = 0; r < rows; ++r) {
        const Key* const of_row = keys.data() + r * part.cols;
        const uint64_t already =
            block.kept == nullptr ? 0 : static_cast<uint64_t>(std::count(of_row, of_row + part.cols, Key{0}));
        places[static_cast<size_t>(row + r)] =
            cut_of_row(plan, dtype, static_cast<uint64_t>(part.cols), already, here,
                       [&](uint64_t rank) { return at_rank(of_row, part.cols, rank, scratch); });
      }
    }
    cut += here;
    row += rows;
    held += block.count - rows * part.cols;
    std::memmove(keys.data(), keys.data() + rows * part.cols, static_cast<size_t>(held) * sizeof(Key));
  };
  source.read(part.tensor, part.begin, part.count, plan.statistic, false,
              [&](const ParameterSource::Run& run) {
                cost.elements += static_cast<uint64_t>(run.count);
                const ScoreBlock block = block_of(plan, source.tensors(), part.tensor, run);
                for (int64_t at = 0; at < run.count; at += kStretch) {
                  on_stretch(part_of(block, at, std::min(kStretch, run.count - at)));
                }
              });
  return places;
}

/// Rows as groups of their own, by the search that serves whole models.
std::vector<RowPlace> select_long_rows(ParameterSource& source, const Plan& plan, const PlanPart& part,
                                       uint64_t& cut, ReadingCost& cost) {
  const DType dtype = source.tensors()[part.tensor].dtype;
  const uint64_t cols = static_cast<uint64_t>(part.cols);
  std::vector<RowPlace> places;
  for (int64_t begin = part.begin; begin < part.begin + part.count; begin += part.cols) {
    PlanPart row = part;
    row.begin = begin;
    row.count = part.cols;
    row.units = cols;
    row.position = part.position + static_cast<uint64_t>(begin - part.begin);
    const PlanGroup group{source.tensors()[part.tensor].name, {row}, cols, 0};
    const uint64_t already = cols - source.count_kept(part.tensor, begin, part.cols);
    bool searched = false;
    places.push_back(cut_of_row(plan, dtype, cols, already, cut, [&](uint64_t rank) -> RowPlace {
      searched = true;
      const Place place = find_places(source, plan, group, std::vector{rank}, {}, cost).front();
      const uint64_t key = dtype == DType::f64 ? place.key
                           : plan.scoring.wide ? narrow_at_least(place.key)
                                               : place.key >> 32;
      return {key, place.position - row.position};
    }));
    if (!searched) check_scores(source, plan, group, cost);
  }
  return places;
}

/// Bit i: element `col` + i of its row, of that key, stays. What is cut already has key 0, which is below any
/// place that a row of such elements can have.
template <class Key>
uint64_t kept_word(const Key* keys, int64_t count, int64_t col, RowPlace place) {
  uint64_t word = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t key = keys[i];
    const bool keep = key > place.key || (key == place.key && static_cast<uint64_t>(col + i) >= place.index);
    word |= static_cast<uint64_t>(keep && key != 0) << i;
  }
  return word;
}

/// Sets the bits of what stays of a stretch, whose keys these are and whose first element is element `first`
/// of the part and bit `bit` of `kept`.
template <class Key>
void keep_bits(const Key* keys, int64_t count, int64_t cols, int64_t first, const std::vector<RowPlace>& rows,
               int64_t bit, int threads, uint64_t* kept) {
  constexpr int64_t kTaskWords = 64;
  const int64_t first_word = bit / kWord, words = (bit + count + kWord - 1) / kWord - first_word;
#pragma omp parallel for num_threads(threads) if (words > 8 * kTaskWords)
  for (int64_t task = 0; task < words; task += kTaskWords) {
    const int64_t begin = std::max<int64_t>(0, (first_word + task) * kWord - bit);
    const int64_t end = std::min(count, (first_word + task + kTaskWords) * kWord - bit);
    int64_t row = (first + begin) / cols, col = (first + begin) % cols;
    for (int64_t i = begin; i < end;) {
      // As far as the word and the row reach.
      const int64_t shift = (bit + i) % kWord, here = std::min({end - i, kWord - shift, cols - col});
      kept[(bit + i) / kWord] |= kept_word(keys + i, here, col, rows[static_cast<size_t>(row)]) << shift;
      i += here;
      col += here;
      if (col == cols) ++row, col = 0;
    }
  }
}

}  // namespace

std::vector<RowPlace> select_rows(ParameterSource& source, const Plan& plan, const PlanPart& part,
                                  uint64_t& cut, ReadingCost& cost) {
  if (part.count == 0) return {};
  if (part.cols > kLongRow) return select_long_rows(source, plan, part, cut, cost);
  return source.tensors()[part.tensor].dtype == DType::f64
             ? select_short_rows<uint64_t>(source, plan, part, cut, cost)
             : select_short_rows<uint32_t>(source, plan, part, cut, cost);
}

uint64_t apply_rows(Backend& backend, const Plan& plan, const ScoreBlock& block, const PlanPart& part,
                    int64_t first, const std::vector<RowPlace>& rows, void* output, uint64_t* mask) {
  std::vector<uint64_t> kept(static_cast<size_t>((block.mask_bit + block.count + kWord - 1) / kWord), 0);
  const bool wide = block.dtype == DType::f64;
  const auto keys = std::make_unique_for_overwrite<std::byte[]>(
      static_cast<size_t>(std::min(kStretch, block.count) * size_of(score_type(block.dtype))));
  const int threads = threads_of(backend);
  for (int64_t at = 0; at < block.count; at += kStretch) {
    const int64_t count = std::min(kStretch, block.count - at), bit = block.mask_bit + at;
    backend.selection().keys(plan.scoring, part_of(block, at, count), keys.get());
    if (wide) {
      keep_bits(reinterpret_cast<const uint64_t*>(keys.get()), count, part.cols, first + at, rows, bit,
                threads, kept.data());
    } else {
      keep_bits(reinterpret_cast<const uint32_t*>(keys.get()), count, part.cols, first + at, rows, bit,
                threads, kept.data());
    }
  }
  return apply_bits(backend, block, kept.data(), output, mask);
}

}  // namespace coppice
