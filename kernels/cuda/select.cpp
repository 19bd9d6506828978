#include "kernels/cuda/select.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/cuda/status.hpp"
#include "kernels/error.hpp"
#include "kernels/ordered_key.hpp"

namespace coppice::cuda {
namespace {

/// Keys that are fetched at a time: what they take on the device is bounded.
constexpr int64_t kKeysTogether = int64_t{1} << 20;

constexpr bool is_wide(DType dtype) {
  return dtype == DType::f64;
}

/// The native key such that an element's is >= it exactly when its key is >= `key`. Where there is none it is
/// the last, which no score has.
uint64_t native_at_least(const Scoring& scoring, DType dtype, Key key) {
  if (is_wide(dtype)) return key;
  const uint64_t narrow =
      scoring.wide ? narrow_at_least(key) : (key >> 32) + ((key & 0xffff'ffffu) != 0 ? 1 : 0);
  return std::min<uint64_t>(narrow, 0xffff'ffffu);
}

/// The same for key > `key`.
uint64_t native_above(const Scoring& scoring, DType dtype, Key key) {
  if (key != ~Key{0}) return native_at_least(scoring, dtype, key + 1);
  return is_wide(dtype) ? ~uint64_t{0} : 0xffff'ffffu;
}

Key key_of_native(const Scoring& scoring, uint32_t key) {
  return scoring.wide ? widened(key) : Key{key} << 32;
}
Key key_of_native(const Scoring&, uint64_t key) {
  return key;
}

/// Calls visit(part, begin) for parts of a block that the kernels can take.
template <class Visit>
void for_parts(const ScoreBlock& block, Visit visit) {
  for (int64_t begin = 0; begin < block.count; begin += kLongestBlock) {
    visit(part_of(block, begin, std::min(kLongestBlock, block.count - begin)), begin);
  }
}

void* advanced(void* data, DType dtype, int64_t elements) {
  return data == nullptr ? nullptr : static_cast<char*>(data) + elements * size_of(dtype);
}
uint64_t* words_at(uint64_t* mask, const ScoreBlock& block, int64_t begin) {
  return mask == nullptr ? nullptr : mask + (block.mask_bit + begin) / 64;
}

void add_nan(BlockCount& found, const Totals& totals, const ScoreBlock& part) {
  if (totals.nan_count == 0) return;
  found.nan_count += totals.nan_count;
  found.first_nan = std::min<uint64_t>(found.first_nan, part.position + ~totals.not_first_nan);
}

}  // namespace

CudaSelection::CudaSelection(CudaContext& context)
    : context_(context),
      totals_(*context.memory, "selection's counts"),
      widened_(*context.memory, "half precision as float32"),
      bits_(*context.memory, "selection's bits"),
      work_(*context.memory, "selection's working memory"),
      found_(sizeof(Totals)),
      transfer_(context.stream) {}

template <class Queue>
Totals CudaSelection::counted(Queue queue) {
  Totals* totals = totals_.reserve<Totals>(1);
  COPPICE_CUDA(cudaMemsetAsync(totals, 0, sizeof(Totals), context_.stream));
  queue(totals);
  Totals* found = found_.as<Totals>();
  COPPICE_CUDA(cudaMemcpyAsync(found, totals, sizeof(Totals), cudaMemcpyDeviceToHost, context_.stream));
  COPPICE_CUDA(cudaStreamSynchronize(context_.stream));
  return *found;
}

ScoreBlock CudaSelection::scored(const ScoreBlock& block) {
  const bool weights = is_half(block.dtype);
  const bool forms = block.statistic_form != StatisticForm::as_is;
  const bool statistic = block.statistic != nullptr && (is_half(block.statistic_dtype) || forms);
  ScoreBlock scored = block;
  if (!weights && !statistic) return scored;
  const int64_t padded = (block.count + 63) / 64 * 64;
  float* const memory = widened_.reserve<float>((weights && statistic ? 2 : 1) * padded);
  if (weights) {
    queue_widen(context_, block.dtype, StatisticForm::as_is, block.weights, block.count, memory);
    scored.dtype = DType::f32;
    scored.weights = memory;
  }
  if (statistic) {
    float* const at = weights ? memory + padded : memory;
    queue_widen(context_, block.statistic_dtype, block.statistic_form, block.statistic, block.count, at);
    scored.statistic_dtype = DType::f32;
    scored.statistic_form = StatisticForm::as_is;
    scored.statistic = at;
  }
  return scored;
}

template <class Cut>
uint64_t CudaSelection::cut_scored(const ScoreBlock& block, void* output, uint64_t* mask, Cut cut) {
  const ScoreBlock as_scored = scored(block);
  if (!is_half(block.dtype)) return cut(as_scored, output, mask);
  uint64_t* bits = mask;
  if (bits == nullptr) {
    const int64_t words = (block.mask_bit + block.count + 63) / 64;
    bits = bits_.reserve<uint64_t>(words);
    COPPICE_CUDA(cudaMemsetAsync(bits, 0, static_cast<size_t>(words) * sizeof(uint64_t), context_.stream));
  }
  const uint64_t count = cut(as_scored, static_cast<void*>(nullptr), bits);
  if (output != nullptr && block.count > 0) {
    queue_cut_halves(context_, block, bits, output);
    COPPICE_CUDA(cudaStreamSynchronize(context_.stream));
  }
  return count;
}

template <class T>
void CudaSelection::append_places(const Scoring& scoring, const ScoreBlock& part, const void* candidates,
                                  uint64_t count, std::vector<Place>& places) {
  size_t at = places.size();
  places.resize(at + count);
  const int64_t bytes = static_cast<int64_t>(count * sizeof(Candidate<T>));
  transfer_.download(candidates, bytes, [&](const void* piece, int64_t piece_bytes) {
    const Candidate<T>* piece_candidates = static_cast<const Candidate<T>*>(piece);
    for (int64_t i = 0; i < piece_bytes / static_cast<int64_t>(sizeof(Candidate<T>)); ++i) {
      const Candidate<T>& candidate = piece_candidates[i];
      places[at++] = {key_of_native(scoring, candidate.key), part.position + candidate.index};
    }
  });
}

template <class Bits>
void CudaSelection::append_keys(const Scoring& scoring, const ScoreBlock& block,
                                std::span<const int64_t> starts, std::vector<Key>& keys) {
  const int64_t lines = static_cast<int64_t>(starts.size());
  const int64_t start_bytes = lines * static_cast<int64_t>(sizeof(int64_t));
  const int64_t key_bytes = lines * kSampleLine * static_cast<int64_t>(sizeof(Bits));
  char* memory = work_.reserve<char>(start_bytes + key_bytes);
  // Keys first: starts are aligned behind them, as a line of keys is a multiple of 8 bytes.
  int64_t* device_starts = reinterpret_cast<int64_t*>(memory + key_bytes);
  transfer_.upload(starts.data(), device_starts, start_bytes);
  queue_keys(context_, scoring, block, device_starts, lines, memory);
  size_t line = 0;
  int64_t in_line = 0;
  transfer_.download(memory, key_bytes, [&](const void* piece, int64_t piece_bytes) {
    const Bits* piece_keys = static_cast<const Bits*>(piece);
    for (int64_t i = 0; i < piece_bytes / static_cast<int64_t>(sizeof(Bits)); ++i) {
      if (starts[line] + in_line < block.count) keys.push_back(key_of_native(scoring, piece_keys[i]));
      if (++in_line == kSampleLine) {
        in_line = 0;
        ++line;
      }
    }
  });
}

void CudaSelection::sample(const Scoring& scoring, const ScoreBlock& given, std::span<const int64_t> starts,
                           std::vector<Key>& keys) {
  context_.make_current();
  check_block(scoring, given);
  const ScoreBlock block = scored(given);
  if (starts.empty()) return;
  if (is_wide(block.dtype)) {
    append_keys<uint64_t>(scoring, block, starts, keys);
  } else {
    append_keys<uint32_t>(scoring, block, starts, keys);
  }
}

template <class Bits>
BlockCount CudaSelection::download_keys(const Scoring& scoring, const ScoreBlock& part, Bits* keys) {
  const int64_t lines = (part.count + kSampleLine - 1) / kSampleLine;
  std::vector<int64_t> starts(static_cast<size_t>(lines));
  for (int64_t line = 0; line < lines; ++line) starts[static_cast<size_t>(line)] = line * kSampleLine;
  const int64_t key_bytes = lines * kSampleLine * static_cast<int64_t>(sizeof(Bits));
  const int64_t start_bytes = lines * static_cast<int64_t>(sizeof(int64_t));
  char* memory = work_.reserve<char>(key_bytes + start_bytes);
  int64_t* device_starts = reinterpret_cast<int64_t*>(memory + key_bytes);
  transfer_.upload(starts.data(), device_starts, start_bytes);
  queue_keys(context_, scoring, part, device_starts, lines, memory);
  transfer_.download(memory, keys, part.count * static_cast<int64_t>(sizeof(Bits)));
  // The last line's keys past the block's end stay on the device.
  using Score = std::conditional_t<sizeof(Bits) == 8, double, float>;
  const Bits highest = ordered_key(std::numeric_limits<Score>::infinity());
  BlockCount found;
  for (int64_t i = 0; i < part.count; ++i) {
    if (keys[i] <= highest) continue;
    found.first_nan = std::min(found.first_nan, part.position + static_cast<uint64_t>(i));
    ++found.nan_count;
  }
  return found;
}

BlockCount CudaSelection::keys(const Scoring& scoring, const ScoreBlock& given, void* keys) {
  context_.make_current();
  check_block(scoring, given);
  const ScoreBlock block = scored(given);
  BlockCount found;
  for (int64_t begin = 0; begin < block.count; begin += kKeysTogether) {
    const ScoreBlock part = part_of(block, begin, std::min(kKeysTogether, block.count - begin));
    const BlockCount here = is_wide(block.dtype)
                                ? download_keys(scoring, part, static_cast<uint64_t*>(keys) + begin)
                                : download_keys(scoring, part, static_cast<uint32_t*>(keys) + begin);
    found.nan_count += here.nan_count;
    found.first_nan = std::min(found.first_nan, here.first_nan);
  }
  return found;
}

BlockCount CudaSelection::bracket(const Scoring& scoring, const ScoreBlock& given, Key low, Key high,
                                  uint64_t capacity, std::vector<Place>& candidates) {
  context_.make_current();
  check_block(scoring, given);
  const ScoreBlock block = scored(given);
  const uint64_t low_key = native_at_least(scoring, block.dtype, low);
  const uint64_t upper_key = native_above(scoring, block.dtype, high);
  BlockCount found;
  for_parts(block, [&](const ScoreBlock& part, int64_t) {
    const uint64_t missing = capacity - std::min<uint64_t>(capacity, candidates.size());
    const uint64_t room = std::min(missing, static_cast<uint64_t>(part.count));
    const size_t candidate_bytes = is_wide(part.dtype) ? sizeof(Candidate<double>) : sizeof(Candidate<float>);
    void* log = room == 0 ? nullptr : work_.reserve<char>(static_cast<int64_t>(room * candidate_bytes));
    const Totals totals = counted([&](Totals* device) {
      queue_bracket(context_, scoring, part, low_key, upper_key, log, room, device);
    });
    found.below += totals.below;
    found.inside += totals.inside;
    add_nan(found, totals, part);
    const uint64_t logged = std::min<uint64_t>(totals.logged, room);
    if (logged == 0) return;
    if (is_wide(part.dtype)) {
      append_places<double>(scoring, part, log, logged, candidates);
    } else {
      append_places<float>(scoring, part, log, logged, candidates);
    }
  });
  return found;
}

BlockCount CudaSelection::histogram(const Scoring& scoring, const ScoreBlock& given, const KeyWindow& window,
                                    uint64_t* bins) {
  context_.make_current();
  check_block(scoring, given);
  const ScoreBlock block = scored(given);
  const Key rest = window.prefix_bits == 0 ? ~Key{0} : ~Key{0} >> window.prefix_bits;
  const uint64_t low_key = native_at_least(scoring, block.dtype, window.prefix);
  const uint64_t upper_key = native_above(scoring, block.dtype, window.prefix | rest);
  BlockCount found;
  if (block.count == 0) return found;
  const int64_t bytes = window.bins() * static_cast<int64_t>(sizeof(Count));
  Count* device_bins = work_.reserve<Count>(window.bins());
  COPPICE_CUDA(cudaMemsetAsync(device_bins, 0, static_cast<size_t>(bytes), context_.stream));
  for_parts(block, [&](const ScoreBlock& part, int64_t) {
    const Totals totals = counted([&](Totals* device) {
      queue_histogram(context_, scoring, part, window, low_key, upper_key, device_bins, device);
    });
    add_nan(found, totals, part);
  });
  transfer_.download(device_bins, bytes, [&](const void* piece, int64_t piece_bytes) {
    const Count* counts = static_cast<const Count*>(piece);
    for (int64_t i = 0; i < piece_bytes / static_cast<int64_t>(sizeof(Count)); ++i) *bins++ += counts[i];
  });
  return found;
}

uint64_t CudaSelection::find_equal(const Scoring& scoring, const ScoreBlock& given, Key key, uint64_t index) {
  context_.make_current();
  check_block(scoring, given);
  const ScoreBlock block = scored(given);
  const uint64_t low_key = native_at_least(scoring, block.dtype, key);
  const uint64_t upper_key = native_above(scoring, block.dtype, key);
  std::optional<uint64_t> position;
  for_parts(block, [&](const ScoreBlock& part, int64_t) {
    if (position) return;
    // The piece in which it lies, then the keys of that piece.
    const int64_t pieces = counted_pieces(part);
    uint32_t* counts = work_.reserve<uint32_t>(pieces);
    queue_piece_counts(context_, scoring, part, low_key, upper_key, counts);
    int64_t piece = 0, found = -1;
    transfer_.download(counts, pieces * int64_t{sizeof(uint32_t)}, [&](const void* data, int64_t bytes) {
      const uint32_t* here = static_cast<const uint32_t*>(data);
      for (int64_t i = 0; i < bytes / int64_t{sizeof(uint32_t)} && found < 0; ++i, ++piece) {
        if (index < here[i]) {
          found = piece;
        } else {
          index -= here[i];
        }
      }
    });
    if (found < 0) return;
    const int64_t piece_begin = found * kCountedTogether - tile_lead(part);
    const int64_t begin = std::max<int64_t>(0, piece_begin);
    const int64_t end = std::min(part.count, piece_begin + kCountedTogether);
    std::vector<int64_t> starts;
    for (int64_t start = begin; start < end; start += kSampleLine) starts.push_back(start);
    std::vector<Key> keys;
    sample(scoring, part_of(part, 0, end), starts, keys);
    for (size_t i = 0; i < keys.size() && !position; ++i) {
      if (keys[i] == key && index-- == 0) position = part.position + static_cast<uint64_t>(begin) + i;
    }
  });
  if (position) return *position;
  failure("selection: fewer elements score exactly {} than were counted: the source changed between passes",
          score_of(scoring, key));
}

uint64_t CudaSelection::apply(const Scoring& scoring, const ScoreBlock& block, Place cut, void* output,
                              uint64_t* mask) {
  context_.make_current();
  check_block(scoring, block);
  // No score has key 0: one above it is the least threshold, under which what is cut already lies.
  const uint64_t threshold = std::max<uint64_t>(1, native_at_least(scoring, block.dtype, cut.key));
  const uint64_t above = std::max<uint64_t>(1, native_above(scoring, block.dtype, cut.key));
  return cut_scored(block, output, mask, [&](const ScoreBlock& whole, void* to, uint64_t* bits) {
    uint64_t count = 0;
    for_parts(whole, [&](const ScoreBlock& part, int64_t begin) {
      // Before the cut's position keys equal to the cut's go too, from there on they stay.
      const uint64_t before = cut.position > part.position ? cut.position - part.position : 0;
      const int64_t tie = static_cast<int64_t>(std::min<uint64_t>(before, static_cast<uint64_t>(part.count)));
      count += counted([&](Totals* totals) {
                 queue_apply(context_, scoring, part, threshold, above, tie, advanced(to, part.dtype, begin),
                             words_at(bits, whole, begin), totals);
               }).cut;
    });
    return count;
  });
}

BlockCount CudaSelection::accumulate(const Scoring& scoring, const ScoreBlock& given, Reduce reduce,
                                     UnitAxis axis, int64_t cols, int64_t first, UnitScore* units) {
  context_.make_current();
  check_block(scoring, given);
  const ScoreBlock block = scored(given);
  BlockCount found;
  for_parts(block, [&](const ScoreBlock& part, int64_t begin) {
    const int64_t from = first + begin;
    const int64_t first_row = from / cols, last_row = (from + part.count - 1) / cols;
    UnitScore* touched = axis == UnitAxis::row ? units + first_row : units;
    const int64_t count = axis == UnitAxis::row ? last_row - first_row + 1 : cols;
    const int64_t bytes = count * static_cast<int64_t>(sizeof(UnitScore));
    UnitScore* scores = work_.reserve<UnitScore>(count);
    transfer_.upload(touched, scores, bytes);
    const Totals totals = counted([&](Totals* device) {
      queue_accumulate(context_, scoring, part, reduce, axis, cols, from, scores, device);
    });
    add_nan(found, totals, part);
    transfer_.download(scores, touched, bytes);
  });
  return found;
}

uint64_t CudaSelection::apply_units(const ScoreBlock& block, UnitAxis axis, int64_t cols, int64_t first,
                                    const uint64_t* kept_units, void* output, uint64_t* mask) {
  if (block.count == 0) return 0;
  context_.make_current();
  // The bits of the units that the block touches.
  const int64_t first_unit = axis == UnitAxis::row ? first / cols : 0;
  const int64_t last_unit = axis == UnitAxis::row ? (first + block.count - 1) / cols : cols - 1;
  const int64_t first_word = first_unit / 64, words = last_unit / 64 - first_word + 1;
  uint64_t* unit_bits = work_.reserve<uint64_t>(words);
  transfer_.upload(kept_units + first_word, unit_bits, words * static_cast<int64_t>(sizeof(uint64_t)));
  const int64_t origin = axis == UnitAxis::row ? first - 64 * first_word * cols : first;
  return cut_scored(block, output, mask, [&](const ScoreBlock& whole, void* to, uint64_t* bits) {
    uint64_t count = 0;
    for_parts(whole, [&](const ScoreBlock& part, int64_t begin) {
      count += counted([&](Totals* totals) {
                 queue_apply_units(context_, part, axis, cols, origin + begin, unit_bits,
                                   advanced(to, part.dtype, begin), words_at(bits, whole, begin), totals);
               }).cut;
    });
    return count;
  });
}

uint64_t CudaSelection::count_kept(const ScoreBlock& block) {
  if (block.kept == nullptr) return static_cast<uint64_t>(block.count);
  context_.make_current();
  uint64_t kept = 0;
  for_parts(block, [&](const ScoreBlock& part, int64_t) {
    kept += counted([&](Totals* totals) { queue_count_kept(context_, part, totals); }).inside;
  });
  return kept;
}

std::unique_ptr<SelectionOps> make_selection(CudaContext& context) {
  return std::make_unique<CudaSelection>(context);
}

}  // namespace coppice::cuda
