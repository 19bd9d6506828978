#include "engine/prune/n_of_m.hpp"

#include <algorithm>
#include <atomic>
#include <limits>
#include <type_traits>

#include "engine/prune/host_scores.hpp"
#include "kernels/ordered_key.hpp"

namespace coppice {
namespace {

/// Elements that are selected together: their keys fit the last cache, and a region of threads pays.
constexpr int64_t kTogether = int64_t{1} << 18;

/// Sets the keys of those that go to 0, of one group.
template <class Key>
uint64_t cut_group(Key* keys, int64_t count, int64_t kept, std::vector<Key>& scratch) {
  const int64_t already = std::count(keys, keys + count, Key{0});
  const int64_t target = std::max(count - kept, already);
  if (target == already) return static_cast<uint64_t>(target);
  scratch.assign(keys, keys + count);
  const auto last = scratch.begin() + (target - 1);
  std::nth_element(scratch.begin(), last, scratch.end());
  const Key threshold = *last;
  int64_t ties = target - std::count_if(keys, keys + count, [=](Key key) { return key < threshold; });
  for (int64_t i = 0; i < count; ++i) {
    if (keys[i] < threshold || (keys[i] == threshold && ties-- > 0)) keys[i] = 0;
  }
  return static_cast<uint64_t>(target);
}

/// Keys of the elements [begin, end) of the tensor, 0 for those that are cut already.
template <class T, class Key>
std::vector<Key> keys_between(ParameterSource& source, const Plan& plan, const PlanPart& part, int64_t begin,
                              int64_t end, ReadingCost* cost) {
  const int threads = threads_of(source.backend());
  std::vector<Key> keys(static_cast<size_t>(end - begin));
  source.read(part.tensor, begin, end - begin, plan.statistic, false, [&](const ParameterSource::Run& run) {
    if (cost != nullptr) cost->elements += static_cast<uint64_t>(run.count);
    const HostBlock block(source.backend(), block_of(plan, source.tensors(), part.tensor, run));
    Key* const out = keys.data() + (run.begin - begin);
    constexpr int64_t kChunk = 1 << 14;
    const int64_t chunks = (run.count + kChunk - 1) / kChunk;
    int64_t first_nan = std::numeric_limits<int64_t>::max();
#pragma omp parallel for num_threads(threads) if (chunks > 4) reduction(min : first_nan)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t from = chunk * kChunk, count = std::min(kChunk, run.count - from);
      const int64_t nan = score_elements<T>(plan.scoring, *block, from, count,
                                            [=](int64_t i, T score) { out[from + i] = ordered_key(score); });
      if (nan >= 0) first_nan = std::min(first_nan, nan);
      for (int64_t i = from; block->kept != nullptr && i < from + count; ++i) {
        if (!is_kept(*block, i)) out[i] = 0;
      }
    }
    if (first_nan < run.count) {
      refuse_nan({0, 0, 1, block->position + static_cast<uint64_t>(first_nan)}, plan, source, part.tensor);
    }
  });
  return keys;
}

template <class T>
KeptBits select(ParameterSource& source, const Plan& plan, const PlanPart& part, int64_t begin, int64_t end,
                ReadingCost* cost) {
  using Key = std::conditional_t<std::is_same_v<T, double>, uint64_t, uint32_t>;
  std::vector<Key> keys = keys_between<T, Key>(source, plan, part, begin, end, cost);
  const int threads = threads_of(source.backend());
  // Whole rows, or a piece of one.
  const int64_t count = end - begin, length = std::min(part.cols, count);
  const int64_t groups = (length + plan.of - 1) / plan.of, all = count / length * groups;
  uint64_t cut = 0;
#pragma omp parallel num_threads(threads) if (count > 50'000)
  {
    std::vector<Key> scratch;
#pragma omp for reduction(+ : cut)
    for (int64_t g = 0; g < all; ++g) {
      const int64_t in_row = g % groups * plan.of, size = std::min(plan.of, length - in_row);
      cut += cut_group(keys.data() + g / groups * length + in_row, size, kept_of_group(plan, size), scratch);
    }
  }
  KeptBits bits;
  bits.cut_units = cut;
  const int64_t lead = begin % 64, words = (lead + count + 63) / 64;
  bits.words.resize(static_cast<size_t>(words));
#pragma omp parallel for num_threads(threads) if (count > 50'000)
  for (int64_t w = 0; w < words; ++w) {
    uint64_t word = 0;
    for (int64_t i = std::max<int64_t>(0, 64 * w - lead); i < std::min(count, 64 * (w + 1) - lead); ++i) {
      word |= uint64_t{keys[static_cast<size_t>(i)] != 0} << ((lead + i) % 64);
    }
    bits.words[static_cast<size_t>(w)] = word;
  }
  return bits;
}

}  // namespace

int64_t end_of_groups(const Plan& plan, const PlanPart& part, int64_t begin) {
  const int64_t end = part.begin + part.count;
  if (part.cols <= kTogether) return std::min(end, begin + kTogether / part.cols * part.cols);
  // A piece of a row.
  const int64_t row_end = part.begin + ((begin - part.begin) / part.cols + 1) * part.cols;
  return std::min(row_end, begin + std::max(kTogether / plan.of, int64_t{1}) * plan.of);
}

KeptBits select_groups(ParameterSource& source, const Plan& plan, const PlanPart& part, int64_t begin,
                       int64_t end, ReadingCost* cost) {
  return source.tensors()[part.tensor].dtype == DType::f64
             ? select<double>(source, plan, part, begin, end, cost)
             : select<float>(source, plan, part, begin, end, cost);
}

uint64_t count_group_cuts(ParameterSource& source, const Plan& plan, const PlanPart& part,
                          ReadingCost& cost) {
  uint64_t cut = 0;
  for (int64_t at = part.begin; at < part.begin + part.count;) {
    const int64_t end = end_of_groups(plan, part, at);
    cut += select_groups(source, plan, part, at, end, &cost).cut_units;
    at = end;
  }
  return cut;
}

}  // namespace coppice
