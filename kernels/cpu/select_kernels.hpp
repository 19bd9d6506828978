#pragma once

#include <cstdint>

#include "kernels/criteria.hpp"

namespace coppice::cpu {

/// A chunk of a block, as the kernels of isa/select.cpp see it. Fields as in ScoreBlock.
struct ScoreChunk {
  uint64_t seed = 0;
  const void* weights = nullptr;
  const void* statistic = nullptr;
  const uint64_t* kept = nullptr;
  int mask_bit = 0;
  int64_t count = 0;
  uint64_t position = 0;
};

struct ChunkCount {
  int64_t below = 0;
  int64_t inside = 0;
  int64_t nan_count = 0;
  int64_t first_nan = -1;  // index in the chunk
};

/// A chunk has at most so many elements: their indices fit 32 bits and the log of candidates a thread's L2.
inline constexpr int64_t kChunk = int64_t{1} << 16;
/// The logs have room for a whole chunk and one vector more, because a compressed vector is stored whole.
inline constexpr int64_t kLogRoom = kChunk + 64;

/// Kernels of one criterion and element type. Keys are *signed* here (ordered_key with its top bit flipped:
/// AVX2 and SSE2 compare only signed integers): 32 bits for float, 64 for double. The lowest is "cut
/// already"; no score has the highest.
struct SelectKernels {
  /// Keys of the chunk's elements, int32_t or int64_t [count]; a NaN's is beyond that of +infinity.
  ChunkCount (*keys)(const ScoreChunk&, void* keys);
  /// Counts keys below `low` and in [low, upper); logs the latter's keys (as int32_t or int64_t; null: not
  /// wanted) and indices, [kLogRoom] each, in no order. `marks` (null: not wanted): bits placed as `kept`'s,
  /// 0 where a key is below `low` or an element cut already.
  ChunkCount (*bracket)(const ScoreChunk&, int64_t low, int64_t upper, void* keys, uint32_t* indices,
                        uint64_t* marks);
  /// bins[4][2^digit_bits] for those of the keys that lie in [low, upper): four tables, so that a row of
  /// equal digits doesn't wait for its own last increment. The digit is the `digit_bits` after the top
  /// `prefix_bits` of the wide or narrow key of selection.hpp.
  void (*histogram)(const void* keys, int64_t count, int64_t low, int64_t upper, int prefix_bits,
                    int digit_bits, bool wide, uint32_t* bins);
  /// Writes weights (+0 where key < threshold or cut already) and mask bits; returns how many are cut.
  int64_t (*apply)(const ScoreChunk&, int64_t threshold, void* output, uint64_t* mask);
  /// The same by `kept` alone: nothing is scored.
  int64_t (*cut)(const ScoreChunk&, void* output, uint64_t* mask);
};

namespace baseline {
const SelectKernels& select_kernels(Criterion criterion, bool f64);
}
namespace avx2 {
const SelectKernels& select_kernels(Criterion criterion, bool f64);
}
namespace avx512 {
const SelectKernels& select_kernels(Criterion criterion, bool f64);
}

}  // namespace coppice::cpu
