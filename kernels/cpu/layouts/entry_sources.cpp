#include "kernels/cpu/layouts/entry_sources.hpp"

#include "kernels/cpu/dispatch.hpp"

namespace coppice::cpu {

void EntrySources::gather(const float* from, LargeVector<float>& values, int threads) const {
  const auto count = static_cast<int64_t>(values.size());
  float* const to = values.data();
  const uint32_t* const sources = sources_.data();
#pragma omp parallel for num_threads(threads_for(threads, count)) schedule(static)
  for (int64_t entry = 0; entry < count; ++entry) {
    const uint32_t source = sources[entry];
    if (source != kPadding) to[entry] = from[source];
  }
}

}  // namespace coppice::cpu
