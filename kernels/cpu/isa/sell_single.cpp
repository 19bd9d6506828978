#include "kernels/cpu/isa/sell_single.hpp"

#include "kernels/cpu/isa/vector.hpp"

// Compiled once per instruction set. Everything but the table at the end is local to the file.
namespace coppice::cpu::COPPICE_ISA {
namespace {

constexpr int kRows = kSellSliceRows;
constexpr int kVectors = kRows / kLanes;  // that hold a slice's sums
constexpr int64_t kWindowEntries = kSellWindowSteps * kRows;

inline int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}

#if defined(COPPICE_ISA_avx512)

// A table of 64 floats would take four permutes of 32-bit elements, two masks and two blends for 32 entries.
// As 64 upper and 64 lower halves it is two permutes of 16-bit elements, each over two registers, whose
// results are then interleaved: exact, and the registers hold the whole window.
constexpr int64_t kHalves = 2;

int64_t prepared_floats(int64_t columns) {
  return (columns + kSellWindowColumns + kLanes - 1) / kLanes * kLanes;
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

#else

int64_t prepared_floats(int64_t columns) {
  return columns;
}

void prepare_x(const float* x, int64_t columns, float* prepared) {
  for (int64_t c = 0; c < columns; ++c) prepared[c] = x[c];
}

struct Window {
  const float* x_window;

  Window(const float* prepared_x, int64_t, int64_t first) : x_window(prepared_x + first) {}
  void look_up(const uint8_t* indices, Floats* x) const {
#if defined(COPPICE_ISA_avx2)
    for (int v = 0; v < kVectors; ++v) {
      const __m256i index =
          _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(indices + v * kLanes)));
      const __m256i active = _mm256_slli_epi32(index, 24);  // to the sign, which is what a gather looks at
      x[v] = _mm256_mask_i32gather_ps(_mm256_setzero_ps(), x_window,
                                      _mm256_and_si256(index, _mm256_set1_epi32(kSellActive - 1)),
                                      _mm256_castsi256_ps(active), 4);
    }
#else
    for (int i = 0; i < kRows; ++i) {
      x[i / kLanes][i % kLanes] =
          (indices[i] & kSellActive) != 0 ? x_window[indices[i] & (kSellActive - 1)] : 0.0f;
    }
#endif
  }
};

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
    const int64_t first_window = a.slice_windows[slice], last_window = a.slice_windows[slice + 1];
    const float* values = a.values + first_window * kWindowEntries;
    const uint8_t* indices = a.indices + first_window * kWindowEntries;
    for (int64_t w = first_window; w < last_window; ++w) {
      const Window window(prepared_x, a.columns, a.window_columns[w]);
#pragma GCC unroll 2
      for (int step = 0; step < kSellWindowSteps; ++step) {
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

/// AVX-512's interleaving works within each 128 bits: four lower rows and four upper ones take turns.
constexpr SellSingleKernels make_kernels() {
  SellSingleKernels kernels{{}, prepared_floats, prepare_x, multiply};
  for (int r = 0; r < kRows; ++r) {
    const int place = kLanes < 16 ? r : r % 16 / 4 * 8 + r / 16 * 4 + r % 4;
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
