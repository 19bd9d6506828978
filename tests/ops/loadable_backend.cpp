// Stands for libcoppice_cuda.so in loading_test: one device, which is the CPU, and reasons for everything
// else.
#include <cstdio>

#include "kernels/backend.hpp"

extern "C" __attribute__((visibility("default"))) coppice::Backend* coppice_open_backend(
    uint32_t abi, int index, const coppice::BackendOptions& options, char* reason, size_t size) {
  if (abi != coppice::kBackendAbi) {
    std::snprintf(reason, size, "made for another release");
  } else if (index == 1) {
    std::snprintf(reason, size, "device 1 is asleep");
  } else if (index == 0) {
    return coppice::open_backend("cpu", options).release();
  }
  return nullptr;
}
