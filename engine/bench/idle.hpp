#pragma once

namespace coppice::bench {

/// Pools of threads spin on behind their work, some of them for tens of milliseconds; longer than this (in
/// seconds) nobody is waited for.
inline constexpr double kLongestSpin = 0.5;

/// Returns when no thread of a process is busy, the calling one aside; or after `seconds`. A pool that spins
/// on would take a processor from whoever is timed next.
void wait_until_idle(int process, double seconds);

}  // namespace coppice::bench
