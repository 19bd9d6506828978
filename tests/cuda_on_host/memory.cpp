#include "tests/cuda_on_host/memory.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>

#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/settings.hpp"

#ifdef COPPICE_CUDA_BOUNDS
#include <sanitizer/asan_interface.h>
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#define ASAN_POISON_MEMORY_REGION(begin, bytes) (static_cast<void>(begin), static_cast<void>(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(begin, bytes) (static_cast<void>(begin), static_cast<void>(bytes))
#endif

namespace coppice::cuda_on_host {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kDeviceAlignment = 256;  // what cudaMalloc promises, and no more
constexpr int kPoison = 0xff;             // NaN as a float, -1 as an index

struct Tables {
  std::map<const char*, Block> live;   // by address
  std::map<const char*, Block> freed;  // what no live block has taken the place of
  std::map<int, size_t> used;          // bytes, by device
  int access = 0;
};
/// Never destroyed: what is freed when the process ends still finds it.
Tables& tables() {
  static Tables* const instance = new Tables;
  return *instance;
}

const Block* find(const std::map<const char*, Block>& blocks, const void* address) {
  auto after = blocks.upper_bound(static_cast<const char*>(address));
  if (after == blocks.begin()) return nullptr;
  const Block& block = std::prev(after)->second;
  return block.contains(address, 0) ? &block : nullptr;
}

size_t whole_pages(size_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

/// Under AddressSanitizer its own heap, with red zones and a quarantine. Elsewhere pages that end where the
/// memory does, before one that can't be touched, and that are gone when it is freed.
void* take(size_t bytes) {
  if constexpr (kAddressSanitizer) {
    void* data = nullptr;
    return posix_memalign(&data, kDeviceAlignment, bytes) == 0 ? data : nullptr;
  }
  const size_t pages = whole_pages(bytes);
  void* const begin =
      mmap(nullptr, pages + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (begin == MAP_FAILED) return nullptr;
  mprotect(static_cast<char*>(begin) + pages, kPage, PROT_NONE);
  return static_cast<char*>(begin) + (pages - bytes) / kDeviceAlignment * kDeviceAlignment;
}
void give_back(void* data, size_t bytes) {
  if constexpr (kAddressSanitizer) return std::free(data);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / kPage * kPage;
  munmap(reinterpret_cast<void*>(begin), whole_pages(bytes) + kPage);
}

void* allocate(Block block) {
  void* const data = take(block.bytes);
  if (data == nullptr) return nullptr;
  std::memset(data, kPoison, block.bytes);
  block.begin = static_cast<const char*>(data);
  // Blocks that were freed overlap none of their kind, so only the first of these can begin before this one.
  auto& freed = tables().freed;
  auto stale = freed.lower_bound(block.begin);
  if (stale != freed.begin() && block.begin < std::prev(stale)->first + std::prev(stale)->second.bytes)
    --stale;
  while (stale != freed.end() && stale->first < block.begin + block.bytes) stale = freed.erase(stale);
  tables().live[block.begin] = block;
  return data;
}

bool release(void* data, bool device) {
  const auto found = tables().live.find(static_cast<const char*>(data));
  if (found == tables().live.end() || found->second.device != device) return false;
  ASAN_UNPOISON_MEMORY_REGION(data, found->second.bytes);
  const size_t bytes = found->second.bytes;
  tables().freed.insert(*found);
  tables().live.erase(found);
  give_back(data, bytes);
  return true;
}

void set_access(bool open) {
  for (const auto& [begin, block] : tables().live) {
    if (!block.device) continue;
    if (open) {
      ASAN_UNPOISON_MEMORY_REGION(begin, block.bytes);
    } else {
      ASAN_POISON_MEMORY_REGION(begin, block.bytes);
    }
  }
}

/// Whether a word could be an address of this process: nothing else has such high values by chance.
bool looks_mapped(uintptr_t word) {
  if (word < 0x5000'0000'0000 || word >= 0x8000'0000'0000) return false;
  unsigned char resident = 0;
  return mincore(reinterpret_cast<void*>(word & ~uintptr_t{4095}), 1, &resident) == 0;
}

}  // namespace

void* allocate_device(int index, size_t bytes) {
  size_t& used = tables().used[index];
  const size_t total = settings().device_memory;
  if (bytes > total || used > total - bytes) return nullptr;
  void* data = allocate({nullptr, bytes, true, index});
  if (data == nullptr) return nullptr;
  used += bytes;
  if (tables().access == 0) ASAN_POISON_MEMORY_REGION(data, bytes);
  return data;
}

void* allocate_pinned(size_t bytes) {
  return allocate({nullptr, bytes, false, 0});
}

bool release_device(void* data) {
  const auto found = tables().live.find(static_cast<const char*>(data));
  if (found != tables().live.end() && found->second.device)
    tables().used[found->second.index] -= found->second.bytes;
  return release(data, true);
}

bool release_pinned(void* data) {
  return release(data, false);
}

const Block* find_block(const void* address) {
  return find(tables().live, address);
}

size_t device_bytes(int index) {
  return tables().used[index];
}
int64_t live_blocks() {
  return static_cast<int64_t>(tables().live.size());
}

DeviceAccess::DeviceAccess() {
  if (tables().access++ == 0) set_access(true);
}
DeviceAccess::~DeviceAccess() {
  if (--tables().access == 0) set_access(false);
}
NoDeviceAccess::NoDeviceAccess() {
  if (tables().access > 0) set_access(false);
}
NoDeviceAccess::~NoDeviceAccess() {
  if (tables().access > 0) set_access(true);
}

void require_device(const void* data, size_t bytes, const char* what) {
  if (bytes == 0) return;
  const Block* block = find_block(data);
  if (block == nullptr || !block->device) {
    if (find(tables().freed, data) != nullptr) fault("freed memory", "{} was freed ({})", what, data);
    fault("host pointer", "{} is not device memory ({})", what, data);
  }
  if (!block->contains(data, bytes))
    fault("out of bounds", "{}: {} bytes from offset {} of an allocation of {} bytes", what, bytes,
          static_cast<const char*>(data) - block->begin, block->bytes);
}

void require_host(const void* data, size_t bytes, const char* what) {
  if (bytes == 0) return;
  const Block* block = find_block(data);
  if (block == nullptr) return;
  if (block->device && block->contains(data, 1))
    fault("device pointer", "{} is device memory ({})", what, data);
  if (!block->device && block->contains(data, 1) && !block->contains(data, bytes))
    fault("out of bounds", "{}: {} bytes from offset {} of a page-locked block of {} bytes", what, bytes,
          static_cast<const char*>(data) - block->begin, block->bytes);
}

void check_argument(int index, const char* kernel, int position, const Parameter& parameter,
                    const void* value) {
  for (size_t offset = 0; offset + sizeof(uintptr_t) <= parameter.size; offset += sizeof(uintptr_t)) {
    uintptr_t word = 0;
    std::memcpy(&word, static_cast<const char*>(value) + offset, sizeof word);
    const void* address = reinterpret_cast<const void*>(word);
    if (address == nullptr) continue;
    if (const Block* block = find_block(address)) {
      if (block->device && block->index != index)
        fault("other device", "argument {} of {} is memory of device {}, the stream is of device {}",
              position, kernel, block->index, index);
      continue;
    }
    if (!parameter.is_pointer && !looks_mapped(word)) continue;
    if (find(tables().freed, address) != nullptr)
      fault("freed memory", "argument {} of {} was freed ({})", position, kernel, address);
    fault("host pointer", "argument {} of {} is an address of the host ({})", position, kernel, address);
  }
}

}  // namespace coppice::cuda_on_host
