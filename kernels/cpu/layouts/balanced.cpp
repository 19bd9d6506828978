#include "kernels/cpu/layouts/balanced.hpp"

#include <algorithm>
#include <vector>

#include "kernels/error.hpp"

namespace coppice::cpu {
namespace {

constexpr int64_t kRun = 64;
/// A kept value may happen to be zero; more of them than that are another pattern.
constexpr int64_t kKeptPerZero = 1000;

MatrixView<const float> check_balance(MatrixView<const float> values) {
  int64_t kept = 0, missing = 0;
  int64_t row = 0, column = 0, found = 0, expected = 0;  // of a run that has too few
  std::vector<int64_t> counts(static_cast<size_t>(values.rows));
  for (int64_t c = 0; c < values.cols; c += kRun) {
    const int64_t width = std::min(kRun, values.cols - c);
    int64_t most = 0;
    for (int64_t r = 0; r < values.rows; ++r) {
      const float* run = values.row(r) + c;
      counts[static_cast<size_t>(r)] = width - std::count(run, run + width, 0.0f);
      most = std::max(most, counts[static_cast<size_t>(r)]);
    }
    for (int64_t r = 0; r < values.rows; ++r) {
      const int64_t here = counts[static_cast<size_t>(r)];
      kept += here;
      missing += most - here;
      if (here < most) row = r, column = c, found = here, expected = most;
    }
  }
  if (missing * kKeptPerZero > kept) {
    bad_input(
        "layout balanced: row {} of a matrix of [{}, {}] has {} nonzeros in columns {} to {}, where another "
        "row "
        "has {}; expected the same number in every row",
        row, values.rows, values.cols, found, column, std::min(column + kRun, values.cols) - 1, expected);
  }
  return values;
}

}  // namespace

BalancedWeight::BalancedWeight(const CpuContext& context, MatrixView<const float> values, DType type)
    : SellWeight(context, check_balance(values), type) {}

}  // namespace coppice::cpu
