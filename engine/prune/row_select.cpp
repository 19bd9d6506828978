#include "engine/prune/row_select.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "engine/prune/host_scores.hpp"
#include "engine/prune/percentile.hpp"
#include "kernels/error.hpp"
#include "kernels/ordered_key.hpp"

namespace coppice {
namespace {

/// Beyond this a row is a group like any other: it doesn't fit a cache, and there are few of them.
constexpr int64_t kLongRow = int64_t{1} << 18;

constexpr int64_t kWord = 64;

/// Keys of elements [begin, begin + count) of a block on the host, 0 for those that are cut already. Returns
/// the index (in the block) of the first of the others whose score is NaN, or −1.
template <class T, class Key>
int64_t keys_of(const Scoring& scoring, const ScoreBlock& block, int64_t begin, int64_t count, Key* keys) {
  const int64_t nan = score_elements<T>(scoring, block, begin, count,
                                        [keys](int64_t i, T score) { keys[i] = ordered_key(score); });
  for (int64_t i = 0; block.kept != nullptr && i < count; ++i) {
    if (!is_kept(block, begin + i)) keys[i] = 0;
  }
  return nan;
}

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

template <class T>
std::vector<RowPlace> select_short_rows(ParameterSource& source, const Plan& plan, const PlanPart& part,
                                        uint64_t& cut, ReadingCost& cost) {
  using Key = std::conditional_t<std::is_same_v<T, double>, uint64_t, uint32_t>;
  const DType dtype = source.tensors()[part.tensor].dtype;
  const int threads = threads_of(source.backend());
  std::vector<RowPlace> places(static_cast<size_t>(part.count / part.cols));
  std::vector<Key> keys;  // of the run, behind those of a row that the run before it began
  int64_t held = 0, row = 0;
  const auto on_run = [&](const ParameterSource::Run& run) {
    cost.elements += static_cast<uint64_t>(run.count);
    const HostBlock block(source.backend(), block_of(plan, source.tensors(), part.tensor, run));
    keys.resize(static_cast<size_t>(held + run.count));
    constexpr int64_t kChunk = 1 << 14;
    std::atomic<int64_t> first_nan = std::numeric_limits<int64_t>::max();
    const int64_t chunks = (run.count + kChunk - 1) / kChunk;
#pragma omp parallel for num_threads(threads) if (chunks > 4)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t begin = chunk * kChunk, count = std::min(kChunk, run.count - begin);
      const int64_t nan = keys_of<T>(plan.scoring, *block, begin, count, keys.data() + held + begin);
      int64_t known = first_nan;
      while (nan >= 0 && nan < known && !first_nan.compare_exchange_weak(known, nan)) {
      }
    }
    if (const int64_t nan = first_nan; nan < run.count) {
      refuse_nan({0, 0, 1, (*block).position + static_cast<uint64_t>(nan)}, plan, source, part.tensor);
    }
    const int64_t rows = (held + run.count) / part.cols;
    uint64_t here = 0;
#pragma omp parallel num_threads(threads) if (rows > 1 && run.count > 4 * kChunk)
    {
      std::vector<Key> scratch;
#pragma omp for reduction(+ : here)
      for (int64_t r = 0; r < rows; ++r) {
        const Key* const of_row = keys.data() + r * part.cols;
        const uint64_t already =
            run.kept == nullptr ? 0 : static_cast<uint64_t>(std::count(of_row, of_row + part.cols, Key{0}));
        places[static_cast<size_t>(row + r)] =
            cut_of_row(plan, dtype, static_cast<uint64_t>(part.cols), already, here,
                       [&](uint64_t rank) { return at_rank(of_row, part.cols, rank, scratch); });
      }
    }
    cut += here;
    row += rows;
    held += run.count - rows * part.cols;
    std::memmove(keys.data(), keys.data() + rows * part.cols, static_cast<size_t>(held) * sizeof(Key));
  };
  source.read(part.tensor, part.begin, part.count, plan.statistic, false, on_run);
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

template <class T>
void keep_bits(const Plan& plan, const ScoreBlock& block, const PlanPart& part, int64_t first,
               const std::vector<RowPlace>& rows, int threads, std::vector<uint64_t>& kept) {
  using Key = std::conditional_t<std::is_same_v<T, double>, uint64_t, uint32_t>;
  constexpr int64_t kChunkWords = 64;
  const int64_t words = static_cast<int64_t>(kept.size());
#pragma omp parallel for num_threads(threads) if (words > 8 * kChunkWords)
  for (int64_t chunk = 0; chunk < words; chunk += kChunkWords) {
    Key keys[kChunkWords * kWord];
    const int64_t begin = std::max<int64_t>(0, chunk * kWord - block.mask_bit);
    const int64_t end = std::min(block.count, (chunk + kChunkWords) * kWord - block.mask_bit);
    keys_of<T>(plan.scoring, block, begin, end - begin, keys);
    int64_t row = (first + begin) / part.cols, col = (first + begin) % part.cols;
    RowPlace place = rows[static_cast<size_t>(row)];
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t key = keys[i - begin];
      const bool keep = key > place.key || (key == place.key && static_cast<uint64_t>(col) >= place.index);
      const int64_t bit = block.mask_bit + i;
      // What is cut already has key 0, which is below any place that a row of such elements can have.
      kept[static_cast<size_t>(bit / kWord)] |= static_cast<uint64_t>(keep && key != 0) << (bit % kWord);
      if (++col == part.cols && i + 1 < end) {
        col = 0;
        place = rows[static_cast<size_t>(++row)];
      }
    }
  }
}

}  // namespace

std::vector<RowPlace> select_rows(ParameterSource& source, const Plan& plan, const PlanPart& part,
                                  uint64_t& cut, ReadingCost& cost) {
  if (part.count == 0) return {};
  if (part.cols > kLongRow) return select_long_rows(source, plan, part, cut, cost);
  return source.tensors()[part.tensor].dtype == DType::f64
             ? select_short_rows<double>(source, plan, part, cut, cost)
             : select_short_rows<float>(source, plan, part, cut, cost);
}

uint64_t apply_rows(Backend& backend, const Plan& plan, const ScoreBlock& block, const PlanPart& part,
                    int64_t first, const std::vector<RowPlace>& rows, void* output, uint64_t* mask) {
  const HostBlock host(backend, block);
  std::vector<uint64_t> kept(static_cast<size_t>((block.mask_bit + block.count + kWord - 1) / kWord), 0);
  if (block.dtype == DType::f64) {
    keep_bits<double>(plan, *host, part, first, rows, threads_of(backend), kept);
  } else {
    keep_bits<float>(plan, *host, part, first, rows, threads_of(backend), kept);
  }
  return apply_bits(backend, block, kept.data(), output, mask);
}

}  // namespace coppice
