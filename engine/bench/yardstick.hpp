#pragma once

#include <cstdint>
#include <memory>

#include "kernels/backend.hpp"

namespace coppice::bench {

/// What the machine can do in this very moment: the ceilings beside which a product's time stands, and how a
/// turn that a neighbour spoilt is told from the others.
class Yardstick {
 public:
  virtual ~Yardstick() = default;
  /// Floating-point operations a second of multiply-adds on registers (a GPU: of a large dense product); 0
  /// where it can't be told.
  virtual double flops() = 0;
  /// Bytes a second of reading a block of so many bytes again and again: from the cache that it fits into.
  virtual double bandwidth(int64_t bytes) = 0;
};

std::unique_ptr<Yardstick> make_yardstick(Backend& backend);

/// The clock of a backend's work: one thread of a processor is timed by its CPU time, which another job's
/// turns don't count into; everything else by the wall clock.
double now(const Backend& backend);

/// Everything runs up to so often, but no longer, before it is timed; once at least. Once leaves little
/// behind: an L3 keeps what is read again and again, but may take six to eight readings to do so.
constexpr int kWarmUpCalls = 16;
constexpr double kWarmUpSeconds = 0.01;
template <class Work>
void warm_up(const Backend& backend, Work work) {
  const double end = now(backend) + kWarmUpSeconds;
  work();
  for (int call = 1; call < kWarmUpCalls && now(backend) < end; ++call) work();
}

/// How often the kernel has taken a processor from this process's threads.
int64_t preemptions();

}  // namespace coppice::bench
