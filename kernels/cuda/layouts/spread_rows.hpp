#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/context.hpp"
#include "kernels/cuda/memory.hpp"

namespace coppice::cuda {

/// Nonzeros of a row are added up sixteen at a time: rows that stay in shared memory are padded to whole
/// rounds.
inline constexpr int64_t kRound = 16;

struct SpreadRow {
  int32_t row;    // of the matrix
  int32_t round;  // its first one, among those of the block
};

/// Which blocks of a persistent kernel keep which rows of a sparse matrix [G·units, ·] from the first step of
/// a sequence to the last. To unit j belong the rows j, units + j, … of its G gates. Each block has
/// neighbouring units, so that what it writes is whole sectors, and the boundaries are where the longest
/// block is shortest.
struct SpreadRows {
  int64_t units = 0;
  int64_t gates = 0;
  int64_t blocks = 0;
  int64_t most_units = 0;           // of a block
  int64_t most_rounds = 0;          // of a block
  DeviceArray<int32_t> first_unit;  // [blocks + 1]
  DeviceArray<SpreadRow>
      rows;  // [G·units]: block by block, the longest first, so that neighbours end together
};

/// The unit with which each block begins and, behind them, the number of units: at most `blocks` blocks, none
/// of them empty, for rows that begin at offsets[r] and end at offsets[r + 1].
std::vector<int32_t> spread_units(std::span<const int32_t> offsets, int64_t gates, int64_t blocks);

/// The same with everything that the device wants to know. Waits for the device.
SpreadRows spread_rows(const CudaContext& context, std::span<const int32_t> offsets, int64_t gates);

}  // namespace coppice::cuda
