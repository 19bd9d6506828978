#pragma once

#include <cstdlib>
#include <memory>
#include <string>

#include "kernels/backend.hpp"

namespace coppice::test {

/// The device that suites above the operations run on: $COPPICE_TEST_DEVICE, else the CPU.
inline std::string test_device() {
  const char* name = std::getenv("COPPICE_TEST_DEVICE");
  return name != nullptr ? name : "cpu";
}

/// `threads` is the CPU's business; 0: all.
inline std::unique_ptr<Backend> open_test_backend(int threads = 0) {
  return open_backend(test_device(), {.threads = threads});
}

}  // namespace coppice::test
