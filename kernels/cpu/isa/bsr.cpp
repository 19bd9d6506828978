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

template <int V, int R, int I = 0>
inline void add_column(const SpreadValues<R>& values, const Floats* x, Floats (*sum)[V]) {
  const Floats value = values.template get<I>();
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) sum[I][v] += value * x[v];
  if constexpr (I + 1 < R) add_column<V, R, I + 1>(values, x, sum);
}

/// R rows of each block from its row `part` on.
template <int V, int R>
void multiply_part(const BsrArrays& a, int64_t block_row, int64_t part, const float* x_tile, float* y) {
  constexpr int kWidth = V * kLanes;
  Floats sum[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[r][v] = load_as<Floats>(y + r * kWidth + v * kLanes);
  }
  const int64_t end = a.block_offsets[block_row + 1];
  const float* values = a.values + a.block_offsets[block_row] * a.height + part;
  for (int64_t p = a.block_offsets[block_row]; p < end; ++p, values += a.height) {
    const float* at = x_tile + a.col_indices[p] * int64_t{kWidth};
    Floats x[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) x[v] = load_as<Floats>(at + v * kLanes);
    add_column<V, R>(SpreadValues<R>(values), x, sum);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store_as(y + r * kWidth + v * kLanes, sum[r][v]);
  }
}

template <int V, int R>
void multiply_parts(const BsrArrays& a, int64_t first, int64_t last, const float* x_tile, float* y_tile) {
  for (int64_t b = first; b < last; ++b) {
    for (int64_t part = 0; part < a.height; part += R) {
      multiply_part<V, R>(a, b, part, x_tile, y_tile + ((b - first) * a.height + part) * V * kLanes);
    }
  }
}

template <int V>
void multiply_width(const BsrArrays& a, int64_t first, int64_t last, const float* x_tile, float* y_tile) {
  constexpr int kMost = kSums / V;
  if (kMost >= 16 && a.height == 16) {
    multiply_parts<V, kMost >= 16 ? 16 : 4>(a, first, last, x_tile, y_tile);
  } else if (kMost >= 8 && a.height >= 8) {
    multiply_parts<V, kMost >= 8 ? 8 : 4>(a, first, last, x_tile, y_tile);
  } else {
    multiply_parts<V, 4>(a, first, last, x_tile, y_tile);
  }
}

void multiply_batch(const BsrArrays& a, int64_t first, int64_t last, const float* x_tile, int64_t width,
                    float* y_tile) {
  width == kLanes ? multiply_width<1>(a, first, last, x_tile, y_tile)
                  : multiply_width<2>(a, first, last, x_tile, y_tile);
}

/// One row of x: the block's rows lie in the lanes. `kChains` block rows take turns, because one sum after
/// the other would wait for the processor's additions and not for its memory.
constexpr int kChains = 4;

/// A block's rows, in as many registers as they take.
template <int R>
struct BlockRows;
template <>
struct BlockRows<16> {
  typedef float Type __attribute__((vector_size(64)));
};
template <>
struct BlockRows<8> {
  typedef float Type __attribute__((vector_size(32)));
};
template <>
struct BlockRows<4> {
  typedef float Type __attribute__((vector_size(16)));
};

template <int R>
void multiply_blocks(const BsrArrays& a, int64_t first, int64_t last, const float* x, const float* bias,
                     bool accumulate, float* y) {
  using Block = typename BlockRows<R>::Type;
  for (int64_t b0 = first; b0 < last; b0 += kChains) {
    const int64_t here = min(kChains, last - b0);
    Block sum[kChains] = {};
    int64_t next[kChains] = {}, end[kChains] = {};
    int64_t together = a.block_offsets[b0 + 1] - a.block_offsets[b0];
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      if (i >= here) break;
      next[i] = a.block_offsets[b0 + i];
      end[i] = a.block_offsets[b0 + i + 1];
      together = min(together, end[i] - next[i]);
      const int64_t row = (b0 + i) * R, rows = min(R, a.rows - row);
      for (int64_t r = 0; r < rows; ++r) {
        float start = accumulate ? y[row + r] : 0.0f;
        if (bias != nullptr) start += bias[row + r];
        sum[i][r] = start;
      }
    }
    const auto add = [&](int i) {
      sum[i] += x[a.col_indices[next[i]]] * load_as<Block>(a.values + next[i] * R);
      ++next[i];
    };
    if (here == kChains) {
      for (; together > 0; --together) {
#pragma GCC unroll 4
        for (int i = 0; i < kChains; ++i) add(i);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      while (next[i] < end[i]) add(i);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      if (i >= here) break;
      const int64_t row = (b0 + i) * R, rows = min(R, a.rows - row);
      for (int64_t r = 0; r < rows; ++r) y[row + r] = sum[i][r];
    }
  }
}

void multiply_single(const BsrArrays& a, int64_t first, int64_t last, const float* x, const float* bias,
                     bool accumulate, float* y) {
  if (a.height == 16) {
    multiply_blocks<16>(a, first, last, x, bias, accumulate, y);
  } else if (a.height == 8) {
    multiply_blocks<8>(a, first, last, x, bias, accumulate, y);
  } else {
    multiply_blocks<4>(a, first, last, x, bias, accumulate, y);
  }
}

}  // namespace

const BsrKernels& bsr_kernels() {
  static constexpr BsrKernels kernels{multiply_batch, multiply_single};
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
