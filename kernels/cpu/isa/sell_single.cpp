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
constexpr SellWindows kWindows{.rows = kRows, .columns = 64, .steps = 2, .alignment = 16};
constexpr int64_t kHalves = 2;

int64_t prepared_floats(int64_t columns) {
  return (columns + kWindows.columns + kLanes - 1) / kLanes * kLanes;
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
  __m512i upper[kHalves], lower[kHalves];

  Window(const float* prepared_x, int64_t columns, const int32_t* first) {
    const auto* halves = reinterpret_cast<const uint16_t*>(prepared_x) + *first;
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

#else

#if defined(COPPICE_ISA_avx2)

// A permute reaches the eight elements of one register. So small a window moves with every step, to whichever
// column is next, and the eight rows of each register have their own: at 90 % zeros half of the entries are
// nonzeros, and yet a product takes a third of the time that gathers took.
constexpr SellWindows kWindows{.rows = kLanes, .columns = kLanes, .steps = 1, .alignment = 1};

struct Window {
  const float* at[kVectors];

  Window(const float* prepared_x, int64_t, const int32_t* first) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) at[v] = prepared_x + first[v];
  }
  /// What a step's rows meet: 0 where they wait. A lane's 32 bits of the indices are one byte for each
  /// register: a permute looks at the lowest three bits, a blend at the highest.
  void look_up(const uint8_t* indices, Floats* x) const {
    const auto bytes = load_as<Unsigned>(indices);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Unsigned index = bytes >> 8 * v, active = bytes << (24 - 8 * v);
      const __m256 found = _mm256_permutevar8x32_ps(load_as<Floats>(at[v]), reinterpret_cast<__m256i>(index));
      x[v] = _mm256_blendv_ps(_mm256_setzero_ps(), found, reinterpret_cast<__m256>(active));
    }
  }
};

#else

constexpr SellWindows kWindows{.rows = kRows, .columns = 64, .steps = 2, .alignment = 16};

struct Window {
  const float* x_window;

  Window(const float* prepared_x, int64_t, const int32_t* first) : x_window(prepared_x + *first) {}
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

#endif

int64_t prepared_floats(int64_t columns) {
  return columns + kWindows.columns;
}

void prepare_x(const float* x, int64_t columns, float* prepared) {
  for (int64_t c = 0; c < columns; ++c) prepared[c] = x[c];
  for (int64_t c = 0; c < kWindows.columns; ++c) prepared[columns + c] = 0.0f;
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

void multiply(const SellSingleArrays& a, int64_t first, int64_t last, const float* prepared_x,
              const float* bias, bool accumulate, float* y) {
  for (int64_t slice = first; slice < last; ++slice) {
    const int64_t row = slice * kRows, rows = min(kRows, a.rows - row);
    Floats sum[kVectors] = {};
    for_each_vector(rows, [&](int v, auto lanes) {
      const int64_t at = row + v * kLanes;
      sum[v] = start_of(y + at, bias != nullptr ? bias + at : nullptr, accumulate, lanes);
    });
    const int64_t first_turn = a.slice_turns[slice], last_turn = a.slice_turns[slice + 1];
    const float* values = a.values + first_turn * kWindows.steps * kRows;
    const uint8_t* indices = a.indices + first_turn * kWindows.steps * kRows;
    for (int64_t turn = first_turn; turn < last_turn; ++turn) {
      const Window window(prepared_x, a.columns, a.window_columns + turn * (kRows / kWindows.rows));
#pragma GCC unroll 2
      for (int step = 0; step < kWindows.steps; ++step) {
        Floats x[kVectors];
        window.look_up(indices, x);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[v] += load_as<Floats>(values + v * kLanes) * x[v];
        values += kRows;
        indices += kRows;
      }
    }
    for_each_vector(rows, [&](int v, auto lanes) { store(y + row + v * kLanes, sum[v], lanes); });
  }
}

constexpr SellSingleKernels make_kernels() {
  SellSingleKernels kernels{kWindows, {}, prepared_floats, prepare_x, multiply};
  for (int r = 0; r < kRows; ++r) {
#if defined(COPPICE_ISA_avx512)
    // Interleaving works within each 128 bits: four lower rows and four upper ones take turns.
    const int place = r % 16 / 4 * 8 + r / 16 * 4 + r % 4;
#elif defined(COPPICE_ISA_avx2)
    const int place = r % kLanes * kVectors + r / kLanes;
#else
    const int place = r;
#endif
    kernels.places[r] = static_cast<uint8_t>(place);
  }
  return kernels;
}

}  // namespace

const SellSingleKernels& sell_single_kernels() {
  static constexpr SellSingleKernels kernels = make_kernels();
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
