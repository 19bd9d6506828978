#include "kernels/cpu/memory.hpp"

#include <fmt/core.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "kernels/error.hpp"
#include "kernels/tensor.hpp"

namespace coppice::cpu {

void* allocate(int64_t bytes, std::string_view what) {
  constexpr int64_t kHugePage = int64_t{2} << 20;
  const int64_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
  void* data = nullptr;
  if (bytes >= 0 && bytes <= std::numeric_limits<int64_t>::max() - alignment) {
    const int64_t padded = std::max((bytes + alignment - 1) / alignment * alignment, alignment);
    // Only whole cache lines behind small runs, whole huge pages behind big ones: untouched pages cost
    // nothing.
    data = std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(padded));
    if (data != nullptr && alignment == kHugePage) madvise(data, static_cast<size_t>(padded), MADV_HUGEPAGE);
  }
  if (data == nullptr) {
    throw Error(ErrorKind::out_of_memory,
                fmt::format("no memory on the host for {}: {} bytes wanted", what, bytes));
  }
  return data;
}

void release(void* data) noexcept {
  std::free(data);
}

}  // namespace coppice::cpu
