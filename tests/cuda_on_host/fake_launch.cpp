#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "tests/cuda_on_host/device.hpp"
#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/memory.hpp"
#include "tests/cuda_on_host/runtime.hpp"
#include "tests/cuda_on_host/scheduler.hpp"
#include "tests/cuda_on_host/settings.hpp"
#include "tests/cuda_on_host/streams.hpp"
#include "tests/cuda_on_host/symbols.hpp"

// Launching kernels, and what the runtime says of them.

namespace coppice::cuda_on_host {
namespace {

struct Known {
  Kernel kernel;
  std::string name;
};
std::unordered_map<const void*, Known>& known_kernels() {
  static auto* const kernels = new std::unordered_map<const void*, Known>;
  return *kernels;
}

/// What cudaFuncSetAttribute allowed a kernel, by its address.
std::unordered_map<const void*, size_t>& dynamic_shared_limits() {
  static auto* const limits = new std::unordered_map<const void*, size_t>;
  return *limits;
}
size_t dynamic_shared_limit(const void* function) {
  const auto found = dynamic_shared_limits().find(function);
  return found == dynamic_shared_limits().end() ? Limits::kSharedPerBlock : found->second;
}

/// The arguments as they were when the kernel was launched.
class Arguments {
 public:
  Arguments(const Kernel& kernel, void** values) {
    std::vector<size_t> offsets;
    size_t bytes = 0;
    for (int i = 0; i < kernel.count; ++i) {
      const Parameter& parameter = kernel.parameters[i];
      bytes = (bytes + parameter.alignment - 1) / parameter.alignment * parameter.alignment;
      offsets.push_back(bytes);
      bytes += parameter.size;
    }
    bytes_ = bytes;
    constexpr size_t kAlignment = 256;
    data_.reset(static_cast<char*>(std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment)));
    for (int i = 0; i < kernel.count; ++i) {
      pointers_.push_back(data_.get() + offsets[static_cast<size_t>(i)]);
      std::memcpy(pointers_.back(), values[i], kernel.parameters[i].size);
    }
  }
  size_t bytes() const { return bytes_; }
  void** pointers() { return pointers_.data(); }

 private:
  struct Free {
    void operator()(char* data) const { std::free(data); }
  };
  size_t bytes_ = 0;
  std::unique_ptr<char, Free> data_;
  std::vector<void*> pointers_;
};

int resident_blocks(int threads, size_t dynamic_shared) {
  if (threads <= 0 || threads > Limits::kThreadsPerBlock) return 0;
  const int by_threads = Limits::kThreadsPerMultiprocessor / ((threads + 31) / 32 * 32);
  const auto by_shared =
      static_cast<int>(Limits::kSharedPerMultiprocessor / (dynamic_shared + Limits::kSharedReserved));
  return std::min({by_threads, by_shared, Limits::kBlocksPerMultiprocessor});
}

bool is_cooperative(const cudaLaunchConfig_t& config) {
  return std::any_of(config.attrs, config.attrs + config.numAttrs, [](const cudaLaunchAttribute& attribute) {
    return attribute.id == cudaLaunchAttributeCooperative && attribute.val.cooperative != 0;
  });
}

cudaError_t check_limits(const Launch& launch) {
  const dim3 grid = launch.grid;
  const dim3 block = launch.block;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (block.x == 0 || block.y == 0 || block.z == 0 || block.x > 1024 || block.y > 1024 || block.z > 64 ||
      uint64_t{block.x} * block.y * block.z > Limits::kThreadsPerBlock)
    return cudaErrorInvalidConfiguration;
  if (launch.dynamic_shared > dynamic_shared_limit(launch.function)) return cudaErrorInvalidValue;
  const int64_t resident =
      int64_t{settings().multiprocessors} * resident_blocks(launch.threads(), launch.dynamic_shared);
  if (launch.cooperative && launch.blocks() > resident) return cudaErrorCooperativeLaunchTooLarge;
  return cudaSuccess;
}

cudaError_t launch_later(const cudaLaunchConfig_t& config, const void* function, void** values) {
  const auto known = known_kernels().find(function);
  if (known == known_kernels().end()) return cudaErrorInvalidDeviceFunction;
  Launch launch;
  launch.function = function;
  launch.kernel = known->second.kernel;
  launch.name = known->second.name;
  launch.grid = config.gridDim;
  launch.block = config.blockDim;
  launch.dynamic_shared = config.dynamicSmemBytes;
  launch.shared_limit = std::max(Limits::kSharedPerBlock, dynamic_shared_limit(function));
  launch.cooperative = is_cooperative(config);
  if (const cudaError_t refused = check_limits(launch)) return refused;

  CUstream_st& stream = stream_of(config.stream);
  if (stream.device != current_device()) return cudaErrorInvalidResourceHandle;
  const auto arguments = std::make_shared<Arguments>(launch.kernel, values);
  if (arguments->bytes() > Limits::kArgumentBytes) return cudaErrorInvalidValue;
  // Now, while it shows who launched it; and when it runs, since memory may be gone by then.
  const auto check_arguments = [arguments, device = stream.device](const Launch& one) {
    for (int i = 0; i < one.kernel.count; ++i)
      check_argument(device, one.name.c_str(), i, one.kernel.parameters[i], arguments->pointers()[i]);
  };
  check_arguments(launch);
  return push(stream, {NodeKind::kernel, [launch, arguments, check_arguments]() mutable {
                         check_arguments(launch);
                         launch.arguments = arguments->pointers();
                         run(launch);
                       }});
}

}  // namespace

void register_kernel(const void* function, const Kernel& kernel) {
  const std::scoped_lock lock(runtime_lock());
  const auto [entry, first] = known_kernels().try_emplace(function);
  if (first) entry->second = {kernel, symbol_name(function)};
}

}  // namespace coppice::cuda_on_host

using namespace coppice::cuda_on_host;

extern "C" {

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  return call(__func__, [&] { return launch_later(*config, function, arguments); });
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t dynamic_shared, cudaStream_t stream) {
  return call(__func__, [&] {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = dynamic_shared;
    config.stream = stream;
    return launch_later(config, function, arguments);
  });
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  return call(__func__, [&] {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;  // hints
    if (value < 0 || static_cast<size_t>(value) > Limits::kSharedPerBlockOptin) return cudaErrorInvalidValue;
    dynamic_shared_limits()[function] = static_cast<size_t>(value);
    return cudaSuccess;
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  return call(__func__, [&] {
    *attributes = {};
    attributes->maxThreadsPerBlock = Limits::kThreadsPerBlock;
    attributes->maxDynamicSharedSizeBytes = static_cast<int>(dynamic_shared_limit(function));
    attributes->numRegs = 32;
    attributes->binaryVersion = attributes->ptxVersion = 80;
    return cudaSuccess;
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int threads,
                                                          size_t dynamic_shared) {
  return call(__func__, [&] {
    *blocks = resident_blocks(threads, dynamic_shared);
    return cudaSuccess;
  });
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int threads,
                                                                   size_t dynamic_shared, unsigned) {
  return call(__func__, [&] {
    *blocks = resident_blocks(threads, dynamic_shared);
    return cudaSuccess;
  });
}

}  // extern "C"
