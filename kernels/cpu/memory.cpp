#include "kernels/cpu/memory.hpp"

#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <cstdlib>

#include "kernels/error.hpp"
#include "kernels/tensor.hpp"

namespace coppice::cpu {

namespace {

/// The system promises more than it has and then kills whoever uses it: what can't fit is refused here.
bool fits_the_machine(int64_t bytes) {
  if (bytes < int64_t{1} << 30) return bytes >= 0;
  struct sysinfo info;
  if (sysinfo(&info) != 0) return true;
  return static_cast<uint64_t>(bytes) / info.mem_unit <=
         static_cast<uint64_t>(info.totalram) + info.totalswap;
}

}  // namespace

void* allocate(int64_t bytes, std::string_view what) {
  constexpr int64_t kHugePage = int64_t{2} << 20;
  const int64_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
  void* data = nullptr;
  if (fits_the_machine(bytes)) {
    // Only whole cache lines behind small runs, whole huge pages behind big ones: untouched pages cost
    // nothing.
    const int64_t padded = std::max((bytes + alignment - 1) / alignment * alignment, alignment);
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
