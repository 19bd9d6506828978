#include "kernels/cpu/select_kernels.hpp"
#include "kernels/ordered_key.hpp"

#if defined(COPPICE_ISA_avx2) || defined(COPPICE_ISA_avx512)
#include <immintrin.h>
#endif

namespace coppice::cpu::COPPICE_ISA {
namespace {

// Every kernel works on tiles that stay in L1: first the keys of a tile, by a loop over the criterion that
// the compiler vectorises, then what is asked of the keys, 64 at a time as a word of bits. The pass over
// memory hides both: at 8 bytes an element the loads take longer than all of this together.
constexpr int64_t kTile = 1024;

template <class T>
struct Number;
template <>
struct Number<float> {
  using Bits = int32_t;
  using Unsigned = uint32_t;
  static constexpr Bits kMagnitude = 0x7fff'ffff;
  static constexpr Bits kInfinity = 0x7f80'0000;
  static constexpr int kSignShift = 31;
};
template <>
struct Number<double> {
  using Bits = int64_t;
  using Unsigned = uint64_t;
  static constexpr Bits kMagnitude = 0x7fff'ffff'ffff'ffff;
  static constexpr Bits kInfinity = 0x7ff0'0000'0000'0000;
  static constexpr int kSignShift = 63;
};
template <class T>
using Bits = typename Number<T>::Bits;
template <class T>
constexpr Bits<T> kHighest = Number<T>::kMagnitude;
template <class T>
constexpr Bits<T> kLowest = -Number<T>::kMagnitude - 1;

/// Keys of `count` elements from `begin` of the chunk; true when any is NaN.
template <class C, class T>
bool fill_keys(const ScoreChunk& chunk, int64_t begin, int64_t count, Bits<T>* __restrict keys) {
  const T* __restrict weights = static_cast<const T*>(chunk.weights) + begin;
  const T* __restrict statistic = static_cast<const T*>(chunk.statistic);
  if (C::statistic != Statistic::none) statistic += begin;
  const uint64_t position = chunk.position + static_cast<uint64_t>(begin);
  const uint64_t seed = chunk.seed;
  Bits<T> nan = 0;
  for (int64_t i = 0; i < count; ++i) {
    const T s = C::statistic != Statistic::none ? statistic[i] : T(0);
    const T score = C::score(weights[i], s, position + static_cast<uint64_t>(i), seed);
    const Bits<T> raw = __builtin_bit_cast(Bits<T>, score);
    const Bits<T> magnitude = raw & Number<T>::kMagnitude;
    const Bits<T> bits = magnitude == 0 ? 0 : raw;  // −0 is +0
    nan |= magnitude > Number<T>::kInfinity ? 1 : 0;
    keys[i] = bits ^ ((bits >> Number<T>::kSignShift) & Number<T>::kMagnitude);
  }
  return nan != 0;
}

template <class T>
using FillKeys = bool (*)(const ScoreChunk&, int64_t, int64_t, Bits<T>*);

template <class T>
FillKeys<T> fill_for(Criterion criterion) {
  return visit(criterion, [](auto c) -> FillKeys<T> { return &fill_keys<decltype(c), T>; });
}

/// Bit i: keys[i] < threshold, for 64 keys.
template <class T>
uint64_t less_bits(const Bits<T>* keys, Bits<T> threshold) {
#if defined(COPPICE_ISA_avx512)
  uint64_t word = 0;
  if constexpr (sizeof(T) == 4) {
    const __m512i t = _mm512_set1_epi32(threshold);
    for (int v = 0; v < 4; ++v) {
      word |= uint64_t{_mm512_cmplt_epi32_mask(_mm512_loadu_si512(keys + 16 * v), t)} << (16 * v);
    }
  } else {
    const __m512i t = _mm512_set1_epi64(threshold);
    for (int v = 0; v < 8; ++v) {
      word |= uint64_t{_mm512_cmplt_epi64_mask(_mm512_loadu_si512(keys + 8 * v), t)} << (8 * v);
    }
  }
  return word;
#elif defined(COPPICE_ISA_avx2)
  uint64_t word = 0;
  if constexpr (sizeof(T) == 4) {
    const __m256i t = _mm256_set1_epi32(threshold);
    for (int v = 0; v < 8; ++v) {
      const __m256i k = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys + 8 * v));
      const int bits = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(t, k)));
      word |= uint64_t{static_cast<uint32_t>(bits)} << (8 * v);
    }
  } else {
    const __m256i t = _mm256_set1_epi64x(threshold);
    for (int v = 0; v < 16; ++v) {
      const __m256i k = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys + 4 * v));
      const int bits = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpgt_epi64(t, k)));
      word |= uint64_t{static_cast<uint32_t>(bits)} << (4 * v);
    }
  }
  return word;
#else
  // One flag a byte, by a loop that vectorises; a multiplication then gathers eight flags into eight bits.
  alignas(64) uint8_t flags[64];
  for (int i = 0; i < 64; ++i) flags[i] = keys[i] < threshold ? 1 : 0;
  uint64_t word = 0;
  for (int byte = 0; byte < 8; ++byte) {
    uint64_t eight;
    __builtin_memcpy(&eight, flags + 8 * byte, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    eight = __builtin_bswap64(eight);
#endif
    word |= ((eight * 0x0102'0408'1020'4080ull) >> 56) << (8 * byte);
  }
  return word;
#endif
}

/// A tile of keys and where its mask bits lie. Only the first tile of a chunk may start inside a mask word,
/// and then ends with it, so that all others are whole words.
template <class T>
struct Tile {
  int64_t begin = 0;  // in the chunk
  int64_t count = 0;
  int64_t word = 0;  // of the mask
  int shift = 0;     // of the first element in that word
  bool nan = false;
  alignas(64) Bits<T> keys[kTile];

  int64_t words() const { return (count + 63) / 64; }
  /// Bits of word `w` that belong to elements, from bit 0 whatever `shift` is.
  uint64_t valid(int64_t w) const {
    const int64_t left = count - 64 * w;
    return left >= 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
  }
};

template <class T>
bool is_nan_key(Bits<T> key) {
  return key > Number<T>::kInfinity || key < (kLowest<T> | (Number<T>::kInfinity ^ Number<T>::kMagnitude));
}

/// Calls visit(tile) for the tiles of a chunk in order. Returns the NaN scores among what isn't cut already.
template <class T, class Visit>
ChunkCount for_tiles(const ScoreChunk& chunk, Visit visit_tile) {
  const FillKeys<T> fill = fill_for<T>(chunk.criterion);
  Tile<T> tile;
  ChunkCount found;
  int shift = chunk.mask_bit;
  int64_t word = 0;
  for (int64_t begin = 0; begin < chunk.count; begin += tile.count) {
    const int64_t left = chunk.count - begin;
    const int64_t room = shift != 0 ? 64 - shift : kTile;
    tile.begin = begin;
    tile.count = left < room ? left : room;
    tile.word = word;
    tile.shift = shift;
    tile.nan = fill(chunk, begin, tile.count, tile.keys);
    if (tile.nan) {
      for (int64_t i = 0; i < tile.count; ++i) {
        const int64_t bit = shift + i;
        const bool kept = chunk.kept == nullptr || (chunk.kept[word + bit / 64] >> (bit % 64) & 1) != 0;
        if (!kept || !is_nan_key<T>(tile.keys[i])) continue;
        if (found.nan_count++ == 0) found.first_nan = begin + i;
      }
    }
    for (int64_t i = tile.count; i < 64 * tile.words(); ++i) tile.keys[i] = kHighest<T>;
    if (chunk.kept != nullptr) {
      for (int64_t w = 0; w < tile.words(); ++w) {
        const uint64_t valid = tile.valid(w);
        const uint64_t kept = chunk.kept[word + w] >> shift;
        if ((kept & valid) == valid) continue;
        const uint64_t cut = ~kept & valid;
        Bits<T>* keys = tile.keys + 64 * w;
        for (int half = 0; half < 2; ++half) {
          const uint32_t bits = static_cast<uint32_t>(cut >> (32 * half));
          for (int i = 0; i < 32; ++i) {
            const bool is_cut = (bits & (uint32_t{1} << i)) != 0;
            keys[32 * half + i] = is_cut ? kLowest<T> : keys[32 * half + i];
          }
        }
      }
    }
    visit_tile(tile);
    word += (shift + tile.count) / 64;
    shift = static_cast<int>((shift + tile.count) % 64);
  }
  return found;
}

template <class T>
void keys_kernel(const ScoreChunk& chunk, int64_t* keys) {
  for_tiles<T>(chunk, [&](const Tile<T>& tile) {
    for (int64_t i = 0; i < tile.count; ++i) keys[tile.begin + i] = tile.keys[i];
  });
}

template <class T>
T score_of_key(Bits<T> key) {
  return __builtin_bit_cast(
      T, static_cast<Bits<T>>(key ^ ((key >> Number<T>::kSignShift) & Number<T>::kMagnitude)));
}

template <class T>
ChunkCount scores_kernel(const ScoreChunk& chunk, double* scores) {
  return for_tiles<T>(chunk, [&](const Tile<T>& tile) {
    for (int64_t i = 0; i < tile.count; ++i) {
      scores[tile.begin + i] = static_cast<double>(score_of_key<T>(tile.keys[i]));
    }
  });
}

template <class T>
ChunkCount bracket_kernel(const ScoreChunk& chunk, int64_t low, int64_t upper, int64_t* log_keys,
                          uint32_t* log_indices) {
  const Bits<T> low_key = static_cast<Bits<T>>(low), upper_key = static_cast<Bits<T>>(upper);
  int64_t below = 0, inside = 0;
  ChunkCount found = for_tiles<T>(chunk, [&](const Tile<T>& tile) {
    for (int64_t w = 0; w < tile.words(); ++w) {
      const Bits<T>* keys = tile.keys + 64 * w;
      const uint64_t under = less_bits<T>(keys, low_key);
      uint64_t between = less_bits<T>(keys, upper_key) & ~under & tile.valid(w);
      below += __builtin_popcountll(under);
      const int64_t logged = inside;
      inside += __builtin_popcountll(between);
      if (between == 0 || log_keys == nullptr) continue;
      int64_t at = logged;
      for (; between != 0; between &= between - 1) {
        const int i = __builtin_ctzll(between);
        log_keys[at] = keys[i];
        log_indices[at++] = static_cast<uint32_t>(tile.begin + 64 * w + i);
      }
    }
  });
  found.below = below;
  found.inside = inside;
  return found;
}

/// The unsigned key as selection.hpp defines it: narrow in the upper half, or wide.
template <class T>
uint64_t public_key(Bits<T> key, bool wide) {
  using Unsigned = typename Number<T>::Unsigned;
  const Unsigned narrow = static_cast<Unsigned>(key) ^ static_cast<Unsigned>(kLowest<T>);
  if constexpr (sizeof(T) == 8) {
    return narrow;
  } else {
    if (!wide) return uint64_t{narrow} << 32;
    return narrow == 0 ? 0 : ordered_key(static_cast<double>(value_of_key(narrow)));
  }
}

template <class T>
ChunkCount histogram_kernel(const ScoreChunk& chunk, int64_t low, int64_t upper, int prefix_bits,
                            int digit_bits, bool wide, uint32_t* bins) {
  const Bits<T> low_key = static_cast<Bits<T>>(low), upper_key = static_cast<Bits<T>>(upper);
  const int shift = 64 - prefix_bits - digit_bits;
  const int64_t size = int64_t{1} << digit_bits;
  const uint64_t digit_mask = static_cast<uint64_t>(size) - 1;
  return for_tiles<T>(chunk, [&](const Tile<T>& tile) {
    for (int64_t w = 0; w < tile.words(); ++w) {
      const Bits<T>* keys = tile.keys + 64 * w;
      const uint64_t valid = tile.valid(w);
      uint64_t between = less_bits<T>(keys, upper_key) & ~less_bits<T>(keys, low_key) & valid;
      if (between == ~uint64_t{0}) {
        for (int i = 0; i < 64; ++i)
          ++bins[size * (i & 3) + ((public_key<T>(keys[i], wide) >> shift) & digit_mask)];
      } else {
        for (; between != 0; between &= between - 1) {
          const int i = __builtin_ctzll(between);
          ++bins[size * (i & 3) + ((public_key<T>(keys[i], wide) >> shift) & digit_mask)];
        }
      }
    }
  });
}

template <class T>
void write_weights(const Bits<T>* weights, uint64_t cut, int64_t count, Bits<T>* output) {
  if (count == 64) {
#if defined(COPPICE_ISA_avx512)
    for (int64_t v = 0; v < static_cast<int64_t>(sizeof(T)); ++v) {
      constexpr int kLanes = 64 / sizeof(T);
      const __m512i value = _mm512_loadu_si512(weights + kLanes * v);
      const uint64_t keep = ~cut >> (kLanes * v);
      if constexpr (sizeof(T) == 4) {
        _mm512_storeu_si512(output + kLanes * v, _mm512_maskz_mov_epi32(static_cast<__mmask16>(keep), value));
      } else {
        _mm512_storeu_si512(output + kLanes * v, _mm512_maskz_mov_epi64(static_cast<__mmask8>(keep), value));
      }
    }
    return;
#else
    for (int half = 0; half < 2; ++half) {
      const uint32_t bits = static_cast<uint32_t>(cut >> (32 * half));
#pragma GCC ivdep  // the output is the weights themselves or lies apart from them
      for (int i = 0; i < 32; ++i) {
        const bool is_cut = (bits & (uint32_t{1} << i)) != 0;
        output[32 * half + i] = is_cut ? 0 : weights[32 * half + i];
      }
    }
    return;
#endif
  }
  for (int64_t i = 0; i < count; ++i) output[i] = (cut >> i & 1) != 0 ? 0 : weights[i];
}

template <class T>
int64_t apply_kernel(const ScoreChunk& chunk, int64_t threshold, void* output, uint64_t* mask) {
  const Bits<T> threshold_key = static_cast<Bits<T>>(threshold);
  const Bits<T>* weights = static_cast<const Bits<T>*>(chunk.weights);
  Bits<T>* cut_weights = static_cast<Bits<T>*>(output);
  int64_t cut_count = 0;
  for_tiles<T>(chunk, [&](const Tile<T>& tile) {
    for (int64_t w = 0; w < tile.words(); ++w) {
      const uint64_t valid = tile.valid(w);
      const Bits<T>* keys = tile.keys + 64 * w;
      uint64_t cut = less_bits<T>(keys, threshold_key) & valid;
      if (chunk.kept != nullptr) cut |= ~(chunk.kept[tile.word + w] >> tile.shift) & valid;
      cut_count += __builtin_popcountll(cut);
      const int64_t begin = tile.begin + 64 * w;
      const int64_t count = tile.count - 64 * w < 64 ? tile.count - 64 * w : 64;
      if (output != nullptr && (cut != 0 || output != chunk.weights)) {
        write_weights<T>(weights + begin, cut, count, cut_weights + begin);
      }
      if (mask != nullptr) {
        uint64_t& word = mask[tile.word + w];
        if (valid == ~uint64_t{0}) {
          word = ~cut;
        } else {
          word = (word & ~(valid << tile.shift)) | ((~cut & valid) << tile.shift);
        }
      }
    }
  });
  return cut_count;
}

template <class T>
constexpr SelectKernels kKernels = {&keys_kernel<T>, &scores_kernel<T>, &bracket_kernel<T>,
                                    &histogram_kernel<T>, &apply_kernel<T>};

}  // namespace

const SelectKernelSet& select_kernels() {
  static constexpr SelectKernelSet set = {kKernels<float>, kKernels<double>};
  return set;
}

}  // namespace coppice::cpu::COPPICE_ISA
