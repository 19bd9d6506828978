#include "kernels/cpu/select.hpp"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <exception>
#include <mutex>

#include "kernels/cpu/dispatch.hpp"
#include "kernels/error.hpp"

namespace coppice::cpu {
namespace {

using FindKernels = const SelectKernels& (*)(Criterion, bool);

FindKernels kernels_of(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return &avx512::select_kernels;
  if (isa == Isa::avx2) return &avx2::select_kernels;
#endif
  (void)isa;
  return &baseline::select_kernels;
}

/// Waking a second thread pays above so many elements.
constexpr int64_t kSerial = 50'000;

int64_t byte_size(const ScoreBlock& block) {
  return size_of(block.dtype);
}

int64_t statistic_size(const ScoreBlock& block) {
  return size_of(block.statistic_dtype);
}

const void* advanced(const void* data, int64_t bytes) {
  return data == nullptr ? nullptr : static_cast<const char*>(data) + bytes;
}

ScoreChunk chunk_of(const Scoring& scoring, const ScoreBlock& part) {
  return {scoring.seed, part.weights, part.statistic, part.kept, part.mask_bit, part.count, part.position};
}

/// Chunks end at whole mask words, so that no two threads write one.
int64_t chunk_count(const ScoreBlock& block) {
  return (block.mask_bit + block.count + kChunk - 1) / kChunk;
}
int64_t chunk_begin(const ScoreBlock& block, int64_t chunk) {
  return std::clamp<int64_t>(chunk * kChunk - block.mask_bit, 0, block.count);
}
ScoreBlock chunk_part(const ScoreBlock& block, int64_t chunk) {
  const int64_t begin = chunk_begin(block, chunk);
  return part_of(block, begin, chunk_begin(block, chunk + 1) - begin);
}

/// The kernels' signed key such that key >= result ⇔ the element's key >= `key`; their highest when there is
/// none.
int64_t signed_at_least(const Scoring& scoring, DType dtype, Key key) {
  if (dtype == DType::f64) return static_cast<int64_t>(key ^ (uint64_t{1} << 63));
  const uint64_t narrow =
      scoring.wide ? narrow_at_least(key) : (key >> 32) + ((key & 0xffff'ffffu) != 0 ? 1 : 0);
  const uint32_t clamped = static_cast<uint32_t>(std::min<uint64_t>(narrow, 0xffff'ffffu));
  return static_cast<int32_t>(clamped ^ 0x8000'0000u);
}

/// The same for key > `key`.
int64_t signed_above(const Scoring& scoring, DType dtype, Key key) {
  if (key != ~Key{0}) return signed_at_least(scoring, dtype, key + 1);
  return dtype == DType::f64 ? INT64_MAX : INT32_MAX;
}

/// Element i of what a kernel wrote as int32_t or int64_t.
int64_t signed_key(DType dtype, const int64_t* keys, int64_t i) {
  if (dtype == DType::f64) return keys[i];
  int32_t key = 0;
  std::memcpy(&key, reinterpret_cast<const char*>(keys) + i * int64_t{sizeof(key)}, sizeof(key));
  return key;
}

/// The score whose signed key this is, as float64.
double score_of_signed(DType dtype, int64_t key) {
  if (dtype == DType::f64) return std::bit_cast<double>(key ^ ((key >> 63) & INT64_MAX));
  const int32_t narrow = static_cast<int32_t>(key);
  return std::bit_cast<float>(narrow ^ ((narrow >> 31) & INT32_MAX));
}

Key key_of_signed(const Scoring& scoring, DType dtype, int64_t key) {
  if (dtype == DType::f64) return static_cast<Key>(key) ^ (uint64_t{1} << 63);
  const uint32_t narrow = static_cast<uint32_t>(static_cast<int32_t>(key)) ^ 0x8000'0000u;
  return scoring.wide ? widened(narrow) : Key{narrow} << 32;
}

void add_nan(BlockCount& total, const ChunkCount& chunk, uint64_t position) {
  if (chunk.nan_count == 0) return;
  total.nan_count += static_cast<uint64_t>(chunk.nan_count);
  total.first_nan = std::min(total.first_nan, position + static_cast<uint64_t>(chunk.first_nan));
}

/// Calls body(task, thread) for tasks in any order; an exception from one of them leaves the parallel region
/// whole.
template <class Body>
void parallel_tasks(int64_t tasks, int threads, Body body) {
  if (threads <= 1 || tasks <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  std::exception_ptr error;
  std::mutex mutex;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < tasks; ++task) {
    try {
      body(task, omp_get_thread_num());
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

/// Adds scores in index order to `unit` (step 0: all to the same, 1: each to the next), those whose bit of
/// `kept` is 0 left out.
void add_scores(Reduce reduce, const double* scores, int64_t count, const uint64_t* kept, int mask_bit,
                UnitScore* unit, int64_t step) {
  const auto fold_all = [&](auto fold) {
    if (kept == nullptr && step == 0) {
      UnitScore sum = *unit;  // in registers
      for (int64_t i = 0; i < count; ++i) fold(sum, scores[i]);
      sum.kept += count;
      *unit = sum;
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t bit = mask_bit + i;
      if (kept != nullptr && (kept[bit / 64] >> (bit % 64) & 1) == 0) continue;
      fold(unit[i * step], scores[i]);
      ++unit[i * step].kept;
    }
  };
  switch (reduce) {
    case Reduce::sum:
    case Reduce::mean:
      fold_all([](UnitScore& u, double score) { u.mantissa += score; });
      break;
    case Reduce::max:
      fold_all([](UnitScore& u, double score) { u.mantissa = std::max(u.mantissa, score); });
      break;
    case Reduce::l2:
      fold_all([](UnitScore& u, double score) { u.mantissa += score * score; });
      break;
    case Reduce::product:
      fold_all([](UnitScore& u, double score) { multiply(u, score); });
      break;
  }
}

/// The elements [begin, end) of a block by the bits of their units; `Bits` is as wide as a weight. Returns
/// how many are cut.
template <class Bits>
uint64_t write_units(const ScoreBlock& block, int64_t begin, int64_t end, UnitAxis axis, int64_t cols,
                     int64_t first, const uint64_t* kept_units, void* output, uint64_t* mask) {
  const auto bit_of = [](const uint64_t* words, int64_t i) { return words[i / 64] >> (i % 64) & 1; };
  const Bits* weights = static_cast<const Bits*>(block.weights);
  Bits* written = static_cast<Bits*>(output);
  int64_t row = (first + begin) / cols, col = (first + begin) % cols;
  uint64_t kept_count = 0;
  for (int64_t i = begin; i < end;) {
    // As far as one word of mask bits reaches.
    const int64_t bit = block.mask_bit + i, stop = std::min(end, i + 64 - bit % 64);
    uint64_t keep = 0;
    for (int64_t j = i; j < stop; ++j) {
      keep |= bit_of(kept_units, axis == UnitAxis::row ? row : col) << (j - i);
      if (++col == cols) {
        col = 0;
        ++row;
      }
    }
    if (block.kept != nullptr) keep &= block.kept[bit / 64] >> (bit % 64);
    kept_count += static_cast<uint64_t>(std::popcount(keep));
    if (written != nullptr) {
      for (int64_t j = i; j < stop; ++j) written[j] = (keep >> (j - i) & 1) != 0 ? weights[j] : Bits{0};
    }
    if (mask != nullptr) {
      const uint64_t all = stop - i == 64 ? ~uint64_t{0} : (uint64_t{1} << (stop - i)) - 1;
      uint64_t& word = mask[bit / 64];
      word = (word & ~(all << (bit % 64))) | (keep << (bit % 64));
    }
    i = stop;
  }
  return static_cast<uint64_t>(end - begin) - kept_count;
}

/// From the kernels' signed keys to unsigned ones, in place.
template <class Unsigned>
void flip_signs(Unsigned* keys, int64_t count) {
  constexpr Unsigned kSign = Unsigned{1} << (8 * sizeof(Unsigned) - 1);
  for (int64_t i = 0; i < count; ++i) keys[i] ^= kSign;
}

/// Lines of a sample lie apart: no hardware guesses where the next one is.
void prefetch_line(const ScoreBlock& block, int64_t start) {
  const auto fetch = [start](const void* data, int64_t width) {
    const int64_t from = start * width, end = from + SelectionOps::kSampleLine * width;
    for (int64_t at = from; at < end; at += kAlignment) __builtin_prefetch(advanced(data, at));
  };
  fetch(block.weights, byte_size(block));
  if (block.statistic != nullptr) fetch(block.statistic, statistic_size(block));
}

/// Elements whose keys are held at a time where the kernels don't consume them at once: short enough for L1.
constexpr int64_t kKeysAtOnce = 1024;

/// Elements of half precision that are widened at a time: whole words of mask bits, and short enough for L1.
constexpr int64_t kWidenedAtOnce = 1024;

/// In place.
void make(StatisticForm form, int64_t count, float* statistic) {
  if (form == StatisticForm::absolute) {
    for (int64_t i = 0; i < count; ++i) statistic[i] = std::fabs(statistic[i]);
  } else if (form == StatisticForm::squared) {
    for (int64_t i = 0; i < count; ++i) statistic[i] *= statistic[i];
  }
}

}  // namespace

CpuSelection::CpuSelection(const CpuContext& context)
    : find_kernels_(kernels_of(context.isa)),
      halves_(COPPICE_KERNELS(context.isa, half_kernels)),
      threads_(std::max(context.threads, 1)),
      logs_(threads_) {}

int CpuSelection::threads_for(int64_t elements) const {
  return elements < kSerial ? 1 : threads_;
}

const SelectKernels& CpuSelection::kernels(const Scoring& scoring, const ScoreBlock& block) const {
  check_block(scoring, block);
  return find_kernels_(scoring.criterion, block.dtype == DType::f64);
}

template <class Visit>
void CpuSelection::for_scored(const ScoreBlock& block, Visit visit) const {
  const bool forms = block.statistic_form != StatisticForm::as_is;
  const bool makes_statistic = block.statistic != nullptr && (is_half(block.statistic_dtype) || forms);
  if (!is_half(block.dtype) && !makes_statistic) {
    visit(block, int64_t{0});
    return;
  }
  alignas(kAlignment) float weights[kWidenedAtOnce], statistic[kWidenedAtOnce];
  const auto widen = [&](DType& dtype, const void*& data, int64_t count, float* to) {
    if (!is_half(dtype)) return;
    (dtype == DType::f16 ? halves_.widen_f16 : halves_.widen_bf16)(data, count, to);
    dtype = DType::f32;
    data = to;
  };
  int64_t end = 0;
  for (int64_t begin = 0; begin < block.count; begin = end) {
    end = std::min(block.count, begin + kWidenedAtOnce - (begin == 0 ? block.mask_bit : 0));
    ScoreBlock piece = part_of(block, begin, end - begin);
    widen(piece.dtype, piece.weights, piece.count, weights);
    if (makes_statistic) {
      if (!is_half(piece.statistic_dtype)) {
        std::memcpy(statistic, piece.statistic, static_cast<size_t>(piece.count) * sizeof(float));
      }
      widen(piece.statistic_dtype, piece.statistic, piece.count, statistic);
      make(piece.statistic_form, piece.count, statistic);
      piece.statistic = statistic;
      piece.statistic_form = StatisticForm::as_is;
    }
    visit(piece, begin);
  }
}

ChunkCount CpuSelection::keys_of(const SelectKernels& kernel, const Scoring& scoring, const ScoreBlock& block,
                                 void* keys) const {
  ChunkCount found;
  for_scored(block, [&](const ScoreBlock& piece, int64_t begin) {
    const int64_t width = size_of(score_type(block.dtype));
    const ChunkCount here = kernel.keys(chunk_of(scoring, piece), static_cast<char*>(keys) + begin * width);
    if (here.nan_count == 0) return;
    if (found.nan_count == 0) found.first_nan = begin + here.first_nan;
    found.nan_count += here.nan_count;
  });
  return found;
}

int64_t CpuSelection::count_inside(const SelectKernels& kernel, const Scoring& scoring,
                                   const ScoreBlock& block, int64_t low, int64_t upper) const {
  int64_t inside = 0;
  for_scored(block, [&](const ScoreBlock& piece, int64_t) {
    inside += kernel.bracket(chunk_of(scoring, piece), low, upper, nullptr, nullptr, nullptr).inside;
  });
  return inside;
}

void CpuSelection::sample(const Scoring& scoring, const ScoreBlock& block, std::span<const int64_t> starts,
                          std::vector<Key>& keys) {
  const SelectKernels& kernel = kernels(scoring, block);
  std::vector<size_t> first;  // of each line in `keys`
  size_t end = keys.size();
  for (int64_t start : starts) {
    first.push_back(end);
    end += static_cast<size_t>(std::min(kSampleLine, block.count - start));
  }
  keys.resize(end);
  const int64_t lines = static_cast<int64_t>(starts.size());
  constexpr int64_t kTogether = 64, kAhead = 4;
  // A line waits for memory: worth a thread where it would not be for arithmetic.
  parallel_tasks(
      (lines + kTogether - 1) / kTogether, lines < 2 * kTogether ? 1 : threads_, [&](int64_t task, int) {
        int64_t memory[kSampleLine];
        for (int64_t i = task * kTogether; i < std::min(lines, (task + 1) * kTogether); ++i) {
          if (i + kAhead < lines) prefetch_line(block, starts[static_cast<size_t>(i + kAhead)]);
          const int64_t start = starts[static_cast<size_t>(i)];
          const ScoreBlock part = part_of(block, start, std::min(kSampleLine, block.count - start));
          keys_of(kernel, scoring, part, memory);
          size_t at = first[static_cast<size_t>(i)];
          for (int64_t j = 0; j < part.count; ++j) {
            keys[at++] = key_of_signed(scoring, block.dtype, signed_key(block.dtype, memory, j));
          }
        }
      });
}

BlockCount CpuSelection::mark(const Scoring& scoring, const ScoreBlock& block, Key low, Key high,
                              uint64_t capacity, std::vector<Place>& candidates, uint64_t* bits) {
  const SelectKernels& kernel = kernels(scoring, block);
  const int64_t low_key = signed_at_least(scoring, block.dtype, low);
  const int64_t upper_key = signed_above(scoring, block.dtype, high);
  const int threads = threads_for(block.count);
  BlockCount total;
  std::mutex mutex;
  std::atomic<uint64_t> logged = candidates.size();
  for (Log& log : logs_) log.places.clear();
  parallel_tasks(chunk_count(block), threads, [&](int64_t index, int thread) {
    const ScoreBlock part = chunk_part(block, index);
    Log& log = logs_[static_cast<size_t>(thread)];
    BlockCount found;
    for_scored(part, [&](const ScoreBlock& piece, int64_t begin) {
      const bool wanted = logged.load(std::memory_order_relaxed) < capacity;
      if (wanted) log.reserve();
      uint64_t* const piece_bits =
          bits == nullptr ? nullptr : bits + (block.mask_bit + chunk_begin(block, index) + begin) / 64;
      const ChunkCount here =
          kernel.bracket(chunk_of(scoring, piece), low_key, upper_key, wanted ? log.keys.data() : nullptr,
                         log.indices.data(), piece_bits);
      found.below += static_cast<uint64_t>(here.below);
      found.inside += static_cast<uint64_t>(here.inside);
      add_nan(found, here, piece.position);
      if (!wanted || logged.fetch_add(static_cast<uint64_t>(here.inside)) >= capacity) return;
      std::vector<Place>& places = threads == 1 ? candidates : log.places;
      const size_t first = places.size(), count = static_cast<size_t>(here.inside);
      places.resize(first + count);
      for (size_t i = 0; i < count; ++i) {
        const int64_t key = signed_key(block.dtype, log.keys.data(), static_cast<int64_t>(i));
        places[first + i] = {key_of_signed(scoring, block.dtype, key), piece.position + log.indices[i]};
      }
    });
    const std::lock_guard lock(mutex);
    total.below += found.below;
    total.inside += found.inside;
    total.nan_count += found.nan_count;
    total.first_nan = std::min(total.first_nan, found.first_nan);
  });
  if (threads > 1) {
    for (const Log& log : logs_) candidates.insert(candidates.end(), log.places.begin(), log.places.end());
  }
  if (candidates.size() > capacity) candidates.resize(static_cast<size_t>(capacity));
  return total;
}

BlockCount CpuSelection::histogram(const Scoring& scoring, const ScoreBlock& block, const KeyWindow& window,
                                   uint64_t* bins) {
  const SelectKernels& kernel = kernels(scoring, block);
  const Key rest = window.prefix_bits == 0 ? ~Key{0} : ~Key{0} >> window.prefix_bits;
  const int64_t low_key = signed_at_least(scoring, block.dtype, window.prefix);
  const int64_t upper_key = signed_above(scoring, block.dtype, window.prefix | rest);
  const int threads = threads_for(block.count);
  const size_t size = static_cast<size_t>(window.bins());
  BlockCount total;
  std::mutex mutex;
  struct Tables {
    std::vector<uint32_t> bins;
    std::vector<int64_t> keys;
  };
  std::vector<Tables> tables(static_cast<size_t>(threads));
  parallel_tasks(chunk_count(block), threads, [&](int64_t index, int thread) {
    Tables& own = tables[static_cast<size_t>(thread)];
    own.bins.assign(4 * size, 0);
    own.keys.resize(kKeysAtOnce);
    const ScoreBlock chunk = chunk_part(block, index);
    BlockCount nan;
    for (int64_t from = 0; from < chunk.count; from += kKeysAtOnce) {
      const ScoreBlock part = part_of(chunk, from, std::min(kKeysAtOnce, chunk.count - from));
      add_nan(nan, keys_of(kernel, scoring, part, own.keys.data()), part.position);
      kernel.histogram(own.keys.data(), part.count, low_key, upper_key, window.prefix_bits, window.digit_bits,
                       scoring.wide, own.bins.data());
    }
    const std::lock_guard lock(mutex);
    const uint32_t* table = own.bins.data();
    for (size_t d = 0; d < size; ++d) {
      bins[d] += uint64_t{table[d]} + table[size + d] + table[2 * size + d] + table[3 * size + d];
    }
    total.nan_count += nan.nan_count;
    total.first_nan = std::min(total.first_nan, nan.first_nan);
  });
  return total;
}

uint64_t CpuSelection::find_equal(const Scoring& scoring, const ScoreBlock& block, Key key, uint64_t index) {
  const SelectKernels& kernel = kernels(scoring, block);
  const int64_t low_key = signed_at_least(scoring, block.dtype, key);
  const int64_t upper_key = signed_above(scoring, block.dtype, key);
  std::vector<int64_t> counts(static_cast<size_t>(chunk_count(block)));
  parallel_tasks(chunk_count(block), threads_for(block.count), [&](int64_t i, int) {
    counts[static_cast<size_t>(i)] = count_inside(kernel, scoring, chunk_part(block, i), low_key, upper_key);
  });
  for (size_t i = 0; i < counts.size(); ++i) {
    const uint64_t here = static_cast<uint64_t>(counts[i]);
    if (index >= here) {
      index -= here;
      continue;
    }
    Log& log = logs_[0];
    log.reserve();
    uint64_t position = 0;
    bool is_found = false;
    for_scored(chunk_part(block, static_cast<int64_t>(i)), [&](const ScoreBlock& piece, int64_t) {
      if (is_found) return;
      const uint64_t in_piece =
          static_cast<uint64_t>(kernel
                                    .bracket(chunk_of(scoring, piece), low_key, upper_key, log.keys.data(),
                                             log.indices.data(), nullptr)
                                    .inside);
      if (index >= in_piece) {
        index -= in_piece;
        return;
      }
      const auto nth = log.indices.begin() + static_cast<ptrdiff_t>(index);
      std::nth_element(log.indices.begin(), nth, log.indices.begin() + static_cast<ptrdiff_t>(in_piece));
      position = piece.position + *nth;
      is_found = true;
    });
    return position;
  }
  failure("selection: fewer elements score exactly {} than were counted: the source changed between passes",
          score_of(scoring, key));
}

uint64_t CpuSelection::apply_below(const Scoring& scoring, const ScoreBlock& block, Key key, void* output,
                                   uint64_t* mask) {
  const SelectKernels& kernel = kernels(scoring, block);
  const int64_t threshold = signed_at_least(scoring, block.dtype, key);
  std::atomic<uint64_t> cut = 0;
  parallel_tasks(chunk_count(block), threads_for(block.count), [&](int64_t index, int) {
    const ScoreBlock part = chunk_part(block, index);
    const int64_t begin = chunk_begin(block, index);
    void* part_output = const_cast<void*>(advanced(output, begin * byte_size(block)));
    uint64_t* part_mask = mask == nullptr ? nullptr : mask + (block.mask_bit + begin) / 64;
    cut += static_cast<uint64_t>(apply_part(kernel, scoring, part, threshold, part_output, part_mask));
  });
  return cut;
}

int64_t CpuSelection::apply_part(const SelectKernels& kernel, const Scoring& scoring, const ScoreBlock& part,
                                 int64_t threshold, void* output, uint64_t* mask) const {
  int64_t cut = 0;
  for_scored(part, [&](const ScoreBlock& piece, int64_t begin) {
    uint64_t own[kWidenedAtOnce / 64 + 1] = {};
    uint64_t* const bits = mask == nullptr ? nullptr : mask + (part.mask_bit + begin) / 64;
    void* const to = const_cast<void*>(advanced(output, begin * byte_size(part)));
    if (!is_half(part.dtype)) {
      cut += kernel.apply(chunk_of(scoring, piece), threshold, to, bits);
      return;
    }
    // Scored as float32 and cut as it lies.
    ScoreChunk halves = chunk_of(scoring, part_of(part, begin, piece.count));
    halves.kept = bits == nullptr ? own : bits;
    cut += kernel.apply(chunk_of(scoring, piece), threshold, nullptr, bits == nullptr ? own : bits);
    if (to != nullptr) halves_.cut(halves, to, nullptr);
  });
  return cut;
}

uint64_t CpuSelection::cut_by_bits(const ScoreBlock& block, void* output, uint64_t* mask) {
  const auto kernel =
      is_half(block.dtype) ? halves_.cut : find_kernels_(Criterion::magnitude, block.dtype == DType::f64).cut;
  std::atomic<uint64_t> cut = 0;
  parallel_tasks(chunk_count(block), threads_for(block.count), [&](int64_t index, int) {
    const int64_t begin = chunk_begin(block, index);
    void* part_output = const_cast<void*>(advanced(output, begin * byte_size(block)));
    uint64_t* part_mask = mask == nullptr ? nullptr : mask + (block.mask_bit + begin) / 64;
    cut += static_cast<uint64_t>(kernel(chunk_of({}, chunk_part(block, index)), part_output, part_mask));
  });
  return cut;
}

uint64_t CpuSelection::apply(const Scoring& scoring, const ScoreBlock& block, Place cut, void* output,
                             uint64_t* mask) {
  if (cut.key == kCutAlready) return cut_by_bits(block, output, mask);
  // Before the cut's position keys equal to the cut's go too, from there on they stay.
  const uint64_t offset = cut.position > block.position ? cut.position - block.position : 0;
  const int64_t tie = static_cast<int64_t>(std::min<uint64_t>(offset, static_cast<uint64_t>(block.count)));
  uint64_t count = 0;
  if (tie > 0) {
    const Key above = cut.key == ~Key{0} ? cut.key : cut.key + 1;
    count += apply_below(scoring, part_of(block, 0, tie), above, output, mask);
  }
  if (tie < block.count) {
    uint64_t* rest_mask = mask == nullptr ? nullptr : mask + (block.mask_bit + tie) / 64;
    count += apply_below(scoring, part_of(block, tie, block.count - tie), cut.key,
                         const_cast<void*>(advanced(output, tie * byte_size(block))), rest_mask);
  }
  return count;
}

BlockCount CpuSelection::keys(const Scoring& scoring, const ScoreBlock& block, void* keys) {
  const SelectKernels& kernel = kernels(scoring, block);
  const bool wide = block.dtype == DType::f64;
  BlockCount total;
  std::mutex mutex;
  parallel_tasks(chunk_count(block), threads_for(block.count), [&](int64_t index, int) {
    const ScoreBlock chunk = chunk_part(block, index);
    const int64_t begin = chunk_begin(block, index);
    BlockCount nan;
    for (int64_t from = 0; from < chunk.count; from += kKeysAtOnce) {
      const ScoreBlock part = part_of(chunk, from, std::min(kKeysAtOnce, chunk.count - from));
      void* out = static_cast<char*>(keys) + (begin + from) * size_of(score_type(block.dtype));
      add_nan(nan, keys_of(kernel, scoring, part, out), part.position);
      if (wide) {
        flip_signs(static_cast<uint64_t*>(out), part.count);
      } else {
        flip_signs(static_cast<uint32_t*>(out), part.count);
      }
    }
    if (nan.nan_count == 0) return;
    const std::lock_guard lock(mutex);
    total.nan_count += nan.nan_count;
    total.first_nan = std::min(total.first_nan, nan.first_nan);
  });
  return total;
}

BlockCount CpuSelection::accumulate(const Scoring& scoring, const ScoreBlock& block, Reduce reduce,
                                    UnitAxis axis, int64_t cols, int64_t first, UnitScore* units) {
  const SelectKernels& kernel = kernels(scoring, block);
  BlockCount total;
  if (block.count == 0) return total;
  std::mutex mutex;
  // Scores [begin, begin + count) of the block, a piece of one row, and adds them in order.
  const int64_t step = axis == UnitAxis::row ? 0 : 1;
  const auto add = [&](int64_t begin, int64_t count, UnitScore* unit) {
    int64_t keys[kKeysAtOnce];
    double scores[kKeysAtOnce];
    for (int64_t from = begin; from < begin + count; from += kKeysAtOnce) {
      const ScoreBlock part = part_of(block, from, std::min(kKeysAtOnce, begin + count - from));
      const ChunkCount found = keys_of(kernel, scoring, part, keys);
      for (int64_t i = 0; i < part.count; ++i) {
        scores[i] = score_of_signed(block.dtype, signed_key(block.dtype, keys, i));
      }
      add_scores(reduce, scores, part.count, part.kept, part.mask_bit, unit + step * (from - begin), step);
      if (found.nan_count != 0) {
        const std::lock_guard lock(mutex);
        add_nan(total, found, part.position);
      }
    }
  };
  const int threads = threads_for(block.count);
  const int64_t first_row = first / cols, rows = (first + block.count - 1) / cols - first_row + 1;
  const auto row_begin = [&](int64_t row) {
    return std::clamp<int64_t>((first_row + row) * cols - first, 0, block.count);
  };
  if (axis == UnitAxis::row) {
    const int64_t rows_a_task = std::max<int64_t>(1, kChunk / cols);
    parallel_tasks((rows + rows_a_task - 1) / rows_a_task, threads, [&](int64_t task, int) {
      for (int64_t r = task * rows_a_task; r < std::min(rows, (task + 1) * rows_a_task); ++r) {
        add(row_begin(r), row_begin(r + 1) - row_begin(r), units + first_row + r);
      }
    });
  } else {
    // A task owns some columns and walks down all rows.
    const int64_t width = std::max<int64_t>(64, (cols + 4 * threads - 1) / (4 * threads));
    parallel_tasks((cols + width - 1) / width, threads, [&](int64_t task, int) {
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t row = (first_row + r) * cols - first;  // where the row starts, maybe before the block
        const int64_t begin = std::clamp<int64_t>(row + task * width, 0, block.count);
        const int64_t end = std::clamp<int64_t>(row + std::min(cols, (task + 1) * width), 0, block.count);
        if (begin < end) add(begin, end - begin, units + (begin - row));
      }
    });
  }
  return total;
}

uint64_t CpuSelection::apply_units(const ScoreBlock& block, UnitAxis axis, int64_t cols, int64_t first,
                                   const uint64_t* kept_units, void* output, uint64_t* mask) {
  std::atomic<uint64_t> cut = 0;
  parallel_tasks(chunk_count(block), threads_for(block.count), [&](int64_t index, int) {
    const int64_t begin = chunk_begin(block, index), end = chunk_begin(block, index + 1);
    const auto write = block.dtype == DType::f64 ? &write_units<uint64_t>
                       : is_half(block.dtype)    ? &write_units<uint16_t>
                                                 : &write_units<uint32_t>;
    cut += write(block, begin, end, axis, cols, first, kept_units, output, mask);
  });
  return cut;
}

uint64_t CpuSelection::count_kept(const ScoreBlock& block) {
  if (block.kept == nullptr) return static_cast<uint64_t>(block.count);
  uint64_t kept = 0;
  for (int64_t i = -block.mask_bit; i < block.count; i += 64) {
    uint64_t word = block.kept[(block.mask_bit + i) / 64];
    if (i < 0) word &= ~uint64_t{0} << block.mask_bit;
    if (block.count - i < 64) word &= (uint64_t{1} << (block.count - i)) - 1;
    kept += static_cast<uint64_t>(std::popcount(word));
  }
  return kept;
}

std::unique_ptr<SelectionOps> make_selection(const CpuContext& context) {
  return std::make_unique<CpuSelection>(context);
}

}  // namespace coppice::cpu
