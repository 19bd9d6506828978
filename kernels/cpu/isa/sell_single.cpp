#include "kernels/cpu/isa/sell_single.hpp"

#include "kernels/cpu/isa/vector.hpp"

// Compiled once per instruction set. Everything but the table at the end is local to the file.
namespace coppice::cpu::COPPICE_ISA {
namespace {

constexpr int kRows = kSellSliceRows;
constexpr int kVectors = kRows / kLanes;  // that hold a slice's sums

inline int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}

#if defined(COPPICE_ISA_avx512)

// A table of 64 floats would take four permutes of 32-bit elements, two masks and two blends for 32 entries.
// As 64 upper and 64 lower halves it is two permutes of 16-bit elements, each over two registers, whose
// results are then interleaved: exact, and the registers hold the whole window.
constexpr int64_t kMargin = 64;
constexpr int64_t kHalves = 2;

template <class Stored>
inline void prefetch(const Stored*, const uint8_t*) {}

int64_t prepared_floats(int64_t columns) {
  return (columns + kMargin + kLanes - 1) / kLanes * kLanes;
}

void prepare_x(const float* x, int64_t columns, float* prepared) {
  const int64_t padded = prepared_floats(columns);
  auto* upper = reinterpret_cast<uint16_t*>(prepared);
  uint16_t* lower = upper + padded;
  for (int64_t c = 0; c < padded; c += kLanes) {
    const Floats part = c >= columns            ? Floats{}
                        : c + kLanes <= columns ? load(x + c, AllLanes{})
                                                : load(x + c, FirstLanes{columns - c});
    const auto bits = reinterpret_cast<__m512i>(part);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lower + c), _mm512_maskz_cvtepi32_epi16(kEvery, bits));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(upper + c),
                        _mm512_maskz_cvtepi32_epi16(kEvery, _mm512_maskz_srli_epi32(kEvery, bits, 16)));
  }
}

struct Window {
  static constexpr SellWindows kShape{.columns = kMargin, .steps = 2, .alignment = 16};
  __m512i upper[kHalves], lower[kHalves];

  Window(const float* prepared_x, int64_t columns, int64_t first) {
    const auto* halves = reinterpret_cast<const uint16_t*>(prepared_x) + first;
    for (int i = 0; i < kHalves; ++i) {
      upper[i] = _mm512_loadu_si512(halves + 32 * i);
      lower[i] = _mm512_loadu_si512(halves + prepared_floats(columns) + 32 * i);
    }
  }
  /// What a step's rows meet: 0 where they wait.
  void look_up(const uint8_t* indices, Floats* x) const {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices));
    const __mmask32 active = _mm256_movepi8_mask(bytes);
    const __m512i index = _mm512_maskz_cvtepu8_epi16(~__mmask32{0}, bytes);
    const __m512i high = _mm512_maskz_permutex2var_epi16(active, upper[0], index, upper[1]);
    const __m512i low = _mm512_maskz_permutex2var_epi16(active, lower[0], index, lower[1]);
    x[0] = reinterpret_cast<Floats>(_mm512_maskz_unpacklo_epi16(~__mmask32{0}, low, high));
    x[1] = reinterpret_cast<Floats>(_mm512_maskz_unpackhi_epi16(~__mmask32{0}, low, high));
  }
};

#elif defined(COPPICE_ISA_avx2)

// A permute of floats reaches the eight of one register, a shuffle of bytes sixteen, for thirty-two lanes at
// a time. So x is taken apart into four planes, of the lowest bytes, the second ones and so on; a window is
// one shuffle a plane for each 16 columns, and the bytes that were found are interleaved to floats: exact.
constexpr int64_t kMargin = 32;
constexpr int kPlanes = 4;

/// Sixty-four steps ahead: left to itself the processor follows one stream of entries out of memory, or a
/// third-level cache that others use, at half to a third of what it can read.
template <class Stored>
inline void prefetch(const Stored* values, const uint8_t* indices) {
  constexpr int kAhead = 64 * kRows, kLine = 64 / sizeof(Stored);
#pragma GCC unroll 2
  for (int i = 0; i < kRows; i += kLine) __builtin_prefetch(values + kAhead + i);
  __builtin_prefetch(indices + kAhead);
}

int64_t prepared_floats(int64_t columns) {
  return columns + kMargin;
}

void prepare_x(const float* x, int64_t columns, float* prepared) {
  auto* planes = reinterpret_cast<uint8_t*>(prepared);
  const int64_t size = prepared_floats(columns);
  for (int plane = 0; plane < kPlanes; ++plane) {
    uint8_t* bytes = planes + plane * size;
    for (int64_t c = 0; c < columns; ++c) {
      uint32_t bits;
      __builtin_memcpy(&bits, x + c, sizeof(bits));
      bytes[c] = static_cast<uint8_t>(bits >> 8 * plane);
    }
    for (int64_t c = columns; c < size; ++c) bytes[c] = 0;
  }
}

template <int kColumns>
struct BytesWindow {
  static constexpr SellWindows kShape{.columns = kColumns, .steps = 1, .alignment = 1};
  const uint8_t* planes;
  int64_t size;

  BytesWindow(const float* prepared_x, int64_t columns, int64_t first)
      : planes(reinterpret_cast<const uint8_t*>(prepared_x) + first), size(prepared_floats(columns)) {}

  static __m256i columns_at(const uint8_t* bytes) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  /// What a step's rows meet: 0 where they wait. A shuffle looks at the lowest four bits of an index, and
  /// gives 0 where the highest is set: each half of a window of 32 does so for the columns of the other.
  void look_up(const uint8_t* indices, Floats* x) const {
    const __m256i columns =
        load_as<__m256i>(indices) ^ _mm256_set1_epi8(static_cast<char>(kSellActive));  // waiting: -128
    __m256i found[kPlanes];
#pragma GCC unroll 4
    for (int plane = 0; plane < kPlanes; ++plane) {
      const uint8_t* bytes = planes + plane * size;
      if constexpr (kColumns == 16) {
        found[plane] = _mm256_shuffle_epi8(columns_at(bytes), columns);
      } else {
        const __m256i lower = _mm256_add_epi8(columns, _mm256_set1_epi8(kSellActive - 16));
        const __m256i upper = _mm256_subs_epi8(columns, _mm256_set1_epi8(16));
        found[plane] = _mm256_shuffle_epi8(columns_at(bytes), lower) |
                       _mm256_shuffle_epi8(columns_at(bytes + 16), upper);
      }
    }
    const __m256i low[2] = {_mm256_unpacklo_epi8(found[0], found[1]),
                            _mm256_unpackhi_epi8(found[0], found[1])};
    const __m256i high[2] = {_mm256_unpacklo_epi8(found[2], found[3]),
                             _mm256_unpackhi_epi8(found[2], found[3])};
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      x[2 * half] = reinterpret_cast<Floats>(_mm256_unpacklo_epi16(low[half], high[half]));
      x[2 * half + 1] = reinterpret_cast<Floats>(_mm256_unpackhi_epi16(low[half], high[half]));
    }
  }
};

// In fewer instructions, or with fewer rows that wait: at 90 % zeros two thirds of the entries of windows of
// 32 columns are nonzeros, half of those of 16.
using Window = BytesWindow<16>;
using LargeWindow = BytesWindow<32>;

#else

constexpr int64_t kMargin = 64;

template <class Stored>
inline void prefetch(const Stored*, const uint8_t*) {}

struct Window {
  static constexpr SellWindows kShape{.columns = kMargin, .steps = 2, .alignment = 16};
  const float* x_window;

  Window(const float* prepared_x, int64_t, int64_t first) : x_window(prepared_x + first) {}
  void look_up(const uint8_t* indices, Floats* x) const {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const auto at = [=, this](int i) { return x_window[indices[v * kLanes + i] & (kSellActive - 1)]; };
      const auto active = [=](int i) { return static_cast<int8_t>(indices[v * kLanes + i]) >> 7; };
      static_assert(kLanes == 4 && kSellActive == 0x80);
      const Ints mask{active(0), active(1), active(2), active(3)};
      x[v] = floats_of(bits_of(Floats{at(0), at(1), at(2), at(3)}) & mask);
    }
  }
};

int64_t prepared_floats(int64_t columns) {
  return columns + kMargin;
}

void prepare_x(const float* x, int64_t columns, float* prepared) {
  for (int64_t c = 0; c < columns; ++c) prepared[c] = x[c];
  for (int64_t c = 0; c < kMargin; ++c) prepared[columns + c] = 0.0f;
}

#endif

/// Where the sums of `rows` rows of y start, or where they end: a last slice may be short.
template <class Lanes>
Floats start_of(const float* y, const float* bias, bool accumulate, Lanes lanes) {
  Floats start{};
  if (accumulate) start = load(y, lanes);
  return bias != nullptr ? start + load(bias, lanes) : start;
}
template <class Body>
void for_each_vector(int64_t rows, Body body) {
  for (int v = 0; v < kVectors; ++v) {
    const int64_t here = rows - v * kLanes;
    if (here >= kLanes) {
      body(v, AllLanes{});
    } else if (here > 0) {
      body(v, FirstLanes{here});
    }
  }
}

template <class Window, class Stored>
void multiply_slices(const SellSingleArrays& a, int64_t first, int64_t last, const float* prepared_x,
                     const float* bias, bool accumulate, float* y) {
  for (int64_t slice = first; slice < last; ++slice) {
    const int64_t row = slice * kRows, rows = min(kRows, a.rows - row);
    Floats sum[kVectors] = {};
    for_each_vector(rows, [&](int v, auto lanes) {
      const int64_t at = row + v * kLanes;
      sum[v] = start_of(y + at, bias != nullptr ? bias + at : nullptr, accumulate, lanes);
    });
    const int64_t first_turn = a.slice_turns[slice], last_turn = a.slice_turns[slice + 1];
    const Stored* values = stored<Stored>(a.values) + first_turn * Window::kShape.steps * kRows;
    const uint8_t* indices = a.indices + first_turn * Window::kShape.steps * kRows;
    for (int64_t turn = first_turn; turn < last_turn; ++turn) {
      const Window window(prepared_x, a.columns, a.window_columns[turn]);
#pragma GCC unroll 2
      for (int step = 0; step < Window::kShape.steps; ++step) {
        prefetch(values, indices);
        Floats x[kVectors];
        window.look_up(indices, x);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[v] += load_stored(values + v * kLanes) * x[v];
        values += kRows;
        indices += kRows;
      }
    }
    for_each_vector(rows, [&](int v, auto lanes) { store(y + row + v * kLanes, sum[v], lanes); });
  }
}

template <class Window>
void multiply(const SellSingleArrays& a, int64_t first, int64_t last, const float* prepared_x,
              const float* bias, bool accumulate, float* y) {
  a.values.rounded != nullptr
      ? multiply_slices<Window, uint16_t>(a, first, last, prepared_x, bias, accumulate, y)
      : multiply_slices<Window, float>(a, first, last, prepared_x, bias, accumulate, y);
}

template <class Window>
constexpr SellSingleKernels make_kernels() {
  SellSingleKernels kernels{Window::kShape, {}, prepared_floats, prepare_x, multiply<Window>};
  for (int r = 0; r < kRows; ++r) {
#if defined(COPPICE_ISA_avx512)
    // Interleaving works within each 128 bits: four lower rows and four upper ones take turns.
    const int place = r % 16 / 4 * 8 + r / 16 * 4 + r % 4;
#elif defined(COPPICE_ISA_avx2)
    // So it does here: each 128 bits hold four of a register's eight rows, of all four registers.
    const int place = r % 8 / 4 * 16 + r / 8 * 4 + r % 4;
#else
    const int place = r;
#endif
    kernels.places[r] = static_cast<uint8_t>(place);
  }
  return kernels;
}

}  // namespace

const SellSingleChoice& sell_single_kernels() {
#if defined(COPPICE_ISA_avx2)
  static constexpr SellSingleChoice kernels{0.15, make_kernels<Window>(), make_kernels<LargeWindow>()};
#else
  static constexpr SellSingleChoice kernels{0.0, make_kernels<Window>(), make_kernels<Window>()};
#endif
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
