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
constexpr int64_t kTask = int64_t{1} << 13;

/// Sets the keys of those that go to 0, of a group of few; what is cut already is 0 and goes first. By ranks,
/// without a branch. Returns how many are 0 then.
template <int64_t kCount, class Key>
int64_t cut_few(Key* keys, int64_t kept) {
  int64_t rank[kCount] = {};
  for (int64_t i = 0; i < kCount; ++i) {
    for (int64_t j = 0; j < kCount; ++j)
      rank[i] += keys[j] < keys[i] || (j < i && keys[j] == keys[i]) ? 1 : 0;
  }
  int64_t cut = 0;
  for (int64_t i = 0; i < kCount; ++i) {
    keys[i] = rank[i] < kCount - kept ? 0 : keys[i];
    cut += keys[i] == 0 ? 1 : 0;
  }
  return cut;
}

/// The same of any group.
template <class Key>
int64_t cut_group(Key* keys, int64_t count, int64_t kept, std::vector<Key>& best) {
  if (count == 4) return cut_few<4>(keys, kept);
  if (count == 8) return cut_few<8>(keys, kept);
  if (kept <= 16) {
    // The kept ones seen so far, ascending: few reach them.
    best.assign(static_cast<size_t>(kept), 0);
    for (int64_t i = 0; i < count; ++i) {
      if (keys[i] < best[0]) continue;
      size_t at = 0;
      for (; at + 1 < best.size() && best[at + 1] <= keys[i]; ++at) best[at] = best[at + 1];
      best[at] = keys[i];
    }
  } else {
    best.assign(keys, keys + count);
    std::nth_element(best.begin(), best.begin() + (count - kept), best.end());
    best.erase(best.begin(), best.begin() + (count - kept));
  }
  const Key threshold = best[0];
  int64_t ties = std::count(best.begin(), best.end(), threshold), cut = 0;
  for (int64_t i = count; i-- > 0;) {
    if (keys[i] < threshold || (keys[i] == threshold && ties-- <= 0)) keys[i] = 0;
    cut += keys[i] == 0 ? 1 : 0;
  }
  return cut;
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
  // Whole rows, or a piece of one, in tasks of many groups.
  const int64_t count = end - begin, length = std::min(part.cols, count);
  const int64_t task_length = std::max(kTask / plan.of, int64_t{1}) * plan.of;
  const int64_t row_tasks = (length + task_length - 1) / task_length, tasks = count / length * row_tasks;
  int64_t cut = 0;
#pragma omp parallel num_threads(threads) if (count > 50'000)
  {
    std::vector<Key> best;
#pragma omp for reduction(+ : cut)
    for (int64_t task = 0; task < tasks; ++task) {
      Key* const row = keys.data() + task / row_tasks * length;
      const int64_t from = task % row_tasks * task_length, to = std::min(length, from + task_length);
      int64_t at = from;
      for (; at + plan.of <= to; at += plan.of) cut += cut_group(row + at, plan.of, plan.keep, best);
      if (at < to) cut += cut_group(row + at, to - at, kept_of_group(plan, to - at), best);
    }
  }
  KeptBits bits;
  bits.cut_units = static_cast<uint64_t>(cut);
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
