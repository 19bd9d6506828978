#include "kernels/cpu/isa/sampled_product.hpp"

#include "kernels/cpu/isa/transpose.hpp"

// Compiled once per instruction set. Everything but the table at the end is local to the file.
namespace coppice::cpu::COPPICE_ISA {
namespace {

inline int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}

using Quad = float __attribute__((vector_size(16)));

// Four k of a group of places, from memory in which each place's k lie side by side. Groups of eight with
// AVX-512 as well: transposing sixteen costs it twice the shuffles of a register, and those are the bound.
#if defined(__AVX2__)
constexpr int kGroup = 8;
using Places = float __attribute__((vector_size(32)));

inline Places two_places(const float* low, const float* high) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(load_as<Quad>(low)), load_as<Quad>(high), 1);
}
inline void load_quads(const float* const* at, int64_t k, Places* step) {
  const Places a = two_places(at[0] + k, at[4] + k), b = two_places(at[1] + k, at[5] + k);
  const Places c = two_places(at[2] + k, at[6] + k), d = two_places(at[3] + k, at[7] + k);
  using Lanes = int32_t __attribute__((vector_size(32)));
  const Places ab_low = __builtin_shuffle(a, b, Lanes{0, 8, 1, 9, 4, 12, 5, 13});
  const Places ab_high = __builtin_shuffle(a, b, Lanes{2, 10, 3, 11, 6, 14, 7, 15});
  const Places cd_low = __builtin_shuffle(c, d, Lanes{0, 8, 1, 9, 4, 12, 5, 13});
  const Places cd_high = __builtin_shuffle(c, d, Lanes{2, 10, 3, 11, 6, 14, 7, 15});
  step[0] = __builtin_shuffle(ab_low, cd_low, Lanes{0, 1, 8, 9, 4, 5, 12, 13});
  step[1] = __builtin_shuffle(ab_low, cd_low, Lanes{2, 3, 10, 11, 6, 7, 14, 15});
  step[2] = __builtin_shuffle(ab_high, cd_high, Lanes{0, 1, 8, 9, 4, 5, 12, 13});
  step[3] = __builtin_shuffle(ab_high, cd_high, Lanes{2, 3, 10, 11, 6, 7, 14, 15});
}
#else
constexpr int kGroup = 4;
using Places = Quad;

inline void load_quads(const float* const* at, int64_t k, Places* step) {
  for (int i = 0; i < 4; ++i) step[i] = load_as<Places>(at[i] + k);
  transpose(step);
}
#endif

/// G groups at a time share the broadcasts of dy, and their chains hide each other's latency.
template <int G>
inline void add_groups(const uint16_t* offsets, int64_t depth, const float* x, const float* dy, float* sums) {
  const float* at[G * kGroup];
#pragma GCC unroll 16
  for (int i = 0; i < G * kGroup; ++i) at[i] = x + offsets[i];
  Places sum[G];
#pragma GCC unroll 2
  for (int g = 0; g < G; ++g) sum[g] = load_as<Places>(sums + g * kGroup);
  for (int64_t k = 0; k < depth; k += 4) {
    Places step[G][4];
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) load_quads(at + g * kGroup, k, step[g]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Places d = dy[k + i] - Places{};
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) sum[g] += d * step[g][i];
    }
  }
#pragma GCC unroll 2
  for (int g = 0; g < G; ++g) store_as(sums + g * kGroup, sum[g]);
}

void add(const SampledArrays& a, int64_t cell, int64_t rows, int64_t depth, const float* x_tile,
         const float* dy_tile, float* sums) {
  const uint16_t* offsets = a.offsets + a.cell_entries[cell];
  const uint16_t* lengths = a.row_lengths + cell * kSampledRows;
  sums += a.cell_entries[cell];
  for (int64_t r = 0; r < rows; ++r, dy_tile += kSampledDepth) {
    int64_t left = lengths[r];
    for (; left > kGroup; left -= 2 * kGroup, offsets += 2 * kGroup, sums += 2 * kGroup) {
      add_groups<2>(offsets, depth, x_tile, dy_tile, sums);
    }
    if (left > 0) {
      add_groups<1>(offsets, depth, x_tile, dy_tile, sums);
      offsets += kGroup, sums += kGroup;
    }
  }
}

void fill(const float* from, int64_t stride, int64_t depth, int64_t columns, float filling, float* tile) {
  for (int64_t k = 0; k < depth; k += kLanes) {
    transpose_rows(from + k * stride, stride, min(kLanes, depth - k), columns, tile + k, kSampledDepth);
  }
  if (depth % 4 == 0) return;
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t k = depth; k % 4 != 0; ++k) tile[c * kSampledDepth + k] = filling;
  }
}

}  // namespace

const SampledKernels& sampled_kernels() {
  static constexpr SampledKernels kernels{kGroup, fill, add};
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
