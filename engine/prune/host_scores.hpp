#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "engine/prune/plan.hpp"
#include "engine/prune/source.hpp"
#include "kernels/backend.hpp"
#include "kernels/selection.hpp"

namespace coppice {

// What competes in small groups (a row, n of m, a block) is scored on the host while it lies in its cache,
// whatever the device: groups come in millions. Scores are those of the kernels, bit for bit.

/// How many threads serve work on the host beside a backend.
inline int threads_of(Backend& backend) {
  return std::max(1, backend.info().threads);
}

/// Keys of a stretch of elements, of either width; the memory of one stretch serves the next.
class HostKeys {
 public:
  /// Keys of a block on the device. Throws Error(bad_input) where a score is NaN.
  void read(const Plan& plan, ParameterSource& source, size_t tensor, const ScoreBlock& block);
  /// uint64_t for f64, uint32_t for all others.
  template <class Key>
  const Key* as() const {
    return reinterpret_cast<const Key*>(bytes_.get());
  }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  int64_t size_ = 0;
};

/// As SelectionOps::apply, cutting what `kept` says, bits on the host placed as the block's own, and what is
/// cut already.
uint64_t apply_bits(Backend& backend, const ScoreBlock& block, const uint64_t* kept, void* output,
                    uint64_t* mask);

}  // namespace coppice
