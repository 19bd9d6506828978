#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "tests/cuda_on_host/device.hpp"

namespace coppice::cuda_on_host {

struct Launch {
  const void* function = nullptr;
  Kernel kernel;
  std::string name;
  void** arguments = nullptr;
  dim3 grid;
  dim3 block;
  size_t dynamic_shared = 0;
  size_t shared_limit = 48 << 10;  // static and dynamic together
  bool cooperative = false;        // all blocks live at once

  int64_t blocks() const { return int64_t{grid.x} * grid.y * grid.z; }
  int threads() const { return static_cast<int>(block.x * block.y * block.z); }
};

/// Runs every thread of every block to its end. Device memory must be accessible.
void run(const Launch& launch);

struct Counters {
  int64_t launches = 0;
  int64_t threads = 0;
  int64_t switches = 0;
  std::string last_kernel;
};
const Counters& counters();
bool kernel_is_running();

}  // namespace coppice::cuda_on_host
