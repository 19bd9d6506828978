#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/memory.hpp"
#include "tests/cuda_on_host/runtime.hpp"
#include "tests/cuda_on_host/scheduler.hpp"
#include "tests/cuda_on_host/settings.hpp"
#include "tests/cuda_on_host/streams.hpp"

// Errors, versions and devices of the runtime.

namespace coppice::cuda_on_host {
namespace {

cudaError_t& last_error() {
  thread_local cudaError_t error = cudaSuccess;
  return error;
}

}  // namespace

std::recursive_mutex& runtime_lock() {
  static auto* const lock = new std::recursive_mutex;
  return *lock;
}

int& current_device() {
  thread_local int device = 0;
  return device;
}

cudaError_t begin_call(const char* name) {
  if (kernel_is_running()) fault("host code", "a kernel calls {}", name);
  if (const int status = injected(name)) return static_cast<cudaError_t>(status);
  return settings().devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t record_error(cudaError_t status) {
  if (status != cudaSuccess) last_error() = status;
  return status;
}

Statistics statistics() {
  const std::scoped_lock lock(runtime_lock());
  Statistics result;
  const Counters& run = counters();
  result.launches = run.launches;
  result.threads = run.threads;
  result.switches = run.switches;
  result.last_kernel = run.last_kernel;
  for (int device = 0; device < settings().devices; ++device)
    result.live_bytes += static_cast<int64_t>(device_bytes(device));
  const auto live = [](const auto& table) {
    return std::count_if(table.all.begin(), table.all.end(), [](const auto& one) { return !one.destroyed; });
  };
  const Handles& made = handles();
  result.live_objects =
      live_blocks() + live(made.streams) + live(made.events) + live(made.graphs) + live(made.executables);
  return result;
}

}  // namespace coppice::cuda_on_host

using namespace coppice::cuda_on_host;

namespace {

struct ErrorText {
  cudaError_t code;
  const char* name;
  const char* text;
};
#define COPPICE_ERROR(code, text) \
  { code, #code, text }
constexpr ErrorText kErrors[] = {
    COPPICE_ERROR(cudaSuccess, "no error"),
    COPPICE_ERROR(cudaErrorInvalidValue, "invalid argument"),
    COPPICE_ERROR(cudaErrorMemoryAllocation, "out of memory"),
    COPPICE_ERROR(cudaErrorInitializationError, "initialization error"),
    COPPICE_ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    COPPICE_ERROR(cudaErrorInvalidPitchValue, "invalid pitch argument"),
    COPPICE_ERROR(cudaErrorInsufficientDriver,
                  "CUDA driver version is insufficient for CUDA runtime version"),
    COPPICE_ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
    COPPICE_ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    COPPICE_ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    COPPICE_ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    COPPICE_ERROR(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    COPPICE_ERROR(cudaErrorNotReady, "device not ready"),
    COPPICE_ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    COPPICE_ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    COPPICE_ERROR(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    COPPICE_ERROR(cudaErrorAssert, "device-side assert triggered"),
    COPPICE_ERROR(cudaErrorMisalignedAddress, "misaligned address"),
    COPPICE_ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    COPPICE_ERROR(cudaErrorCooperativeLaunchTooLarge, "too many blocks in cooperative launch"),
    COPPICE_ERROR(cudaErrorNotSupported, "operation not supported"),
    COPPICE_ERROR(cudaErrorNoKernelImageForDevice,
                  "no kernel image is available for execution on the device"),
    COPPICE_ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    COPPICE_ERROR(cudaErrorStreamCaptureInvalidated,
                  "operation failed due to a previous error during capture"),
    COPPICE_ERROR(cudaErrorStreamCaptureMerge,
                  "operation would result in a merge of separate capture sequences"),
    COPPICE_ERROR(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    COPPICE_ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    COPPICE_ERROR(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    COPPICE_ERROR(cudaErrorStreamCaptureImplicit,
                  "operation would make the legacy stream depend on a capturing blocking stream"),
    COPPICE_ERROR(cudaErrorCapturedEvent,
                  "operation not permitted on an event last recorded in a capturing stream"),
    COPPICE_ERROR(
        cudaErrorGraphExecUpdateFailure,
        "the graph update was not performed because it included changes which violated constraints"),
    COPPICE_ERROR(cudaErrorUnknown, "unknown error"),
};
#undef COPPICE_ERROR

const ErrorText* find_error(cudaError_t code) {
  const auto* found = std::find_if(std::begin(kErrors), std::end(kErrors),
                                   [code](const ErrorText& e) { return e.code == code; });
  return found == std::end(kErrors) ? nullptr : found;
}

cudaDeviceProp properties() {
  cudaDeviceProp p{};
  std::strcpy(p.name, "CUDA on the host");
  p.major = 8;
  p.minor = 0;
  p.totalGlobalMem = settings().device_memory;
  p.sharedMemPerBlock = Limits::kSharedPerBlock;
  p.sharedMemPerBlockOptin = Limits::kSharedPerBlockOptin;
  p.sharedMemPerMultiprocessor = Limits::kSharedPerMultiprocessor;
  p.reservedSharedMemPerBlock = Limits::kSharedReserved;
  p.regsPerBlock = 65536;
  p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  p.maxThreadsPerBlock = Limits::kThreadsPerBlock;
  p.maxThreadsPerMultiProcessor = Limits::kThreadsPerMultiprocessor;
  p.maxBlocksPerMultiProcessor = Limits::kBlocksPerMultiprocessor;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
  p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = INT32_MAX;
  p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.totalConstMem = 65536;
  p.multiProcessorCount = settings().multiprocessors;
  p.memPitch = INT32_MAX;
  p.l2CacheSize = 4 << 20;
  p.memoryBusWidth = 64;
  p.unifiedAddressing = 1;
  p.canMapHostMemory = 1;
  p.concurrentKernels = 1;
  p.asyncEngineCount = 1;
  p.cooperativeLaunch = 1;
  p.streamPrioritiesSupported = 1;
  return p;
}

cudaError_t attribute(cudaDeviceAttr which, int* value) {
  const cudaDeviceProp p = properties();
  switch (which) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = p.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxBlockDimX:
      *value = p.maxThreadsDim[0];
      break;
    case cudaDevAttrMaxGridDimX:
      *value = p.maxGridSize[0];
      break;
    case cudaDevAttrMaxGridDimY:
      *value = p.maxGridSize[1];
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(p.sharedMemPerBlock);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(p.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(p.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = static_cast<int>(p.reservedSharedMemPerBlock);
      break;
    case cudaDevAttrMaxRegistersPerBlock:
      *value = p.regsPerBlock;
      break;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *value = p.regsPerMultiprocessor;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = p.maxThreadsPerMultiProcessor;
      break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      *value = p.maxBlocksPerMultiProcessor;
      break;
    case cudaDevAttrWarpSize:
      *value = p.warpSize;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = p.multiProcessorCount;
      break;
    case cudaDevAttrL2CacheSize:
      *value = p.l2CacheSize;
      break;
    case cudaDevAttrClockRate:
      *value = 1'000'000;
      break;  // kHz
    case cudaDevAttrMemoryClockRate:
      *value = 1'000'000;
      break;  // kHz
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = p.memoryBusWidth;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = p.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = p.minor;
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = p.cooperativeLaunch;
      break;
    case cudaDevAttrConcurrentKernels:
      *value = p.concurrentKernels;
      break;
    case cudaDevAttrUnifiedAddressing:
      *value = p.unifiedAddressing;
      break;
    case cudaDevAttrIntegrated:
      *value = 0;
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 0;
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}

bool is_device_index(int device) {
  return device >= 0 && device < settings().devices;
}

}  // namespace

extern "C" {

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error();
  last_error() = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() {
  return last_error();
}

const char* cudaGetErrorName(cudaError_t code) {
  const ErrorText* error = find_error(code);
  return error == nullptr ? "unrecognized error code" : error->name;
}
const char* cudaGetErrorString(cudaError_t code) {
  const ErrorText* error = find_error(code);
  return error == nullptr ? "unrecognized error code" : error->text;
}

cudaError_t cudaDriverGetVersion(int* version) {
  if (const int status = injected(__func__)) return record_error(static_cast<cudaError_t>(status));
  *version = settings().devices == 0 ? 0 : CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(
    int* count) {  // where there is none, the real one leaves the argument alone, too
  return call(__func__, [&] {
    *count = settings().devices;
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return call(__func__, [&] {
    if (!is_device_index(device)) return cudaErrorInvalidDevice;
    current_device() = device;
    return cudaSuccess;
  });
}
cudaError_t cudaGetDevice(int* device) {
  return call(__func__, [&] {
    *device = current_device();
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* result, int device) {
  return call(__func__, [&] {
    if (!is_device_index(device)) return cudaErrorInvalidDevice;
    *result = properties();
    return cudaSuccess;
  });
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
  return call(__func__,
              [&] { return is_device_index(device) ? attribute(which, value) : cudaErrorInvalidDevice; });
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return call(__func__, [&] {
    *least = 0;
    *greatest = -1;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  return call(__func__, [&] {
    *can = 0;
    return cudaSuccess;
  });
}

}  // extern "C"
