#pragma once

#include <cstdint>

#include "kernels/criteria.hpp"
#include "kernels/cuda/quad.cuh"
#include "kernels/cuda/select_kernels.hpp"
#include "kernels/ordered_key.hpp"

// How the passes of selection walk over a block: a warp takes *tiles* of 128 elements, a quad for each lane,
// which are two words of mask bits.

namespace coppice::cuda {

inline constexpr int kTile = kQuad * kWarp;
inline constexpr int kThreads = 256;
/// Registers are bounded so that so many blocks run on a multiprocessor: at 64 bytes in flight for each of
/// their 1024 threads memory is kept busy.
inline constexpr int kResidentBlocks = 4;

template <class T>
struct Number;
template <>
struct Number<float> {
  using Bits = uint32_t;
  static constexpr Bits kTop = 0x8000'0000u;
  static constexpr Bits kInfinity = 0x7f80'0000u;
};
template <>
struct Number<double> {
  using Bits = uint64_t;
  static constexpr Bits kTop = 0x8000'0000'0000'0000u;
  static constexpr Bits kInfinity = 0x7ff0'0000'0000'0000u;
};
template <class T>
using Bits = typename Number<T>::Bits;
/// The largest key of a number; those above are NaNs'.
template <class T>
inline constexpr Bits<T> kLastKey = Number<T>::kTop | Number<T>::kInfinity;
/// What no element's key is below: stands in for elements that a tile lacks.
template <class T>
inline constexpr Bits<T> kNoKey = ~Bits<T>{0};

/// A block as kernels see it. T is the scores' type, or as wide where nothing is scored.
template <class T>
struct Elements {
  const T* weights;
  const T* statistic;
  const uint64_t* kept;
  int64_t count;
  uint64_t position;
  uint64_t seed;
  int lead;      // tile t begins at element 128·t − lead
  bool aligned;  // whole tiles can be accessed by whole quads

  __host__ __device__ int64_t tiles() const { return (lead + count + kTile - 1) / kTile; }
};

/// With an output, tiles are accessed by whole quads only where that is aligned, too.
template <class T>
Elements<T> elements_of(const ScoreBlock& block, uint64_t seed, const void* output = nullptr,
                        const uint64_t* mask = nullptr) {
  const int lead = tile_lead(block, mask);
  const auto aligned = [&](const void* data) {
    return data == nullptr || aligned_to_quad<T>(static_cast<const T*>(data) - lead);
  };
  return {static_cast<const T*>(block.weights),
          static_cast<const T*>(block.statistic),
          block.kept,
          block.count,
          block.position,
          seed,
          lead,
          aligned(block.weights) && aligned(block.statistic) && aligned(output)};
}

/// A lane's share of a tile.
template <class T>
struct TileQuad {
  int64_t tile;
  int64_t index;  // of the first element, in the block
  Quad<T> weights;
  Quad<T> statistic;
  unsigned inside;  // bit k: element index + k belongs to the block
  unsigned kept;    // likewise, and isn't cut already
  bool vector;      // accessed as a whole

  __device__ bool whole() const { return inside == kWholeQuad; }
};

/// Calls visit(quad) for kUnroll tiles from `begin` on, then for those from begin + step on and so forth
/// while they lie before `end`; whole warps call it, and all lanes visit together. All loads of the kUnroll
/// tiles are issued before the first is used.
template <bool kStatistic, int kUnroll, class T, class Visit>
__device__ inline void for_tiles(const Elements<T>& e, int64_t begin, int64_t end, int64_t step,
                                 Visit visit) {
  const int lane = lane_index();
  for (int64_t first_tile = begin; first_tile < end; first_tile += step) {
    TileQuad<T> quads[kUnroll];
    const bool whole = e.aligned && first_tile + kUnroll <= end && first_tile * kTile >= e.lead &&
                       (first_tile + kUnroll) * kTile - e.lead <= e.count;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      TileQuad<T>& q = quads[u];
      q.tile = first_tile + u;
      q.index = q.tile * kTile - e.lead + kQuad * lane;
      if (whole) {
        q.vector = true;
        q.inside = kWholeQuad;
        q.weights = load_quad(e.weights + q.index);
        if constexpr (kStatistic) q.statistic = load_quad(e.statistic + q.index);
      } else {
        q.vector = false;
        q.inside = q.tile < end ? quad_inside(q.index, e.count) : 0;
        q.weights = load_some(e.weights + q.index, q.inside);
        if constexpr (kStatistic) q.statistic = load_some(e.statistic + q.index, q.inside);
      }
      q.kept = q.inside;
      if (e.kept != nullptr && q.inside != 0) {
        q.kept &= static_cast<unsigned>(e.kept[2 * q.tile + lane / 16] >> (kQuad * (lane % 16)));
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (quads[u].tile < end) visit(quads[u]);
    }
  }
}

/// The same over all tiles, spread over the warps of the grid.
template <bool kStatistic, int kUnroll, class T, class Visit>
__device__ inline void for_all_tiles(const Elements<T>& e, Visit visit) {
  const int64_t warps_a_block = blockDim.x / kWarp;
  const int64_t warp = blockIdx.x * warps_a_block + warp_index();
  for_tiles<kStatistic, kUnroll>(e, warp * kUnroll, e.tiles(), gridDim.x * warps_a_block * kUnroll, visit);
}

template <class C>
inline constexpr bool kReadsStatistic = C::statistic != Statistic::none;
/// Tiles at once: 64 bytes in flight for each thread.
template <class T, bool kStatistic>
inline constexpr int kTilesAtOnce = 64 / static_cast<int>(sizeof(Quad<T>)) / (kStatistic ? 2 : 1);
template <class C, class T>
inline constexpr int kUnrollOf = kTilesAtOnce<T, kReadsStatistic<C>>;

template <class C, class T>
__device__ inline Bits<T> key_of_score(T weight, T statistic, uint64_t position, uint64_t seed) {
  const Bits<T> bits = __builtin_bit_cast(Bits<T>, C::score(weight, statistic, position, seed));
  constexpr Bits<T> kTop = Number<T>::kTop;
  if constexpr (C::non_negative) {
    return bits | kTop;
  } else {
    const Bits<T> magnitude = bits & ~kTop;
    if (magnitude == 0 || magnitude > Number<T>::kInfinity) return magnitude | kTop;  // −0 is +0, −NaN NaN
    return (bits & kTop) != 0 ? ~bits : bits | kTop;
  }
}

/// The keys of a quad: 0 where cut already, kNoKey outside of the block.
template <class C, class T>
__device__ inline void keys_of(const Elements<T>& e, const TileQuad<T>& q, Bits<T> (&keys)[kQuad]) {
#pragma unroll
  for (int k = 0; k < kQuad; ++k) {
    const T statistic = kReadsStatistic<C> ? q.statistic.at[k] : T(0);
    const uint64_t position = e.position + static_cast<uint64_t>(q.index + k);
    const Bits<T> key = key_of_score<C, T>(q.weights.at[k], statistic, position, e.seed);
    keys[k] = (q.kept >> k & 1) != 0 ? key : Bits<T>{0};
  }
  if (q.whole()) return;
#pragma unroll
  for (int k = 0; k < kQuad; ++k) {
    if ((q.inside >> k & 1) == 0) keys[k] = kNoKey<T>;
  }
}

/// The key of one element of the block.
template <class C, class T>
__device__ inline Bits<T> key_at(const Elements<T>& e, int64_t index) {
  const int64_t bit = e.lead + index;
  if (e.kept != nullptr && (e.kept[bit / 64] >> (bit % 64) & 1) == 0) return 0;
  const T statistic = kReadsStatistic<C> ? e.statistic[index] : T(0);
  return key_of_score<C, T>(e.weights[index], statistic, e.position + static_cast<uint64_t>(index), e.seed);
}

__device__ inline void report_nan(Totals* totals, int64_t index) {
  atomicAdd(&totals->nan_count, Count{1});
  atomicMax(&totals->not_first_nan, ~static_cast<Count>(index));
}

/// Reports the NaNs of a quad: one comparison where there is none.
template <class T>
__device__ inline void report_nans(const TileQuad<T>& q, const Bits<T> (&keys)[kQuad], Totals* totals) {
  Bits<T> largest = keys[0];
#pragma unroll
  for (int k = 1; k < kQuad; ++k) largest = keys[k] > largest ? keys[k] : largest;
  if (largest <= kLastKey<T>) return;
  for (int k = 0; k < kQuad; ++k) {
    if (keys[k] > kLastKey<T> && (q.inside >> k & 1) != 0) report_nan(totals, q.index + k);
  }
}

/// A grid over the tiles of a block: at most what runs at once, and for a short block no more warps than have
/// something to do.
struct Grid {
  unsigned blocks;
  unsigned threads;
};
inline Grid grid_for(const CudaContext& context, int64_t tiles, int unroll, int resident = kResidentBlocks) {
  const int64_t warps = (tiles + unroll - 1) / unroll;
  const int64_t threads = warps * kWarp < kThreads ? (warps > 0 ? warps : 1) * kWarp : kThreads;
  return {blocks_for(warps * kWarp, kThreads, context.full_grid(resident)), static_cast<unsigned>(threads)};
}

/// Calls run(criterion, elements) with the functor and the type known.
template <class Run>
void with_scores(const Scoring& scoring, const ScoreBlock& block, const void* output, const uint64_t* mask,
                 Run run) {
  visit(scoring.criterion, [&](auto criterion) {
    if (block.dtype == DType::f64) {
      run(criterion, elements_of<double>(block, scoring.seed, output, mask));
    } else {
      run(criterion, elements_of<float>(block, scoring.seed, output, mask));
    }
  });
}
template <class Run>
void with_scores(const Scoring& scoring, const ScoreBlock& block, Run run) {
  with_scores(scoring, block, nullptr, nullptr, run);
}

}  // namespace coppice::cuda
