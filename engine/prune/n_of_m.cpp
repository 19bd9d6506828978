#include "engine/prune/n_of_m.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <memory>

#include "engine/prune/host_scores.hpp"

namespace coppice {
namespace {

/// Elements that are selected together: their keys fit the last cache, and a region of threads pays.
constexpr int64_t kTogether = int64_t{1} << 18;
constexpr int64_t kTask = int64_t{1} << 13;

/// Four narrow keys, signed as SSE2 compares them.
typedef int32_t Quad __attribute__((vector_size(16)));
typedef int32_t UnalignedQuad __attribute__((vector_size(16), aligned(4), may_alias));
constexpr int32_t kSign = std::numeric_limits<int32_t>::min();

template <int kTurn>
Quad turned(Quad keys) {
  return __builtin_shuffle(keys, Quad{kTurn & 3, (kTurn + 1) & 3, (kTurn + 2) & 3, (kTurn + 3) & 3});
}

/// ranks += how many of `others` come before each of `keys`, to which they are turned: of equal ones those
/// that `equal_before` has bits set for.
[[gnu::always_inline]] inline void add_before(Quad keys, Quad others, Quad equal_before, Quad& ranks) {
  ranks -= (others < keys) | ((others == keys) & equal_before);
}

/// Sets the keys of those that go to 0, of a group of few; what is cut already is 0 and goes first. By ranks,
/// without a branch.
template <int kQuads>
void cut_few(uint32_t* keys, int64_t kept) {
  Quad quads[kQuads];
  for (int q = 0; q < kQuads; ++q) quads[q] = reinterpret_cast<UnalignedQuad*>(keys)[q] ^ kSign;
  const Quad all = {-1, -1, -1, -1}, none = {};
  for (int q = 0; q < kQuads; ++q) {
    Quad ranks = {};
#pragma GCC unroll 4
    for (int other = 0; other < kQuads; ++other) {
      const bool own = other == q;
      const Quad before = other < q ? all : none;
      if (!own) add_before(quads[q], quads[other], before, ranks);
      add_before(quads[q], turned<1>(quads[other]), own ? Quad{0, 0, 0, -1} : before, ranks);
      add_before(quads[q], turned<2>(quads[other]), own ? Quad{0, 0, -1, -1} : before, ranks);
      add_before(quads[q], turned<3>(quads[other]), own ? Quad{0, -1, -1, -1} : before, ranks);
    }
    const Quad stays = ranks >= static_cast<int32_t>(4 * kQuads - kept);
    reinterpret_cast<UnalignedQuad*>(keys)[q] = (quads[q] ^ kSign) & stays;
  }
}

/// Whether one of four keys is at least `least`.
bool any_from(const uint32_t* keys, uint32_t least) {
  const Quad below = (*reinterpret_cast<const UnalignedQuad*>(keys) ^ kSign) <
                     static_cast<int32_t>(least ^ uint32_t{0x8000'0000u});
  uint64_t halves[2];
  std::memcpy(halves, &below, sizeof(halves));
  return (halves[0] & halves[1]) != ~uint64_t{0};
}
bool any_from(const uint64_t* keys, uint64_t least) {
  return keys[0] >= least || keys[1] >= least || keys[2] >= least || keys[3] >= least;
}

/// The same of any group.
template <class Key>
void cut_group(Key* keys, int64_t count, int64_t kept, std::vector<Key>& best) {
  if constexpr (sizeof(Key) == 4) {
    if (count == 4) return cut_few<1>(keys, kept);
    if (count == 8) return cut_few<2>(keys, kept);
    if (count == 16) return cut_few<4>(keys, kept);
  }
  if (kept <= 16) {
    // The kept ones seen so far, ascending: few reach them.
    best.assign(static_cast<size_t>(kept), 0);
    const auto take = [&](Key key) {
      if (key < best[0]) return;
      size_t at = 0;
      for (; at + 1 < best.size() && best[at + 1] <= key; ++at) best[at] = best[at + 1];
      best[at] = key;
    };
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
      if (any_from(keys + i, best[0])) std::for_each_n(keys + i, 4, take);
    }
    std::for_each_n(keys + i, count - i, take);
  } else {
    best.assign(keys, keys + count);
    std::nth_element(best.begin(), best.begin() + (count - kept), best.end());
    best.erase(best.begin(), best.begin() + (count - kept));
  }
  const Key threshold = *std::min_element(best.begin(), best.end());
  int64_t spare = std::count(keys, keys + count, threshold) - std::count(best.begin(), best.end(), threshold);
  for (int64_t i = 0; i < count; ++i) keys[i] = keys[i] < threshold ? 0 : keys[i];
  // Of equal ones the later stay.
  for (int64_t i = 0; spare > 0; ++i) {
    if (keys[i] != threshold) continue;
    keys[i] = 0;
    --spare;
  }
}

/// Keys of the elements [begin, end) of the tensor, 0 for those that are cut already.
template <class Key>
void read_keys(ParameterSource& source, const Plan& plan, const PlanPart& part, int64_t begin, int64_t end,
               Key* keys, ReadingCost* cost) {
  source.read(part.tensor, begin, end - begin, plan.statistic, false, [&](const ParameterSource::Run& run) {
    if (cost != nullptr) cost->elements += static_cast<uint64_t>(run.count);
    const ScoreBlock block = block_of(plan, source.tensors(), part.tensor, run);
    refuse_nan(source.backend().selection().keys(plan.scoring, block, keys + (run.begin - begin)), plan,
               source, part.tensor);
  });
}

/// Bit i: keys[i] is not 0.
uint64_t kept_word(const uint32_t* keys, int64_t count) {
  uint64_t word = 0;
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const Quad bits = (*reinterpret_cast<const UnalignedQuad*>(keys + i) != 0) & Quad{1, 2, 4, 8};
    uint64_t halves[2];
    std::memcpy(halves, &bits, sizeof(halves));
    const uint64_t both = halves[0] | halves[1];
    word |= ((both | both >> 32) & 15) << i;
  }
  for (; i < count; ++i) word |= uint64_t{keys[i] != 0} << i;
  return word;
}
uint64_t kept_word(const uint64_t* keys, int64_t count) {
  uint64_t word = 0;
  for (int64_t i = 0; i < count; ++i) word |= uint64_t{keys[i] != 0} << i;
  return word;
}

template <class Key>
KeptBits select(ParameterSource& source, const Plan& plan, const PlanPart& part, int64_t begin, int64_t end,
                ReadingCost* cost) {
  const int64_t count = end - begin;
  const auto keys = std::make_unique_for_overwrite<Key[]>(static_cast<size_t>(count));
  read_keys(source, plan, part, begin, end, keys.get(), cost);
  const int threads = threads_of(source.backend());
  // Whole rows, or a piece of one, in tasks of many groups.
  const int64_t length = std::min(part.cols, count);
  const int64_t task_length = std::max(kTask / plan.of, int64_t{1}) * plan.of;
  const int64_t row_tasks = (length + task_length - 1) / task_length, tasks = count / length * row_tasks;
#pragma omp parallel num_threads(threads) if (count > 50'000)
  {
    std::vector<Key> best;
#pragma omp for
    for (int64_t task = 0; task < tasks; ++task) {
      Key* const row = keys.get() + task / row_tasks * length;
      const int64_t from = task % row_tasks * task_length, to = std::min(length, from + task_length);
      int64_t at = from;
      for (; at + plan.of <= to; at += plan.of) cut_group(row + at, plan.of, plan.keep, best);
      if (at < to) cut_group(row + at, to - at, kept_of_group(plan, to - at), best);
    }
  }
  KeptBits bits;
  const int64_t lead = begin % 64, words = (lead + count + 63) / 64;
  bits.words.resize(static_cast<size_t>(words));
  int64_t kept = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : kept) if (count > 50'000)
  for (int64_t w = 0; w < words; ++w) {
    const int64_t from = std::max<int64_t>(0, 64 * w - lead), to = std::min(count, 64 * (w + 1) - lead);
    const uint64_t word = kept_word(keys.get() + from, to - from) << (w == 0 ? lead : 0);
    bits.words[static_cast<size_t>(w)] = word;
    kept += std::popcount(word);
  }
  bits.cut_units = static_cast<uint64_t>(count - kept);
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
             ? select<uint64_t>(source, plan, part, begin, end, cost)
             : select<uint32_t>(source, plan, part, begin, end, cost);
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
