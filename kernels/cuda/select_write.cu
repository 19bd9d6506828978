#include "kernels/cuda/select_tiles.cuh"
#include "kernels/half_precision.hpp"

// The passes that write the cut: threshold, mask bits and zeroed weights in one, 12 bytes a float32 parameter
// with a statistic. And the count of a mask's bits.

namespace coppice::cuda {
namespace {

/// Where the cut goes; either may be null.
template <class T>
struct Written {
  T* weights;
  uint64_t* mask;
  bool in_place;
};

/// The bits of the elements [0, count) in a word whose bit 0 is element `first`.
__device__ inline uint64_t word_inside(int64_t first, int64_t count) {
  uint64_t bits = ~uint64_t{0};
  if (first < 0) bits <<= -first;  // less than 64
  if (count - first < 64) bits &= count > first ? (uint64_t{1} << (count - first)) - 1 : 0;
  return bits;
}

/// The mask bits of a tile from the lanes' quads: sixteen lanes make a word. Words that have bits of other
/// elements are merged; nobody else writes them during this launch.
template <class T>
__device__ void write_mask(uint64_t* mask, const Elements<T>& e, int64_t tile, unsigned keep) {
  unsigned half = keep << (kQuad * (lane_index() % 8));
#pragma unroll
  for (int step = 1; step < 8; step *= 2) half |= __shfl_xor_sync(kFullMask, half, step);
  const unsigned other = __shfl_xor_sync(kFullMask, half, 8);
  if (lane_index() % 16 != 0) return;
  const int64_t index = 2 * tile + lane_index() / 16;
  const uint64_t bits = half | uint64_t{other} << 32;
  const uint64_t inside = word_inside(64 * index - e.lead, e.count);
  if (inside == ~uint64_t{0}) {
    mask[index] = bits;
  } else if (inside != 0) {
    mask[index] = (mask[index] & ~inside) | bits;
  }
}

/// A quad, with +0 where its bit of `keep` is 0. In place a quad that stays whole isn't written.
template <class T>
__device__ void write_weights(T* output, bool in_place, const TileQuad<T>& q, unsigned keep) {
  if (in_place && keep == q.inside) return;
  Quad<T> cut;
#pragma unroll
  for (int k = 0; k < kQuad; ++k) cut.at[k] = (keep >> k & 1) != 0 ? q.weights.at[k] : T(0);
  if (q.vector) {
    store_quad(output + q.index, cut);
  } else {
    store_some(output + q.index, cut, q.inside);
  }
}

/// Writes a quad and returns how many of its elements are cut.
template <class T>
__device__ unsigned write_quad(const Written<T>& to, const Elements<T>& e, const TileQuad<T>& q,
                               unsigned keep) {
  if (to.weights != nullptr) write_weights(to.weights, to.in_place, q, keep);
  if (to.mask != nullptr) write_mask(to.mask, e, q.tile, keep);
  return static_cast<unsigned>(__popc(q.inside & ~keep));
}

template <class C, class T>
__global__ void __launch_bounds__(kThreads, kResidentBlocks)
    apply_kernel(Elements<T> e, Bits<T> threshold, Bits<T> above, int64_t tie, Written<T> to,
                 Totals* totals) {
  unsigned cut = 0;
  for_all_tiles<kReadsStatistic<C>, kUnrollOf<C, T>>(e, [&](const TileQuad<T>& q) {
    Bits<T> keys[kQuad];
    keys_of<C>(e, q, keys);
    unsigned keep = 0;
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      keep |= unsigned{keys[k] >= (q.index + k < tie ? above : threshold)} << k;
    }
    cut += write_quad(to, e, q, keep & q.inside);
  });
  add_block_sum(cut, &totals->cut);
}

/// T is an unsigned integer as wide as a weight: nothing is computed.
template <class T>
__global__ void __launch_bounds__(kThreads, kResidentBlocks)
    apply_units_kernel(Elements<T> e, UnitAxis axis, uint64_t cols, uint64_t first,
                       const uint64_t* kept_units, Written<T> to, Totals* totals) {
  unsigned cut = 0;
  for_all_tiles<false, kTilesAtOnce<T, false>>(e, [&](const TileQuad<T>& q) {
    // One division a quad. Elements before the block's first don't count; those after its last come last.
    const uint64_t at = first + static_cast<uint64_t>(q.index < 0 ? 0 : q.index);
    uint64_t row = at / cols, col = at % cols;
    unsigned keep = 0;
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      if ((q.inside >> k & 1) == 0) continue;
      const uint64_t unit = axis == UnitAxis::row ? row : col;
      keep |= static_cast<unsigned>(kept_units[unit / 64] >> (unit % 64) & 1) << k;
      if (++col == cols) {
        col = 0;
        ++row;
      }
    }
    cut += write_quad(to, e, q, keep & q.kept);
  });
  add_block_sum(cut, &totals->cut);
}

__global__ void __launch_bounds__(kThreads)
    count_kept_kernel(const uint64_t* kept, int mask_bit, int64_t count, Totals* totals) {
  unsigned inside = 0;
  const int64_t words = (mask_bit + count + 63) / 64;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < words;
       i += int64_t{gridDim.x} * blockDim.x) {
    inside += static_cast<unsigned>(__popcll(kept[i] & word_inside(64 * i - mask_bit, count)));
  }
  add_block_sum(inside, &totals->inside);
}

__global__ void __launch_bounds__(kThreads)
    widen_kernel(DType dtype, StatisticForm form, const void* from, int64_t count, float* to) {
  const uint16_t* const halves = static_cast<const uint16_t*>(from);
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    const float x = dtype == DType::bf16  ? bfloat16_to_float(halves[i])
                    : dtype == DType::f16 ? half_to_float(halves[i])
                                          : static_cast<const float*>(from)[i];
    to[i] = form == StatisticForm::absolute ? fabsf(x) : form == StatisticForm::squared ? x * x : x;
  }
}

__global__ void __launch_bounds__(kThreads)
    cut_halves_kernel(const uint16_t* weights, int64_t count, const uint64_t* mask, int mask_bit,
                      uint16_t* to) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t bit = mask_bit + i;
    to[i] = (mask[bit / 64] >> (bit % 64) & 1) != 0 ? weights[i] : uint16_t{0};
  }
}

template <class T>
Written<T> written_to(const ScoreBlock& block, void* output, uint64_t* mask) {
  return {static_cast<T*>(output), mask, output == block.weights};
}

}  // namespace

void queue_apply(const CudaContext& context, const Scoring& scoring, const ScoreBlock& block,
                 uint64_t threshold, uint64_t above, int64_t tie, void* output, uint64_t* mask,
                 Totals* totals) {
  with_scores(scoring, block, output, mask, [&]<class C, class T>(C, const Elements<T>& e) {
    const Grid grid = grid_for(context, e.tiles(), kUnrollOf<C, T>);
    launch(apply_kernel<C, T>, grid.blocks, grid.threads, 0, context.stream, e, threshold, above, tie,
           written_to<T>(block, output, mask), totals);
  });
}

void queue_apply_units(const CudaContext& context, const ScoreBlock& block, UnitAxis axis, int64_t cols,
                       int64_t first, const uint64_t* kept_units, void* output, uint64_t* mask,
                       Totals* totals) {
  const auto run = [&]<class T>(T) {
    const Elements<T> e = elements_of<T>(block, 0, output, mask);
    const Grid grid = grid_for(context, e.tiles(), kTilesAtOnce<T, false>);
    launch(apply_units_kernel<T>, grid.blocks, grid.threads, 0, context.stream, e, axis, cols, first,
           kept_units, written_to<T>(block, output, mask), totals);
  };
  if (block.dtype == DType::f64) {
    run(uint64_t{});
  } else {
    run(uint32_t{});
  }
}

void queue_widen(const CudaContext& context, DType dtype, StatisticForm form, const void* from, int64_t count,
                 float* to) {
  const Grid grid = grid_for(context, (count + kWarp - 1) / kWarp, 1, 8);
  launch(widen_kernel, grid.blocks, grid.threads, 0, context.stream, dtype, form, from, count, to);
}

void queue_cut_halves(const CudaContext& context, const ScoreBlock& block, const uint64_t* mask,
                      void* output) {
  const Grid grid = grid_for(context, (block.count + kWarp - 1) / kWarp, 1, 8);
  launch(cut_halves_kernel, grid.blocks, grid.threads, 0, context.stream,
         static_cast<const uint16_t*>(block.weights), block.count, mask, block.mask_bit,
         static_cast<uint16_t*>(output));
}

void queue_count_kept(const CudaContext& context, const ScoreBlock& block, Totals* totals) {
  const int64_t words = (block.mask_bit + block.count + 63) / 64;
  const Grid grid = grid_for(context, (words + kWarp - 1) / kWarp, 1, 8);
  launch(count_kept_kernel, grid.blocks, grid.threads, 0, context.stream, block.kept, block.mask_bit,
         block.count, totals);
}

}  // namespace coppice::cuda
