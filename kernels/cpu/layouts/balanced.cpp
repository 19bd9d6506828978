#include "kernels/cpu/layouts/balanced.hpp"

#include <algorithm>

#include "kernels/error.hpp"

namespace coppice::cpu {
namespace {

constexpr int64_t kRun = 64;

MatrixView<const float> check_balance(MatrixView<const float> values) {
  for (int64_t c = 0; c < values.cols; c += kRun) {
    const int64_t count = std::min(kRun, values.cols - c);
    const auto kept = [&](int64_t r) {
      const float* run = values.row(r) + c;
      return count - std::count(run, run + count, 0.0f);
    };
    const int64_t expected = values.rows > 0 ? kept(0) : 0;
    for (int64_t r = 1; r < values.rows; ++r) {
      if (kept(r) == expected) continue;
      bad_input(
          "layout balanced: row {} of a matrix of [{}, {}] has {} nonzeros in columns {} to {}, row 0 has "
          "{}; "
          "expected the same number in every row",
          r, values.rows, values.cols, kept(r), c, c + count - 1, expected);
    }
  }
  return values;
}

}  // namespace

BalancedWeight::BalancedWeight(const CpuContext& context, MatrixView<const float> values)
    : SellWeight(context, check_balance(values)) {}

}  // namespace coppice::cpu
