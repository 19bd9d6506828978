#pragma once

#include <cstddef>
#include <cstdint>

#include "tests/cuda_on_host/emulator.hpp"

namespace coppice::cuda_on_host {

/// What tests may choose; from the environment at first.
struct Settings {
  Order order = Order::forward;
  uint64_t seed = 1;
  int devices = 1;
  size_t device_memory = size_t{4} << 30;
  int multiprocessors = 4;
};
Settings& settings();

/// A small generator: chance must not cost more than the switch that it decides about.
class Chance {
 public:
  void seed(uint64_t seed) { state_ = seed * 0x9e37'79b9'7f4a'7c15 + 1; }
  /// A number below `bound`, which is below 2^32.
  uint32_t below(uint32_t bound) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<uint32_t>((state_ >> 32) * bound >> 32);
  }

 private:
  uint64_t state_ = 1;
};
Chance& chance();

/// Where a fault happens while a kernel runs: "; kernel K, block (...), thread (...)".
std::string describe_running_thread();
/// What a stream is running for a library; null: nothing.
const char*& running_library_call();

}  // namespace coppice::cuda_on_host
