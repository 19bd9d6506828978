#include "kernels/cpu/layouts/entry_sources.hpp"

#include "kernels/cpu/dispatch.hpp"

namespace coppice::cpu {

void EntrySources::gather(const float* from, StoredValues& values, int threads) const {
  values.visit([&](auto& stored) {
    const auto count = static_cast<int64_t>(stored.size());
    auto* const to = stored.data();
    const uint32_t* const sources = sources_.data();
#pragma omp parallel for num_threads(threads_for(threads, count)) schedule(static)
    for (int64_t entry = 0; entry < count; ++entry) {
      const uint32_t source = sources[entry];
      if (source != kPadding) to[entry] = stored_as(from[source], to[entry]);
    }
  });
}

}  // namespace coppice::cpu
