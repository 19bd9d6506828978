#include "kernels/cpu/isa/bsr.hpp"

#include "kernels/cpu/isa/vector.hpp"

// Compiled once per instruction set. Everything but the table at the end is local to the file.
namespace coppice::cpu::COPPICE_ISA {
namespace {

// Accumulators that leave registers for x and the values: of 32 with AVX-512, else of 16.
#if defined(COPPICE_ISA_avx512)
constexpr int kSums = 16;
#else
constexpr int kSums = 8;
#endif

inline int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}

template <int V, int R, class Stored, int I = 0>
inline void add_column(const SpreadValues<R, Stored>& values, const Floats* x, Floats (*sum)[V]) {
  const Floats value = values.template get<I>();
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) sum[I][v] += value * x[v];
  if constexpr (I + 1 < R) add_column<V, R, Stored, I + 1>(values, x, sum);
}

/// R rows of each block from its row `part` on.
template <int V, int R, class Stored>
void multiply_part(const BsrArrays& a, int64_t block_row, int64_t part, const float* x_tile, float* y) {
  constexpr int kWidth = V * kLanes;
  Floats sum[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[r][v] = load_as<Floats>(y + r * kWidth + v * kLanes);
  }
  const int64_t end = a.block_offsets[block_row + 1];
  const Stored* values = stored<Stored>(a.values) + a.block_offsets[block_row] * a.height + part;
  for (int64_t p = a.block_offsets[block_row]; p < end; ++p, values += a.height) {
    const float* at = x_tile + a.col_indices[p] * int64_t{kWidth};
    Floats x[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) x[v] = load_as<Floats>(at + v * kLanes);
    add_column<V, R, Stored>(SpreadValues<R, Stored>(values), x, sum);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store_as(y + r * kWidth + v * kLanes, sum[r][v]);
  }
}

template <int V, int R, class Stored>
void multiply_parts(const BsrArrays& a, int64_t first, int64_t last, const float* x_tile, float* y_tile) {
  for (int64_t b = first; b < last; ++b) {
    for (int64_t part = 0; part < a.height; part += R) {
      multiply_part<V, R, Stored>(a, b, part, x_tile, y_tile + ((b - first) * a.height + part) * V * kLanes);
    }
  }
}

template <int V, class Stored>
void multiply_width(const BsrArrays& a, int64_t first, int64_t last, const float* x_tile, float* y_tile) {
  constexpr int kMost = kSums / V;
  if (kMost >= 16 && a.height == 16) {
    multiply_parts<V, kMost >= 16 ? 16 : 4, Stored>(a, first, last, x_tile, y_tile);
  } else if (kMost >= 8 && a.height >= 8) {
    multiply_parts<V, kMost >= 8 ? 8 : 4, Stored>(a, first, last, x_tile, y_tile);
  } else {
    multiply_parts<V, 4, Stored>(a, first, last, x_tile, y_tile);
  }
}

template <class Stored>
void multiply_tile(const BsrArrays& a, int64_t first, int64_t last, const float* x_tile, int64_t width,
                   float* y_tile) {
  width == kLanes ? multiply_width<1, Stored>(a, first, last, x_tile, y_tile)
                  : multiply_width<2, Stored>(a, first, last, x_tile, y_tile);
}

void multiply_batch(const BsrArrays& a, int64_t first, int64_t last, const float* x_tile, int64_t width,
                    float* y_tile) {
  a.values.rounded != nullptr ? multiply_tile<uint16_t>(a, first, last, x_tile, width, y_tile)
                              : multiply_tile<float>(a, first, last, x_tile, width, y_tile);
}

/// One row of x: the block's rows lie in the lanes, of one register or several.
template <int R>
struct BlockRows {
  static constexpr int kWidth = R < kLanes ? R : kLanes;
  static constexpr int kParts = R / kWidth;
  /// Block rows that take turns, because one sum after the other would wait for the processor's additions and
  /// not for its memory.
  static constexpr int kChains = kParts > 2 ? 2 : 4;
  typedef float Part __attribute__((vector_size(4 * kWidth)));
};

/// Where the sums of a block's `rows` rows of y start, and where they end. Only of the last block may rows be
/// missing: element by element, 16 rows would take as long as eight blocks.
template <int R>
inline void start_rows(typename BlockRows<R>::Part* sum, const float* y, const float* bias, bool accumulate,
                       int64_t rows) {
  using Part = typename BlockRows<R>::Part;
  constexpr int kWidth = BlockRows<R>::kWidth, kParts = BlockRows<R>::kParts;
  float y_rows[R] = {}, bias_rows[R] = {};
  if (rows < R) {
    for (int64_t r = 0; r < rows; ++r) {
      if (accumulate) y_rows[r] = y[r];
      if (bias != nullptr) bias_rows[r] = bias[r];
    }
    y = y_rows;
    if (bias != nullptr) bias = bias_rows;
  }
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
    sum[part] = Part{};
    if (accumulate) sum[part] = load_as<Part>(y + part * kWidth);
    if (bias != nullptr) sum[part] += load_as<Part>(bias + part * kWidth);
  }
}

template <int R>
inline void end_rows(const typename BlockRows<R>::Part* sum, float* y, int64_t rows) {
  using Part = typename BlockRows<R>::Part;
  constexpr int kWidth = BlockRows<R>::kWidth, kParts = BlockRows<R>::kParts;
  if (rows == R) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) store_as<Part>(y + part * kWidth, sum[part]);
    return;
  }
  float y_rows[R];
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) store_as<Part>(y_rows + part * kWidth, sum[part]);
  for (int64_t r = 0; r < rows; ++r) y[r] = y_rows[r];
}

typedef uint16_t Narrow4 __attribute__((vector_size(8)));
typedef uint32_t Wide4 __attribute__((vector_size(16)));
typedef uint16_t Narrow8 __attribute__((vector_size(16)));
typedef uint32_t Wide8 __attribute__((vector_size(32)));

template <class Part>
inline Part load_part(const float* values) {
  return load_as<Part>(values);
}
/// A block may be half a register or a quarter.
template <class Part>
inline Part load_part(const uint16_t* values) {
  if constexpr (sizeof(Part) == sizeof(Floats)) {
    return load_stored(values);
  } else if constexpr (sizeof(Part) == sizeof(Wide8)) {
    return reinterpret_cast<Part>(__builtin_convertvector(load_as<Narrow8>(values), Wide8) << 16);
  } else {
#if defined(__x86_64__)
    // Left to itself the compiler takes four values through the registers of integers.
    const auto bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(values));
    return reinterpret_cast<Part>(_mm_unpacklo_epi16(_mm_setzero_si128(), bits));
#else
    return reinterpret_cast<Part>(__builtin_convertvector(load_as<Narrow4>(values), Wide4) << 16);
#endif
  }
}

template <int R, class Stored>
void multiply_blocks(const BsrArrays& a, int64_t first, int64_t last, const float* x, const float* bias,
                     bool accumulate, float* y) {
  using Part = typename BlockRows<R>::Part;
  constexpr int kWidth = BlockRows<R>::kWidth, kParts = BlockRows<R>::kParts, kChains = BlockRows<R>::kChains;
  for (int64_t b0 = first; b0 < last; b0 += kChains) {
    const int64_t here = min(kChains, last - b0);
    Part sum[kChains][kParts] = {};
    int64_t next[kChains] = {}, end[kChains] = {}, row[kChains] = {};
    int64_t together = here == kChains ? INT64_MAX : 0;
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      if (i >= here) break;
      const int64_t block_row = a.by_length[b0 + i];
      next[i] = a.block_offsets[block_row];
      end[i] = a.block_offsets[block_row + 1];
      together = min(together, end[i] - next[i]);
      row[i] = block_row * R;
      start_rows<R>(sum[i], y + row[i], bias != nullptr ? bias + row[i] : nullptr, accumulate,
                    min(R, a.rows - row[i]));
    }
    const auto add = [&](int i) {
      const float at = x[a.col_indices[next[i]]];
      const Stored* values = stored<Stored>(a.values) + next[i] * R;
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) sum[i][part] += at * load_part<Part>(values + part * kWidth);
      ++next[i];
    };
    for (; together > 0; --together) {
#pragma GCC unroll 4
      for (int i = 0; i < kChains; ++i) add(i);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      while (next[i] < end[i]) add(i);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      if (i >= here) break;
      end_rows<R>(sum[i], y + row[i], min(R, a.rows - row[i]));
    }
  }
}

template <class Stored>
void multiply_row(const BsrArrays& a, int64_t first, int64_t last, const float* x, const float* bias,
                  bool accumulate, float* y) {
  if (a.height == 16) {
    multiply_blocks<16, Stored>(a, first, last, x, bias, accumulate, y);
  } else if (a.height == 8) {
    multiply_blocks<8, Stored>(a, first, last, x, bias, accumulate, y);
  } else {
    multiply_blocks<4, Stored>(a, first, last, x, bias, accumulate, y);
  }
}

void multiply_single(const BsrArrays& a, int64_t first, int64_t last, const float* x, const float* bias,
                     bool accumulate, float* y) {
  a.values.rounded != nullptr ? multiply_row<uint16_t>(a, first, last, x, bias, accumulate, y)
                              : multiply_row<float>(a, first, last, x, bias, accumulate, y);
}

}  // namespace

const BsrKernels& bsr_kernels() {
  static constexpr BsrKernels kernels{multiply_batch, multiply_single};
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
