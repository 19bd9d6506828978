#pragma once

#include <cstdint>

#include "kernels/cuda/context.hpp"
#include "kernels/selection.hpp"

// The passes of selection, as the host queues them. Keys are *native* here: ordered_key of the score in its
// own type, 32 bits for an f32 block and 64 for an f64 block; a NaN's lies above that of +infinity, that of
// what is cut already is 0. Blocks have at most `kLongestBlock` elements, so that counts of a thread or a
// thread block fit 32 bits. Everything named here is on the device, unless it says otherwise.

namespace coppice::cuda {

inline constexpr int64_t kLongestBlock = int64_t{1} << 30;

/// 64 bits as atomicAdd takes them.
using Count = unsigned long long;

/// What the passes count. All zero before the first.
struct Totals {
  Count below;
  Count inside;
  Count cut;
  Count logged;  // as `inside`, where a log was asked for: the log's cursor
  Count nan_count;
  Count not_first_nan;  // ~index of the first NaN: the largest of them, which starts from zero
};

/// A logged candidate.
template <class T>
struct Candidate;
template <>
struct Candidate<float> {
  uint32_t key;
  uint32_t index;  // in the block
};
template <>
struct Candidate<double> {
  uint64_t key;
  uint64_t index;
};

/// Counts keys below `low` and in [low, upper), and logs up to `room` of the latter as Candidate<float> or
/// Candidate<double>.
void queue_bracket(const CudaContext& context, const Scoring& scoring, const ScoreBlock& block, uint64_t low,
                   uint64_t upper, void* candidates, uint64_t room, Totals* totals);

/// bins[d] += how many keys in [low, upper) have digit d of `window`.
void queue_histogram(const CudaContext& context, const Scoring& scoring, const ScoreBlock& block,
                     const KeyWindow& window, uint64_t low, uint64_t upper, Count* bins, Totals* totals);

/// Kernels walk over a block by tiles that begin where a word of mask bits does, so many elements before the
/// block's first. Where there is no mask they begin at an aligned weight instead: the block's first and last
/// tile are then the only ones that can't be accessed 16 bytes at a time. With a mask this holds as well when
/// tensors are aligned, as the store's are.
inline int tile_lead(const ScoreBlock& block, const uint64_t* mask = nullptr) {
  if (block.kept != nullptr || mask != nullptr) return block.mask_bit;
  return static_cast<int>(reinterpret_cast<uintptr_t>(block.weights) % 16 / size_of(block.dtype));
}

/// counts[i]: keys in [low, upper) among the kCountedTogether elements from i · kCountedTogether −
/// tile_lead(block) on; counts [counted_pieces(block)].
inline constexpr int64_t kCountedTogether = 4096;
int64_t counted_pieces(const ScoreBlock& block);
void queue_piece_counts(const CudaContext& context, const Scoring& scoring, const ScoreBlock& block,
                        uint64_t low, uint64_t upper, uint32_t* counts);

/// keys[64·i + j]: the key of element starts[i] + j, of the block's type; what lies past the block's end is
/// not written.
void queue_keys(const CudaContext& context, const Scoring& scoring, const ScoreBlock& block,
                const int64_t* starts, int64_t lines, void* keys);

/// Cuts elements whose key is below `above` before index `tie` and below `threshold` from there on, and those
/// that are cut already. `output` and `mask` as in SelectionOps::apply.
void queue_apply(const CudaContext& context, const Scoring& scoring, const ScoreBlock& block,
                 uint64_t threshold, uint64_t above, int64_t tie, void* output, uint64_t* mask,
                 Totals* totals);

/// SelectionOps::apply_units, with the units' bits on the device.
void queue_apply_units(const CudaContext& context, const ScoreBlock& block, UnitAxis axis, int64_t cols,
                       int64_t first, const uint64_t* kept_units, void* output, uint64_t* mask,
                       Totals* totals);

/// f16, bf16 or f32 as float32, exactly, and then in that form.
void queue_widen(const CudaContext& context, DType dtype, StatisticForm form, const void* from, int64_t count,
                 float* to);

/// Halves whose bit of `mask`, placed as the block's, is 0 become +0 in `output` (may be the weights).
void queue_cut_halves(const CudaContext& context, const ScoreBlock& block, const uint64_t* mask,
                      void* output);

/// totals->inside += elements that aren't cut already, by block.kept (not null).
void queue_count_kept(const CudaContext& context, const ScoreBlock& block, Totals* totals);

/// SelectionOps::accumulate. units: those of the rows that the block touches, or of all columns.
void queue_accumulate(const CudaContext& context, const Scoring& scoring, const ScoreBlock& block,
                      Reduce reduce, UnitAxis axis, int64_t cols, int64_t first, UnitScore* units,
                      Totals* totals);

}  // namespace coppice::cuda
