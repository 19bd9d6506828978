#pragma once

#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/layouts/csr.hpp"
#include "kernels/cuda/pack.cuh"

// Rows of a sparse matrix that a block keeps in its shared memory, and their products with a few rows of x.
//
// The order of a sum depends on its row alone: nonzero p belongs to chain p mod 16, and the chains are added
// up as a fixed tree. So the results are the same bits for any batch, any tile of it and any number of
// blocks.

namespace coppice::cuda {

/// What a kernel is told of the rows that its blocks keep.
struct ResidentRows {
  const int32_t* offsets;
  const uint16_t* columns;
  const float* values;
  const int32_t* first_unit;
  const SpreadRow* rows;
  int64_t units;
  int32_t width;       // of x: columns of the matrix
  int32_t most_units;  // of a block: what the shared memory is laid out for
  int32_t most_rounds;
};

inline ResidentRows resident_rows(const SpreadCsr& csr) {
  return {csr.rows.offsets.data(),
          reinterpret_cast<const uint16_t*>(csr.rows.indices.data()),
          csr.rows.values.data(),
          csr.blocks.first_unit.data(),
          csr.blocks.rows.data(),
          csr.blocks.units,
          static_cast<int32_t>(csr.rows.cols),
          static_cast<int32_t>(csr.blocks.most_units),
          static_cast<int32_t>(csr.blocks.most_rounds)};
}

/// Shared memory of a block with `kStreams` rows of x at a time and `kGates` rows of the matrix a unit; and
/// the work on it, in which every thread of the block takes part.
///
/// x lies transposed, a column's streams side by side in packs of four (of one, for a single stream): a lane
/// reads its pack in one go. Lanes of a warp: kPacks side by side, times 4 quarters of a round, times kRows
/// rows. Where a column is shorter than the 32 banks, its packs are exchanged in a pattern that repeats every
/// 8 packs, so that neither storing 8 neighbouring columns nor loading one meets a bank twice; chance decides
/// for columns of different rows.
template <int kStreams, int kGates>
class ResidentProduct {
 public:
  static constexpr int kPack = kStreams < 4 ? kStreams : 4;
  static constexpr int kPacks = kStreams / kPack;
  static constexpr int kQuarters = 4;
  static constexpr int kRows = kWarp / kQuarters / kPacks;
  static_assert((kStreams == 1 || kPack == 4) && kRows > 0);

  /// Bytes of shared memory.
  static size_t bytes(const ResidentRows& a) {
    const auto table = even(a.most_units * kGates);
    return static_cast<size_t>(a.most_rounds) * kRound * (sizeof(float) + sizeof(uint16_t)) +
           static_cast<size_t>(table) * sizeof(Row) +
           (static_cast<size_t>(a.width) + 1) * kStreams * sizeof(float) +
           static_cast<size_t>(a.most_units) * kGates * (kStreams + 1) * sizeof(float);
  }
  /// Whether every pack of x has a number of 16 bits.
  static bool can_number(const ResidentRows& a) { return (int64_t{a.width} + 1) * kPacks <= 1 << 16; }

  __device__ ResidentProduct(float* shared, const ResidentRows& a)
      : values_(shared),
        packs_(reinterpret_cast<uint16_t*>(shared + a.most_rounds * kRound)),
        table_(reinterpret_cast<Row*>(packs_ + a.most_rounds * kRound)),
        x_(reinterpret_cast<float*>(table_ + even(a.most_units * kGates))),
        sums_(x_ + (a.width + 1) * kStreams),
        first_unit_(a.first_unit[blockIdx.x]),
        units_(a.first_unit[blockIdx.x + 1] - first_unit_) {
    const SpreadRow* const rows = a.rows + int64_t{first_unit_} * kGates;
    for (int i = warp(); i < units_ * kGates; i += warps()) {
      const SpreadRow row = rows[i];
      const int32_t begin = a.offsets[row.row], count = a.offsets[row.row + 1] - begin;
      const int rounds = (count + static_cast<int>(kRound) - 1) / static_cast<int>(kRound);
      const int first = row.round * static_cast<int>(kRound);
      for (int k = lane(); k < rounds * kRound; k += kWarp) {
        // What fills up a round is -0 times the column behind the last, which is 0: it changes no bit.
        const bool there = k < count;
        values_[first + k] = there ? a.values[begin + k] : -0.0f;
        packs_[first + k] = static_cast<uint16_t>(pack_of(there ? a.columns[begin + k] : a.width));
      }
      if (lane() == 0) {
        const int gate = static_cast<int>(row.row / a.units);
        const int unit = static_cast<int>(row.row - gate * a.units) - first_unit_;
        table_[i] = {first, static_cast<uint16_t>(rounds), static_cast<uint16_t>(unit * kGates + gate)};
      }
    }
    for (int i = static_cast<int>(threadIdx.x); i < kStreams; i += static_cast<int>(blockDim.x)) {
      x_[a.width * kStreams + i] = 0.0f;
    }
  }

  /// The block's units: their number, and the first.
  __device__ int units() const { return units_; }
  __device__ int first_unit() const { return first_unit_; }

  /// sum(unit, gate, b) = Σ over the nonzeros of their row with row b < count of x [count, width]. The block
  /// meets at a barrier before it reads sums, and before it multiplies again. x is what other blocks wrote
  /// during this kernel: it comes from the second-level cache.
  __device__ void multiply(const float* x, int64_t stride, int count, int width) {
    const int chunks = (width + kWarp - 1) / kWarp * kPacks;
#pragma unroll 4
    for (int i = warp(); i < chunks; i += warps()) {
      const int pack = i % kPacks, c = i / kPacks * kWarp + lane();
      if (c < width) {
        Pack<kPack> column;
#pragma unroll
        for (int e = 0; e < kPack; ++e) {
          const int b = pack * kPack + e;
          column.value[e] = b < count ? __ldcg(x + b * stride + c) : 0.0f;
        }
        store_pack<kPack>(x_ + (pack_of(c) ^ pack) * kPack, column);
      }
    }
    __syncthreads();  // before a lane reads what others fetched

    const int pack = lane() % kPacks, quarter = lane() / kPacks % kQuarters;
    const int rows = units_ * kGates;
    for (int first = warp() * kRows; first < rows; first += warps() * kRows) {
      const int i = first + lane() / (kPacks * kQuarters);
      const Row row = i < rows ? table_[i] : Row{0, 0, 0};
      const float* value = values_ + row.first + quarter * 4;
      const uint16_t* column = packs_ + row.first + quarter * 4;
      float chains[4][kPack] = {};
#pragma unroll 2
      for (int round = 0; round < row.rounds; ++round, value += kRound, column += kRound) {
        const Pack<4> w = load_pack<4>(value);
        const ushort4 at = *reinterpret_cast<const ushort4*>(column);
        const int numbers[4] = {at.x, at.y, at.z, at.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const Pack<kPack> h = load_pack<kPack>(x_ + (numbers[k] ^ pack) * kPack);
#pragma unroll
          for (int e = 0; e < kPack; ++e) chains[k][e] = fmaf(w.value[k], h.value[e], chains[k][e]);
        }
      }
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        chains[0][e] = (chains[0][e] + chains[1][e]) + (chains[2][e] + chains[3][e]);
      }
      const float sum = sum_of_quarters(chains[0], quarter);
      const int element = kPack == 1 ? 0 : quarter;
      if (i < rows && quarter < kPack) sums_[row.sum * (kStreams + 1) + pack * kPack + element] = sum;
    }
  }

  /// A stride that is odd: neither lanes of neighbouring streams nor of neighbouring units share a bank.
  __device__ float sum(int unit, int gate, int b) const {
    return sums_[(unit * kGates + gate) * (kStreams + 1) + b];
  }

 private:
  struct alignas(8) Row {
    int32_t first;  // nonzero, of those in shared memory
    uint16_t rounds;
    uint16_t sum;  // the number of its sum
  };

  __host__ __device__ static int even(int count) {
    return (count + 1) / 2 * 2;
  }
  __device__ static int lane() {
    return static_cast<int>(threadIdx.x) % kWarp;
  }
  __device__ static int warp() {
    return static_cast<int>(threadIdx.x) / kWarp;
  }
  __device__ static int warps() {
    return static_cast<int>(blockDim.x) / kWarp;
  }

  /// Where pack 0 of a column is; pack p is at this number ^ p.
  __device__ static int pack_of(int column) {
    return column * kPacks + column / (8 / kPacks) % kPacks;
  }

  /// The sum over the four quarters of a round. Of four streams each lane gets that of its quarter's number:
  /// lanes hand over the half that isn't theirs, then the half of that, in the order in which one stream is
  /// added up.
  __device__ static float sum_of_quarters(float (&sums)[kPack], int quarter) {
    if constexpr (kPack == 1) {
      const float pair = sums[0] + __shfl_xor_sync(kFullMask, sums[0], 2 * kPacks);
      return pair + __shfl_xor_sync(kFullMask, pair, kPacks);
    } else {
      const bool upper = (quarter & 2) != 0, odd = (quarter & 1) != 0;
      float pair[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float kept = upper ? sums[e + 2] : sums[e], given = upper ? sums[e] : sums[e + 2];
        pair[e] = kept + __shfl_xor_sync(kFullMask, given, 2 * kPacks);
      }
      const float kept = odd ? pair[1] : pair[0], given = odd ? pair[0] : pair[1];
      return kept + __shfl_xor_sync(kFullMask, given, kPacks);
    }
  }

  float* const values_;
  uint16_t* const packs_;
  Row* const table_;
  float* const x_;
  float* const sums_;
  const int first_unit_, units_;
};

}  // namespace coppice::cuda
