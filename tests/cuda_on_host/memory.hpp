#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "tests/cuda_on_host/device.hpp"

// The table of what was allocated, on the devices and page-locked on the host.
namespace coppice::cuda_on_host {

struct Block {
  const char* begin = nullptr;
  size_t bytes = 0;
  bool device = false;  // else page-locked host memory, which a device may use as well
  int index = 0;        // of the device
  bool contains(const void* data, size_t count) const {
    const char* first = static_cast<const char*>(data);
    return first >= begin && count <= bytes && static_cast<size_t>(first - begin) <= bytes - count;
  }
};

/// Null where the device has no such amount left.
void* allocate_device(int index, size_t bytes);
void* allocate_pinned(size_t bytes);
/// False when no live block begins there.
bool release_device(void* data);
bool release_pinned(void* data);

/// The live block around an address; the end of a block counts as part of it unless the next one begins
/// there.
const Block* find_block(const void* address);
inline bool is_device(const void* address) {
  const Block* block = find_block(address);
  return block != nullptr && block->device;
}

size_t device_bytes(int index);  // in use
int64_t live_blocks();

/// Device memory can be read and written while one of these exists. Under AddressSanitizer, that is;
/// elsewhere always.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
};
/// And not while one of these does.
class NoDeviceAccess {
 public:
  NoDeviceAccess();
  ~NoDeviceAccess();
};

/// A fault if a kernel argument holds an address that the device `index` can't use: the host's, another
/// device's, or one that was freed. Structures are searched for words that look like one.
void check_argument(int index, const char* kernel, int position, const Parameter& parameter,
                    const void* value);

}  // namespace coppice::cuda_on_host
