#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace coppice {

/// NumPy's linear percentile in float64: the rank (n − 1)·(p / 100), and where between which two units it
/// lies.
struct PercentileRank {
  uint64_t lower = 0;
  uint64_t upper = 0;
  double fraction = 0.0;

  PercentileRank(double percentile, uint64_t units) {
    const double rank = static_cast<double>(units - 1) * (percentile / 100.0);
    lower = std::min(static_cast<uint64_t>(std::floor(rank)), units - 1);
    fraction = rank - static_cast<double>(lower);
    upper = fraction > 0.0 ? std::min(lower + 1, units - 1) : lower;
  }
};

/// NumPy's interpolation, operation by operation. Between infinite scores there is none: the upper one is
/// taken, which cuts the same units as any value between the two.
inline double interpolate(double lower, double upper, double fraction) {
  if (fraction == 0.0) return lower;
  if (!std::isfinite(lower) || !std::isfinite(upper)) return upper;
  const double difference = upper - lower;
  return fraction < 0.5 ? lower + difference * fraction : upper - difference * (1.0 - fraction);
}

}  // namespace coppice
