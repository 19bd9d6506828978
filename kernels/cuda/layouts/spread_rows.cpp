#include "kernels/cuda/layouts/spread_rows.hpp"

#include <algorithm>
#include <vector>

namespace coppice::cuda {
namespace {

int64_t rounds_of(std::span<const int32_t> offsets, int64_t row) {
  const auto r = static_cast<size_t>(row);
  return (offsets[r + 1] - offsets[r] + kRound - 1) / kRound;
}

/// Blocks that are filled one after the other, none beyond `most`; no unit may cost more than that.
std::vector<int32_t> fill_blocks(const std::vector<int64_t>& costs, int64_t most) {
  std::vector<int32_t> first{0};
  int64_t filled = 0;
  for (size_t unit = 0; unit < costs.size(); ++unit) {
    if (filled + costs[unit] > most) {
      first.push_back(static_cast<int32_t>(unit));
      filled = 0;
    }
    filled += costs[unit];
  }
  first.push_back(static_cast<int32_t>(costs.size()));
  return first;
}

}  // namespace

std::vector<int32_t> spread_units(std::span<const int32_t> offsets, int64_t gates, int64_t blocks) {
  const int64_t units = static_cast<int64_t>(offsets.size() - 1) / gates;
  // A row without nonzeros costs something, too: its cell.
  std::vector<int64_t> costs(static_cast<size_t>(units), gates);
  for (int64_t row = 0; row < units * gates; ++row) {
    costs[static_cast<size_t>(row % units)] += rounds_of(offsets, row);
  }
  int64_t low = 0, high = 0;  // what the costliest block takes at least, and surely no more than
  for (const int64_t cost : costs) {
    low = std::max(low, cost);
    high += cost;
  }
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (static_cast<int64_t>(fill_blocks(costs, middle).size()) - 1 <= blocks) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return fill_blocks(costs, high);
}

SpreadRows spread_rows(const CudaContext& context, std::span<const int32_t> offsets, int64_t gates) {
  const std::vector<int32_t> first = spread_units(offsets, gates, context.multiprocessors);
  SpreadRows result;
  result.units = first.back();
  result.gates = gates;
  result.blocks = static_cast<int64_t>(first.size()) - 1;
  std::vector<SpreadRow> rows;
  rows.reserve(static_cast<size_t>(result.units * gates));
  for (size_t block = 0; block + 1 < first.size(); ++block) {
    const auto begin = static_cast<ptrdiff_t>(rows.size());
    for (int64_t gate = 0; gate < gates; ++gate) {
      for (int32_t unit = first[block]; unit < first[block + 1]; ++unit) {
        rows.push_back({static_cast<int32_t>(gate * result.units) + unit, 0});
      }
    }
    std::stable_sort(rows.begin() + begin, rows.end(), [&](const SpreadRow& a, const SpreadRow& b) {
      return rounds_of(offsets, a.row) > rounds_of(offsets, b.row);
    });
    int64_t round = 0;
    for (auto row = rows.begin() + begin; row != rows.end(); ++row) {
      row->round = static_cast<int32_t>(round);
      round += rounds_of(offsets, row->row);
    }
    result.most_rounds = std::max(result.most_rounds, round);
    result.most_units = std::max<int64_t>(result.most_units, first[block + 1] - first[block]);
  }
  result.first_unit = to_device<int32_t>(*context.memory, context.stream, first, "a sparse matrix");
  result.rows = to_device<SpreadRow>(*context.memory, context.stream, rows, "a sparse matrix");
  return result;
}

}  // namespace coppice::cuda
