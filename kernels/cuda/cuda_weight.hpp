#pragma once

#include <atomic>
#include <cstdint>

#include "kernels/weight.hpp"

namespace coppice::cuda {

/// What the layouts on the device share: products that a recurrence may capture into a graph and replay.
///
/// After the first product of a kind (multiply or multiply_transposed, with or without adding to what is
/// there) and number of rows has run outside of a capture, the same product allocates nothing and asks
/// nothing of the device that a capture forbids. A replayed product reads the values as they are then, so
/// `refresh` must write them where they were; whatever moves them, the indices or a workspace says so with
/// `moved`.
class CudaWeight : public Weight {
 public:
  /// A number under which captured products stay good: no other weight of the process has or had it, and it
  /// changes when something that they have baked in was moved.
  uint64_t version() const { return version_; }

 protected:
  CudaWeight(int64_t out, int64_t in, Device device) : Weight(out, in, device), version_(next_version()) {}
  void moved() { version_ = next_version(); }

 private:
  static uint64_t next_version() {
    static std::atomic<uint64_t> last{0};
    return ++last;
  }

  uint64_t version_;
};

}  // namespace coppice::cuda
