#include "kernels/cuda/select_tiles.cuh"

// The passes that read scores and write next to nothing: bound by memory, 8 bytes a float32 parameter with a
// statistic.

namespace coppice::cuda {
namespace {

/// Candidates that a warp holds back in shared memory. A tile adds up to 128 of them, so that a buffer of 256
/// is written out when it is half full or more: one atomic operation on the log's cursor, where all blocks
/// meet, for more than a hundred candidates, and coalesced stores.
constexpr int kStaged = 2 * kTile;

template <class T>
struct CandidateLog {
  Candidate<T>* entries;  // null: not wanted
  uint64_t room;
};

/// Appends a warp's staged candidates to the log.
template <class T>
__device__ void write_staged(const CandidateLog<T>& log, const Candidate<T>* staged, unsigned count,
                             Totals* totals) {
  Count at = 0;
  if (lane_index() == 0) at = atomicAdd(&totals->logged, Count{count});
  at = __shfl_sync(kFullMask, at, 0);  // the other lanes' entries are staged by then, too
  __syncwarp();
  for (unsigned i = static_cast<unsigned>(lane_index()); i < count; i += kWarp) {
    if (at + i < log.room) log.entries[at + i] = staged[i];
  }
  __syncwarp();  // before the next ones overwrite these
}

template <class C, class T>
__global__ void __launch_bounds__(kThreads, kResidentBlocks)
    bracket_kernel(Elements<T> e, Bits<T> low, Bits<T> upper, CandidateLog<T> log, Totals* totals) {
  COPPICE_SHARED(Candidate<T>, all_staged, [kThreads / kWarp][kStaged]);
  Candidate<T>* const staged = all_staged[warp_index()];
  const unsigned lanes_before = (1u << lane_index()) - 1;
  unsigned below = 0, inside = 0, used = 0;
  for_all_tiles<kReadsStatistic<C>, kUnrollOf<C, T>>(e, [&](const TileQuad<T>& q) {
    Bits<T> keys[kQuad];
    keys_of<C>(e, q, keys);
    report_nans(q, keys, totals);
    bool between[kQuad];
    unsigned here = 0;
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      below += keys[k] < low;
      between[k] = keys[k] >= low && keys[k] < upper;
      here += between[k];
    }
    inside += here;
    if (log.entries == nullptr || !__any_sync(kFullMask, here != 0)) return;
    if (used > kStaged - kTile) {
      write_staged(log, staged, used, totals);
      used = 0;
    }
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      const unsigned lanes = __ballot_sync(kFullMask, between[k]);
      if (between[k]) {
        Candidate<T>& candidate = staged[used + static_cast<unsigned>(__popc(lanes & lanes_before))];
        candidate.key = keys[k];
        candidate.index = static_cast<decltype(candidate.index)>(q.index + k);
      }
      used += static_cast<unsigned>(__popc(lanes));
    }
  });
  if (used != 0) write_staged(log, staged, used, totals);
  add_block_sum(below, &totals->below);
  add_block_sum(inside, &totals->inside);
}

/// How bins are told apart.
struct Digits {
  int shift;
  unsigned mask;
  int log_copies;  // −1: the bins don't fit shared memory
  bool wide;
};

template <class T>
__device__ unsigned digit_of(Bits<T> key, const Digits& digits) {
  uint64_t public_key = key;  // as selection.hpp defines it
  if constexpr (sizeof(T) == 4) {
    if (!digits.wide) {
      public_key = uint64_t{key} << 32;
    } else if (key != 0) {
      public_key = ordered_key(static_cast<double>(value_of_key(key)));
    }
  }
  return static_cast<unsigned>(public_key >> digits.shift) & digits.mask;
}

/// Scores crowd into few bins (a float's first digit is little more than its exponent), and atomic operations
/// on one address wait for each other. So a block has several copies of the bins in shared memory, which the
/// lanes of a warp take in turn; copies of one bin lie in neighbouring banks.
template <class C, class T>
__global__ void __launch_bounds__(kThreads, kResidentBlocks)
    histogram_kernel(Elements<T> e, Bits<T> low, Bits<T> upper, Digits digits, Count* bins, Totals* totals) {
  COPPICE_DYNAMIC_SHARED(unsigned, copies);
  const unsigned size = digits.mask + 1;
  const bool shared = digits.log_copies >= 0;
  const unsigned copy = shared ? threadIdx.x & ((1u << digits.log_copies) - 1) : 0;
  if (shared) {
    for (unsigned i = threadIdx.x; i < size << digits.log_copies; i += blockDim.x) copies[i] = 0;
  }
  __syncthreads();
  for_all_tiles<kReadsStatistic<C>, kUnrollOf<C, T>>(e, [&](const TileQuad<T>& q) {
    Bits<T> keys[kQuad];
    keys_of<C>(e, q, keys);
    report_nans(q, keys, totals);
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      if (keys[k] < low || keys[k] >= upper) continue;
      const unsigned digit = digit_of<T>(keys[k], digits);
      if (shared) {
        atomicAdd(&copies[(digit << digits.log_copies) + copy], 1u);
      } else {
        atomicAdd(&bins[digit], Count{1});
      }
    }
  });
  __syncthreads();
  if (!shared) return;
  for (unsigned digit = threadIdx.x; digit < size; digit += blockDim.x) {
    unsigned sum = 0;
    for (unsigned i = 0; i < 1u << digits.log_copies; ++i) sum += copies[(digit << digits.log_copies) + i];
    if (sum != 0) atomicAdd(&bins[digit], Count{sum});
  }
}

/// A warp counts a piece.
constexpr int64_t kTilesCounted = kCountedTogether / kTile;

template <class C, class T>
__global__ void __launch_bounds__(kThreads, kResidentBlocks)
    piece_counts_kernel(Elements<T> e, Bits<T> low, Bits<T> upper, int64_t pieces, uint32_t* counts) {
  const int64_t warps_a_block = blockDim.x / kWarp;
  for (int64_t piece = blockIdx.x * warps_a_block + warp_index(); piece < pieces;
       piece += gridDim.x * warps_a_block) {
    unsigned inside = 0;
    const int64_t begin = piece * kTilesCounted, tiles = e.tiles();
    const int64_t end = begin + kTilesCounted < tiles ? begin + kTilesCounted : tiles;
    for_tiles<kReadsStatistic<C>, kUnrollOf<C, T>>(e, begin, end, kUnrollOf<C, T>, [&](const TileQuad<T>& q) {
      Bits<T> keys[kQuad];
      keys_of<C>(e, q, keys);
#pragma unroll
      for (int k = 0; k < kQuad; ++k) inside += keys[k] >= low && keys[k] < upper;
    });
    for (int step = kWarp / 2; step > 0; step /= 2) inside += __shfl_xor_sync(kFullMask, inside, step);
    if (lane_index() == 0) counts[piece] = inside;
  }
}

/// A warp a line.
template <class C, class T>
__global__ void __launch_bounds__(kThreads)
    keys_kernel(Elements<T> e, const int64_t* starts, int64_t lines, Bits<T>* keys) {
  constexpr int64_t kLine = SelectionOps::kSampleLine;
  const int64_t warps_a_block = blockDim.x / kWarp;
  for (int64_t line = blockIdx.x * warps_a_block + warp_index(); line < lines;
       line += gridDim.x * warps_a_block) {
    for (int64_t j = lane_index(); j < kLine; j += kWarp) {
      const int64_t index = starts[line] + j;
      if (index < e.count) keys[line * kLine + j] = key_at<C>(e, index);
    }
  }
}

/// Bytes of shared memory for the copies of a histogram: what every device has without asking, so that five
/// blocks' fit beside each other on a multiprocessor.
constexpr int64_t kCopiesBytes = 32 << 10;

}  // namespace

void queue_bracket(const CudaContext& context, const Scoring& scoring, const ScoreBlock& block, uint64_t low,
                   uint64_t upper, void* candidates, uint64_t room, Totals* totals) {
  with_scores(scoring, block, [&]<class C, class T>(C, const Elements<T>& e) {
    const Grid grid = grid_for(context, e.tiles(), kUnrollOf<C, T>);
    const CandidateLog<T> log = {static_cast<Candidate<T>*>(candidates), room};
    launch(bracket_kernel<C, T>, grid.blocks, grid.threads, 0, context.stream, e, low, upper, log, totals);
  });
}

void queue_histogram(const CudaContext& context, const Scoring& scoring, const ScoreBlock& block,
                     const KeyWindow& window, uint64_t low, uint64_t upper, Count* bins, Totals* totals) {
  const int64_t bytes = window.bins() * static_cast<int64_t>(sizeof(unsigned));
  Digits digits{64 - window.prefix_bits - window.digit_bits, static_cast<unsigned>(window.bins() - 1), -1,
                scoring.wide};
  while (digits.log_copies < 5 && bytes << (digits.log_copies + 1) <= kCopiesBytes) ++digits.log_copies;
  const size_t shared_bytes = digits.log_copies < 0 ? 0 : static_cast<size_t>(bytes << digits.log_copies);
  with_scores(scoring, block, [&]<class C, class T>(C, const Elements<T>& e) {
    const Grid grid = grid_for(context, e.tiles(), kUnrollOf<C, T>);
    launch(histogram_kernel<C, T>, grid.blocks, grid.threads, shared_bytes, context.stream, e, low, upper,
           digits, bins, totals);
  });
}

int64_t counted_pieces(const ScoreBlock& block) {
  return (tile_lead(block) + block.count + kCountedTogether - 1) / kCountedTogether;
}

void queue_piece_counts(const CudaContext& context, const Scoring& scoring, const ScoreBlock& block,
                        uint64_t low, uint64_t upper, uint32_t* counts) {
  const int64_t pieces = counted_pieces(block);
  with_scores(scoring, block, [&]<class C, class T>(C, const Elements<T>& e) {
    const Grid grid = grid_for(context, pieces, 1);
    launch(piece_counts_kernel<C, T>, grid.blocks, grid.threads, 0, context.stream, e, low, upper, pieces,
           counts);
  });
}

void queue_keys(const CudaContext& context, const Scoring& scoring, const ScoreBlock& block,
                const int64_t* starts, int64_t lines, void* keys) {
  with_scores(scoring, block, [&]<class C, class T>(C, const Elements<T>& e) {
    const Grid grid = grid_for(context, lines, 1);
    launch(keys_kernel<C, T>, grid.blocks, grid.threads, 0, context.stream, e, starts, lines,
           static_cast<Bits<T>*>(keys));
  });
}

}  // namespace coppice::cuda
