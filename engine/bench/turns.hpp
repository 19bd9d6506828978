#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/bench/yardstick.hpp"
#include "engine/train/progress.hpp"

namespace coppice::bench {

struct Sample {
  double seconds = 0.0;   // of all repeats
  bool polluted = false;  // somebody else took the processor meanwhile
};

/// One of those that take turns: runs its work `repeats` times, warmed up before, and says how long that
/// took.
using Turn = std::function<Sample(int64_t repeats)>;

/// What the samples of one contestant come to, in seconds of one call.
struct Timing {
  double median = 0.0;
  double low = 0.0, high = 0.0;  // quartiles
  int64_t samples = 0;           // that count
  int64_t discarded = 0;         // polluted ones
  bool noisy = false;            // too few are clean, or the quartiles lie too far apart

  friend bool operator==(const Timing&, const Timing&) = default;
};

/// What the machine could do while the turns were taken.
struct Ceilings {
  double flops = 0.0;                // a second; 0: unknown
  std::vector<double> bandwidths{};  // bytes a second, by contestant
};

struct TurnOptions {
  int turns = 9;                   // at least; three times as many where too many are polluted
  double sample_seconds = 0.003;   // a sample repeats its work until it takes about as long
  bool waits_for_workers = false;  // before each sample, until those of the one before sleep
};

/// Interleaved turns: in each of them every contestant runs once, between two readings of the yardstick. A
/// sample is polluted when it says so, or when the yardstick of its turn fell 7 % behind its best reading.
/// `bytes`: what each contestant reads at least, for its bandwidth. Throws Error(interrupted) when `stop` is
/// requested.
std::vector<Timing> take_turns(const std::vector<Turn>& contestants, const std::vector<int64_t>& bytes,
                               Yardstick& yardstick, const TurnOptions& options, Ceilings& ceilings,
                               const StopToken* stop = nullptr);

/// The figures of samples, (seconds, polluted): polluted ones count only where fewer than three are clean.
Timing timing_of(const std::vector<Sample>& samples);

double median_of(std::vector<double> values);

}  // namespace coppice::bench
