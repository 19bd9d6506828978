#include "kernels/cpu/select_kernels.hpp"
#include "kernels/ordered_key.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace coppice::cpu::COPPICE_ISA {
namespace {

// Every kernel works on one word of mask bits at a time: the keys of 64 elements, by a loop over the
// criterion that the compiler vectorises, then what is asked of the keys as words of bits. The criterion is
// inlined, so that loads of the next elements overlap the comparisons of these: by tiles of a thousand the
// pass took half as long again.
constexpr int64_t kWord = 64;

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

/// As many elements as one register holds.
#if defined(COPPICE_ISA_avx512)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif
template <class T>
struct VectorOf {
  typedef Bits<T> Keys __attribute__((vector_size(kVectorBytes)));
  typedef Bits<T> UnalignedKeys __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
  typedef T Numbers __attribute__((vector_size(kVectorBytes)));
  typedef T UnalignedNumbers __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::Keys;
template <class T>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));
template <class T>
constexpr int64_t kVectors = kWord / kLanes<T>;

/// A vector of weights or statistics: what the criteria are instantiated with.
template <class T>
struct Lanes {
  typename VectorOf<T>::Numbers values;
};
template <class T>
[[gnu::always_inline]] inline Lanes<T> operator*(Lanes<T> a, Lanes<T> b) {
  return {a.values * b.values};
}
template <class T>
[[gnu::always_inline]] inline Lanes<T> absolute(Lanes<T> x) {
  return {reinterpret_cast<typename VectorOf<T>::Numbers>(reinterpret_cast<Vector<T>>(x.values) &
                                                          Number<T>::kMagnitude)};
}

template <class T>
[[gnu::always_inline]] inline bool any(const Vector<T>& flags) {
  uint64_t words[kVectorBytes / 8];
  __builtin_memcpy(words, &flags, sizeof(words));
  uint64_t all = 0;
  for (uint64_t word : words) all |= word;
  return all != 0;
}

/// The key of an element, `index` counted in the chunk. Every NaN becomes a positive one: beyond +infinity.
template <class C, class T>
[[gnu::always_inline]] inline Bits<T> key_at(const ScoreChunk& chunk, int64_t index) {
  const T w = static_cast<const T*>(chunk.weights)[index];
  const T s = C::statistic != Statistic::none ? static_cast<const T*>(chunk.statistic)[index] : T(0);
  const T score = C::score(w, s, chunk.position + static_cast<uint64_t>(index), chunk.seed);
  const Bits<T> raw = __builtin_bit_cast(Bits<T>, score);
  if (C::non_negative) return raw;
  const Bits<T> magnitude = raw & Number<T>::kMagnitude;
  Bits<T> bits = magnitude == 0 ? 0 : raw;  // −0 is +0
  bits = magnitude > Number<T>::kInfinity ? magnitude : bits;
  return bits ^ ((bits >> Number<T>::kSignShift) & Number<T>::kMagnitude);
}

/// The same for a vector of elements.
template <class C, class T>
[[gnu::always_inline]] inline Vector<T> keys_at(const ScoreChunk& chunk, int64_t index) {
  if constexpr (C::by_position) {
    alignas(kVectorBytes) Bits<T> keys[kLanes<T>];
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) keys[lane] = key_at<C, T>(chunk, index + lane);
    Vector<T> vector;
    __builtin_memcpy(&vector, keys, sizeof(vector));
    return vector;
  } else {
    using Unaligned = typename VectorOf<T>::UnalignedNumbers;
    const Lanes<T> w = {*reinterpret_cast<const Unaligned*>(static_cast<const T*>(chunk.weights) + index)};
    Lanes<T> s = w;
    if constexpr (C::statistic != Statistic::none) {
      s = {*reinterpret_cast<const Unaligned*>(static_cast<const T*>(chunk.statistic) + index)};
    }
    const Vector<T> raw = reinterpret_cast<Vector<T>>(C::score(w, s, 0, 0).values);
    if (C::non_negative) return raw;
    const Vector<T> magnitude = raw & Number<T>::kMagnitude;
    const Vector<T> nan = magnitude > Number<T>::kInfinity;
    const Vector<T> bits = (raw & (magnitude != 0) & ~nan) | (magnitude & nan);
    return bits ^ ((bits >> Number<T>::kSignShift) & Number<T>::kMagnitude);
  }
}

/// Whole words are taken from so many places of a chunk in turn: a core has more reads of memory under way
/// when it follows several streams than when it follows one, of weights and of statistics each. With more
/// than two a Zen 3 loses them again in the pass that counts (59 against 86 ms for 100 M); a Zen 4 does not.
#if defined(COPPICE_ISA_avx512)
constexpr int64_t kStreams = 4;
#else
constexpr int64_t kStreams = 2;
#endif

/// Calls visit(i) for each i < words, not in order. The streams don't lie a power of two apart, which would
/// have them share a cache's set.
template <class Visit>
[[gnu::always_inline]] inline void in_streams(int64_t words, Visit visit) {
  const int64_t length = words / kStreams - 1 + words / kStreams % 2;
  int64_t done = 0;
  if (length > 0) {
    for (int64_t i = 0; i < length; ++i) {
#pragma GCC unroll 1
      for (int64_t stream = 0; stream < kStreams; ++stream) visit(stream * length + i);
    }
    done = kStreams * length;
  }
  for (; done < words; ++done) visit(done);
}

/// The elements that share a word of mask bits.
template <class T>
struct Word {
  int64_t begin = 0;                // in the chunk
  int64_t count = kWord;            // fewer in the chunk's first and last
  int64_t index = 0;                // of the word
  int shift = 0;                    // of the first element in it
  uint64_t valid = ~uint64_t{0};    // bits of `count` elements, from bit 0 whatever `shift` is
  const Vector<T>* keys = nullptr;  // [64] keys, that of +infinity past `count`

  Bits<T> key(int64_t i) const { return keys[i / kLanes<T>][i % kLanes<T>]; }
};

/// Lowers the keys of what is cut already.
template <class T>
[[gnu::always_inline]] inline void lower_keys(Vector<T>* keys, uint64_t cut) {
  if (cut == 0) return;
  Vector<T> one;
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) one[lane] = Bits<T>{1} << lane;
  for (int64_t v = 0; v < kVectors<T>; ++v) {
    const Vector<T> flags = (one & static_cast<Bits<T>>(cut >> (kLanes<T> * v))) != 0;
    keys[v] = (keys[v] & ~flags) | (kLowest<T> & flags);
  }
}

/// A word that the chunk starts or ends within; out of line, because most have all their elements.
template <class C, class T, class State, class Visit>
[[gnu::noinline]] State visit_partial(const ScoreChunk& chunk, Word<T> word, State state, Visit visit) {
  Vector<T> keys[kVectors<T>];
  for (int64_t i = 0; i < kWord; ++i) {
    const bool inside = i < word.count;
    keys[i / kLanes<T>][i % kLanes<T>] = inside ? key_at<C, T>(chunk, word.begin + i) : Number<T>::kInfinity;
  }
  word.valid = (uint64_t{1} << word.count) - 1;  // with 64 elements it would not be partial
  word.keys = keys;
  if (chunk.kept != nullptr) lower_keys<T>(keys, ~(chunk.kept[word.index] >> word.shift) & word.valid);
  visit(word, state);
  return state;
}

/// Calls visit(word, state) for the words of a chunk in streams and returns the state. It is passed by value
/// because an accumulator whose address gets out lives in memory, and costs more than the comparisons.
template <class C, class T, class State, class Visit>
[[gnu::always_inline]] inline State for_words(const ScoreChunk& chunk, State state, Visit visit) {
  int64_t begin = 0, index = 0;
  if (chunk.mask_bit != 0 && chunk.count > 0) {
    const int64_t room = kWord - chunk.mask_bit;
    Word<T> word;
    word.count = begin = chunk.count < room ? chunk.count : room;
    word.shift = chunk.mask_bit;
    state = visit_partial<C, T>(chunk, word, state, visit);
    index = 1;
  }
  const ScoreChunk local = chunk;
  const int64_t words = (local.count - begin) / kWord;
  in_streams(
      words, [&](int64_t i) __attribute__((always_inline)) {
        Vector<T> keys[kVectors<T>];
        Word<T> word;
        word.begin = begin + kWord * i;
        word.index = index + i;
        word.keys = keys;
#pragma GCC unroll 64
        for (int64_t v = 0; v < kVectors<T>; ++v) keys[v] = keys_at<C, T>(local, word.begin + kLanes<T> * v);
        if (local.kept != nullptr) lower_keys<T>(keys, ~local.kept[word.index]);
        visit(word, state);
      });
  begin += kWord * words;
  index += words;
  if (begin < local.count) {
    Word<T> word;
    word.begin = begin;
    word.count = local.count - begin;
    word.index = index;
    state = visit_partial<C, T>(chunk, word, state, visit);
  }
  return state;
}

/// Writes the bits of a word's elements, `bits` from bit 0 on, and leaves those that aren't its own.
template <class T>
[[gnu::always_inline]] inline void put_bits(const Word<T>& word, uint64_t bits, uint64_t* words) {
  uint64_t& here = words[word.index];
  here = (here & ~(word.valid << word.shift)) | ((bits & word.valid) << word.shift);
}

#if defined(__SSE2__) && !defined(COPPICE_ISA_avx512)
/// The flags of four vectors of 32 bits, a bit a lane in order.
[[gnu::always_inline]] inline uint32_t four_flags(Vector<float> a, Vector<float> b, Vector<float> c,
                                                  Vector<float> d) {
#if defined(__AVX2__)
  const auto pack = [](Vector<float> x, Vector<float> y) __attribute__((always_inline)) {
    return _mm256_packs_epi32(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(y));
  };
  // Packing goes by halves of a register: a's and b's lower lanes come first.
  const __m256i mixed = _mm256_packs_epi16(pack(a, b), pack(c, d));
  const __m256i bytes = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  return static_cast<uint32_t>(_mm256_movemask_epi8(bytes));
#else
  const auto pack = [](Vector<float> x, Vector<float> y) __attribute__((always_inline)) {
    return _mm_packs_epi32(reinterpret_cast<__m128i>(x), reinterpret_cast<__m128i>(y));
  };
  return static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(pack(a, b), pack(c, d))));
#endif
}
#endif

/// Bit i: keys[i] < threshold, for 64 keys.
template <class T>
[[gnu::always_inline]] inline uint64_t less_bits(const Vector<T>* keys, Bits<T> threshold) {
  uint64_t word = 0;
#if defined(COPPICE_ISA_avx512)
#pragma GCC unroll 64
  for (int v = 0; v < kVectors<T>; ++v) {
    const __m512i k = reinterpret_cast<__m512i>(keys[v]);
    uint64_t bits = 0;
    if constexpr (sizeof(T) == 4) {
      bits = _mm512_cmplt_epi32_mask(k, _mm512_set1_epi32(threshold));
    } else {
      bits = _mm512_cmplt_epi64_mask(k, _mm512_set1_epi64(threshold));
    }
    word |= bits << (kLanes<T> * v);
  }
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4) {
    // Four vectors of flags become one of bytes, which gives its bits in one go: a third less to do than by
    // vectors.
#pragma GCC unroll 64
    for (int v = 0; v < kVectors<T>; v += 4) {
      word |= uint64_t{four_flags(keys[v] < threshold, keys[v + 1] < threshold, keys[v + 2] < threshold,
                                  keys[v + 3] < threshold)}
              << (kLanes<T> * v);
    }
  } else {
#pragma GCC unroll 64
    for (int v = 0; v < kVectors<T>; ++v) {
      const Vector<T> flags = keys[v] < threshold;
#if defined(__AVX2__)
      const int bits = _mm256_movemask_pd(reinterpret_cast<__m256d>(flags));
#else
      const int bits = _mm_movemask_pd(reinterpret_cast<__m128d>(flags));
#endif
      word |= uint64_t{static_cast<uint32_t>(bits)} << (kLanes<T> * v);
    }
  }
#else
  // One bit a lane, chosen by the flags; the lanes of a vector add up to its share of the word.
  Vector<T> one;
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) one[lane] = Bits<T>{1} << lane;
  for (int64_t v = 0; v < kVectors<T>; ++v) {
    const Vector<T> flags = one & (keys[v] < threshold);
    uint64_t bits = 0;
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) bits |= static_cast<uint64_t>(flags[lane]);
    word |= bits << (kLanes<T> * v);
  }
#endif
  return word;
}

/// Appends the keys and indices of the elements in `bits`; the logs have room for a vector more than is
/// counted.
template <class T>
[[gnu::always_inline]] inline int64_t log_elements(const Word<T>& word, uint64_t bits, int64_t at,
                                                   Bits<T>* keys, uint32_t* indices) {
#if defined(COPPICE_ISA_avx512)
  if constexpr (sizeof(T) == 4) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#pragma GCC unroll 64
    for (int v = 0; v < 4; ++v) {
      const __mmask16 chosen = static_cast<__mmask16>(bits >> (16 * v));
      // To a register first: compressing straight to memory is microcoded on Zen 4.
      const __m512i index = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(word.begin) + 16 * v));
      _mm512_storeu_si512(keys + at,
                          _mm512_maskz_compress_epi32(chosen, reinterpret_cast<__m512i>(word.keys[v])));
      _mm512_storeu_si512(indices + at, _mm512_maskz_compress_epi32(chosen, index));
      at += __builtin_popcount(chosen);
    }
    return at;
  }
#endif
  for (; bits != 0; bits &= bits - 1) {
    const int i = __builtin_ctzll(bits);
    keys[at] = word.key(i);
    indices[at++] = static_cast<uint32_t>(word.begin + i);
  }
  return at;
}

/// NaN scores among what isn't cut already: the rare second look at a chunk.
template <class C, class T>
[[gnu::noinline]] ChunkCount find_nan(const ScoreChunk& chunk, ChunkCount found) {
  return for_words<C, T>(chunk, found, [](const Word<T>& word, ChunkCount& state) {
    for (int64_t i = 0; i < word.count; ++i) {
      if (word.key(i) <= Number<T>::kInfinity) continue;
      if (state.nan_count++ == 0 || word.begin + i < state.first_nan) state.first_nan = word.begin + i;
    }
  });
}

template <class C, class T>
ChunkCount bracket_kernel(const ScoreChunk& chunk, int64_t low, int64_t upper, void* log_keys,
                          uint32_t* log_indices, uint64_t* marks) {
  const Bits<T> low_key = static_cast<Bits<T>>(low), upper_key = static_cast<Bits<T>>(upper);
  struct State {
    int64_t below = 0;
    int64_t inside = 0;
    Vector<T> highest = {};
  };
  const uint64_t* const kept = chunk.kept;
  const State counted = for_words<C, T>(chunk, State{}, [=](const Word<T>& word, State& state) {
#pragma GCC unroll 64
    for (int64_t v = 0; v < kVectors<T>; ++v) {
      state.highest = state.highest > word.keys[v] ? state.highest : word.keys[v];
    }
    const uint64_t under = less_bits<T>(word.keys, low_key);
    const uint64_t between = less_bits<T>(word.keys, upper_key) & ~under & word.valid;
    state.below += __builtin_popcountll(under & word.valid);
    if (marks != nullptr) {
      put_bits(word, kept == nullptr ? ~under : ~under & (kept[word.index] >> word.shift), marks);
    }
    if (between == 0) return;
    if (log_keys == nullptr) {
      state.inside += __builtin_popcountll(between);
    } else {
      state.inside =
          log_elements<T>(word, between, state.inside, static_cast<Bits<T>*>(log_keys), log_indices);
    }
  });
  ChunkCount result;
  result.below = counted.below;
  result.inside = counted.inside;
  return any<T>(counted.highest > Number<T>::kInfinity) ? find_nan<C, T>(chunk, result) : result;
}

template <class C, class T>
ChunkCount keys_kernel(const ScoreChunk& chunk, void* keys) {
  Bits<T>* out = static_cast<Bits<T>*>(keys);
  const Vector<T> nan = for_words<C, T>(chunk, Vector<T>{}, [=](const Word<T>& word, Vector<T>& found) {
    for (int64_t v = 0; v < kVectors<T>; ++v) found |= word.keys[v] > Number<T>::kInfinity;
    __builtin_memcpy(out + word.begin, word.keys, static_cast<size_t>(word.count) * sizeof(T));
  });
  return any<T>(nan) ? find_nan<C, T>(chunk, ChunkCount{}) : ChunkCount{};
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
void histogram_kernel(const void* chunk_keys, int64_t count, int64_t low, int64_t upper, int prefix_bits,
                      int digit_bits, bool wide, uint32_t* bins) {
  const Bits<T> low_key = static_cast<Bits<T>>(low), upper_key = static_cast<Bits<T>>(upper);
  const int shift = 64 - prefix_bits - digit_bits;
  const int64_t size = int64_t{1} << digit_bits;
  const uint64_t digit_mask = static_cast<uint64_t>(size) - 1;
  const Bits<T>* keys = static_cast<const Bits<T>*>(chunk_keys);
  const auto add = [&](int64_t i) {
    ++bins[size * (i & 3) + static_cast<int64_t>((public_key<T>(keys[i], wide) >> shift) & digit_mask)];
  };
  int64_t begin = 0;
  for (; begin + kWord <= count; begin += kWord) {
    Vector<T> word[kVectors<T>];
    __builtin_memcpy(word, keys + begin, sizeof(word));
    uint64_t between = less_bits<T>(word, upper_key) & ~less_bits<T>(word, low_key);
    if (between == ~uint64_t{0}) {
      for (int64_t i = 0; i < kWord; ++i) add(begin + i);
    } else {
      for (; between != 0; between &= between - 1) add(begin + __builtin_ctzll(between));
    }
  }
  for (; begin < count; ++begin) {
    if (keys[begin] >= low_key && keys[begin] < upper_key) add(begin);
  }
}

template <class C, class T>
int64_t apply_kernel(const ScoreChunk& chunk, int64_t threshold, void* output, uint64_t* mask) {
  // No score has the lowest key: one above it is the least threshold, under which what is cut already lies.
  const Bits<T> asked = static_cast<Bits<T>>(threshold);
  const Bits<T> threshold_key = asked == kLowest<T> ? kLowest<T> + 1 : asked;
  const Bits<T>* weights = static_cast<const Bits<T>*>(chunk.weights);
  Bits<T>* cut_weights = static_cast<Bits<T>*>(output);
  return for_words<C, T>(chunk, int64_t{0}, [=](const Word<T>& word, int64_t& cut_count) {
    const uint64_t cut = less_bits<T>(word.keys, threshold_key) & word.valid;
    cut_count += __builtin_popcountll(cut);
    if (mask != nullptr) put_bits(word, ~cut, mask);
    if (cut_weights == nullptr || (cut == 0 && cut_weights == weights)) return;
    const Bits<T>* from = weights + word.begin;
    Bits<T>* to = cut_weights + word.begin;
    if (word.count == kWord) {
      using Unaligned = typename VectorOf<T>::UnalignedKeys;
#pragma GCC unroll 64
      for (int64_t v = 0; v < kVectors<T>; ++v) {
        const Vector<T> under = word.keys[v] < threshold_key;
        *reinterpret_cast<Unaligned*>(to + kLanes<T> * v) =
            *reinterpret_cast<const Unaligned*>(from + kLanes<T> * v) & ~under;
      }
    } else {
      for (int64_t i = 0; i < word.count; ++i) to[i] = (cut >> i & 1) != 0 ? 0 : from[i];
    }
  });
}

/// The 64 elements of a whole word; `to` may be `from`.
template <class T>
[[gnu::always_inline]] inline void cut_word(const Bits<T>* from, Bits<T>* to, uint64_t keep) {
  using Unaligned = typename VectorOf<T>::UnalignedKeys;
  Vector<T> one;
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) one[lane] = Bits<T>{1} << lane;
#pragma GCC unroll 64
  for (int64_t v = 0; v < kVectors<T>; ++v) {
    const Vector<T> kept = (one & static_cast<Bits<T>>(keep >> (kLanes<T> * v))) != 0;
    *reinterpret_cast<Unaligned*>(to + kLanes<T> * v) =
        *reinterpret_cast<const Unaligned*>(from + kLanes<T> * v) & kept;
  }
}

template <class T>
int64_t cut_kernel(const ScoreChunk& chunk, void* output, uint64_t* mask) {
  const Bits<T>* const weights = static_cast<const Bits<T>*>(chunk.weights);
  Bits<T>* const cut_weights = static_cast<Bits<T>*>(output);
  const uint64_t* const kept = chunk.kept;
  int64_t kept_count = 0;
  const auto keep_of = [&](const Word<T>& word) __attribute__((always_inline)) {
    const uint64_t keep = kept == nullptr ? word.valid : kept[word.index] >> word.shift & word.valid;
    kept_count += __builtin_popcountll(keep);
    if (mask != nullptr) put_bits(word, keep, mask);
    return keep;
  };
  const auto cut_partial = [&](const Word<T>& word) {
    const uint64_t keep = keep_of(word);
    for (int64_t i = 0; cut_weights != nullptr && i < word.count; ++i) {
      cut_weights[word.begin + i] = (keep >> i & 1) != 0 ? weights[word.begin + i] : 0;
    }
  };
  Word<T> first;
  if (chunk.mask_bit != 0 || chunk.count < kWord) {
    const int64_t room = kWord - chunk.mask_bit;
    first.count = chunk.count < room ? chunk.count : room;
    first.shift = chunk.mask_bit;
    first.valid = first.count == 0 ? 0 : ~uint64_t{0} >> (kWord - first.count);
    if (first.count > 0) cut_partial(first);
  } else {
    first.count = 0;
  }
  const int64_t begin = first.count, index = begin == 0 ? 0 : 1, words = (chunk.count - begin) / kWord;
  in_streams(
      words, [&](int64_t i) __attribute__((always_inline)) {
        Word<T> word;
        word.begin = begin + kWord * i;
        word.index = index + i;
        const uint64_t keep = keep_of(word);
        if (cut_weights == nullptr || (keep == word.valid && cut_weights == weights)) return;
        cut_word<T>(weights + word.begin, cut_weights + word.begin, keep);
      });
  Word<T> last;
  last.begin = begin + kWord * words;
  last.index = index + words;
  last.count = chunk.count - last.begin;
  last.valid = (uint64_t{1} << last.count) - 1;
  if (last.count > 0) cut_partial(last);
  return chunk.count - kept_count;
}

template <class C, class T>
constexpr SelectKernels kKernels = {&keys_kernel<C, T>, &bracket_kernel<C, T>, &histogram_kernel<T>,
                                    &apply_kernel<C, T>, &cut_kernel<T>};

}  // namespace

const SelectKernels& select_kernels(Criterion criterion, bool f64) {
  return visit(criterion, [&](auto c) -> const SelectKernels& {
    return f64 ? kKernels<decltype(c), double> : kKernels<decltype(c), float>;
  });
}

}  // namespace coppice::cpu::COPPICE_ISA
