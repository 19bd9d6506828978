#include "kernels/cpu/isa/sell_batch.hpp"

#include "kernels/cpu/isa/vector.hpp"

// Compiled once per instruction set. Everything but the table at the end is local to the file.
namespace coppice::cpu::COPPICE_ISA {
namespace {

// kRows x V accumulators, the value that multiplies and its operands: 32 registers with AVX-512, else 16.
#if defined(COPPICE_ISA_avx512)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif

#if defined(COPPICE_ISA_avx2)
/// Two loads a cycle are what these sums wait for: the values of a trip come in one. (Blocks, whose values
/// share their loads of x, wait for multiply-adds, which such shuffles would only disturb.)
template <class Stored>
struct TripValues;
template <>
struct TripValues<float> {
  Floats quad;
  explicit TripValues(const float* from) : quad(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(from))) {}
  template <int I>
  Floats get() const {
    return _mm256_permute_ps(quad, I * 0x55);
  }
};
template <>
struct TripValues<uint16_t> {
  Words quad;
  explicit TripValues(const uint16_t* from) : quad(load_as<uint64_t>(from) - Words{}) {}
  template <int I>
  Floats get() const {
    return spread_quarter<I>(quad);
  }
};
#else
template <class Stored>
using TripValues = SpreadValues<kRows, Stored>;
#endif

/// The column of x (of V registers) that an entry of the block at `x` meets. Offsets count bytes of one
/// register a column, and V of them are an addressing mode of the load.
template <int V>
inline const float* column_at(const float* x, uint16_t offset) {
  return reinterpret_cast<const float*>(reinterpret_cast<const char*>(x) + size_t{offset} * V);
}

template <int V, int R = 0, class Stored>
inline void add_step(const TripValues<Stored>& values, const uint64_t* offsets, const float* x,
                     Floats (*sum)[V]) {
  const float* at = column_at<V>(x, static_cast<uint16_t>(offsets[R / 4] >> (R % 4 * 16)));
  const Floats value = values.template get<R>();
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) sum[R][v] += value * load_as<Floats>(at + v * kLanes);
  if constexpr (R + 1 < kRows) add_step<V, R + 1, Stored>(values, offsets, x, sum);
}

template <int V, class Stored>
void multiply_cells(const SellBatchArrays& a, int64_t strip, const float* x, float* y_tile) {
  constexpr int kWidth = V * kLanes;
  int64_t cell = strip * a.blocks;
  const Stored* values = stored<Stored>(a.values) + a.cell_entries[cell];
  const uint16_t* offsets = a.offsets + a.cell_entries[cell];
  for (int64_t block = 0; block < a.blocks; ++block, ++cell, x += (a.block_columns + 1) * kWidth) {
    for (int64_t g = a.cell_groups[cell]; g < a.cell_groups[cell + 1]; ++g) {
      const uint16_t* rows = a.group_rows + g * kRows;
      Floats sum[kRows][V];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] = load_as<Floats>(y_tile + rows[r] * kWidth + v * kLanes);
      }
      for (int trips = a.group_trips[g]; trips > 0; --trips) {
        uint64_t quads[kRows / 4];
        __builtin_memcpy(quads, offsets, sizeof quads);
        add_step<V, 0, Stored>(TripValues<Stored>(values), quads, x, sum);
        values += kRows;
        offsets += kRows;
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store_as(y_tile + rows[r] * kWidth + v * kLanes, sum[r][v]);
      }
    }
  }
}

template <class Stored>
void multiply_width(const SellBatchArrays& a, int64_t strip, const float* x_tile, int64_t width,
                    float* y_tile) {
  width == kLanes ? multiply_cells<1, Stored>(a, strip, x_tile, y_tile)
                  : multiply_cells<2, Stored>(a, strip, x_tile, y_tile);
}

void multiply(const SellBatchArrays& a, int64_t strip, const float* x_tile, int64_t width, float* y_tile) {
  a.values.rounded != nullptr ? multiply_width<uint16_t>(a, strip, x_tile, width, y_tile)
                              : multiply_width<float>(a, strip, x_tile, width, y_tile);
}

}  // namespace

const SellBatchKernels& sell_batch_kernels() {
  static constexpr SellBatchKernels kernels{kRows, multiply};
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
