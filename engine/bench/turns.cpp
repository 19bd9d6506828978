#include "engine/bench/turns.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "engine/bench/idle.hpp"
#include "kernels/error.hpp"

namespace coppice::bench {
namespace {

constexpr double kSlowTurn = 0.93;   // of the best reading
constexpr double kWideSpread = 0.2;  // of the median, between the quartiles
constexpr size_t kFewestClean = 3;

double quantile(const std::vector<double>& sorted, double q) {
  const double place = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

void check_stop(const StopToken* stop) {
  if (stop != nullptr && stop->requested.load()) {
    throw Error(ErrorKind::interrupted, "interrupted; nothing was written");
  }
}

}  // namespace

double median_of(std::vector<double> values) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  return quantile(values, 0.5);
}

Timing timing_of(const std::vector<Sample>& samples) {
  Timing timing;
  std::vector<double> clean, all;
  for (const Sample& sample : samples) {
    all.push_back(sample.seconds);
    if (!sample.polluted) clean.push_back(sample.seconds);
  }
  const bool enough = clean.size() >= kFewestClean;
  std::vector<double>& counted = enough ? clean : all;
  if (counted.empty()) return timing;
  std::sort(counted.begin(), counted.end());
  timing.median = quantile(counted, 0.5);
  timing.low = quantile(counted, 0.25);
  timing.high = quantile(counted, 0.75);
  timing.samples = static_cast<int64_t>(counted.size());
  timing.discarded = static_cast<int64_t>(samples.size() - counted.size());
  timing.noisy = !enough || timing.high - timing.low > kWideSpread * timing.median;
  return timing;
}

std::vector<Timing> take_turns(const std::vector<Turn>& contestants, const std::vector<int64_t>& bytes,
                               Yardstick& yardstick, const TurnOptions& options, Ceilings& ceilings,
                               const StopToken* stop) {
  const size_t count = contestants.size();
  const auto pause = [&] {
    if (options.waits_for_workers) wait_until_idle(getpid(), kLongestSpin);
  };
  std::vector<int64_t> repeats(count, 1);
  for (size_t i = 0; i < count; ++i) {
    check_stop(stop);
    contestants[i](1);  // packs, allocates, makes its forms
    const double once = contestants[i](1).seconds;
    repeats[i] = std::clamp<int64_t>(std::llround(options.sample_seconds / std::max(once, 1e-7)), 1, 20'000);
  }
  std::vector<std::vector<Sample>> samples(count);
  std::vector<std::vector<double>> bandwidths(count);
  std::vector<double> readings = {yardstick.flops()};
  const auto slow = [&](size_t turn) {
    const double best = *std::max_element(readings.begin(), readings.end());
    return std::min(readings[turn], readings[turn + 1]) < kSlowTurn * best;
  };
  // Of the contestant that has the fewest.
  const auto clean_samples = [&] {
    int64_t fewest = options.turns;
    for (const std::vector<Sample>& of : samples) {
      int64_t clean = 0;
      for (size_t t = 0; t < of.size(); ++t) clean += of[t].polluted || slow(t) ? 0 : 1;
      fewest = std::min(fewest, clean);
    }
    return fewest;
  };
  for (int turn = 0;
       turn < options.turns || (turn < 3 * options.turns && clean_samples() < (options.turns + 1) / 2);
       ++turn) {
    for (size_t i = 0; i < count; ++i) {
      check_stop(stop);
      pause();
      Sample sample = contestants[i](repeats[i]);
      sample.seconds /= static_cast<double>(repeats[i]);
      samples[i].push_back(sample);
      if (turn < 3) bandwidths[i].push_back(yardstick.bandwidth(bytes[i]));
    }
    pause();
    readings.push_back(yardstick.flops());
  }
  std::vector<Timing> timings;
  ceilings.flops = median_of(readings);
  ceilings.bandwidths.clear();
  for (size_t i = 0; i < count; ++i) {
    for (size_t t = 0; t < samples[i].size(); ++t) samples[i][t].polluted |= slow(t);
    timings.push_back(timing_of(samples[i]));
    // Few readings, each of which a neighbour can only make worse, two threads' above all.
    ceilings.bandwidths.push_back(*std::max_element(bandwidths[i].begin(), bandwidths[i].end()));
  }
  return timings;
}

}  // namespace coppice::bench
