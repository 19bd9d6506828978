#include <cuda_runtime_api.h>

#include <cstring>
#include <memory>

#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/memory.hpp"
#include "tests/cuda_on_host/runtime.hpp"
#include "tests/cuda_on_host/settings.hpp"
#include "tests/cuda_on_host/streams.hpp"

// Memory of the runtime: allocating, copying, setting.

using namespace coppice::cuda_on_host;

namespace {

/// Rows of bytes; a plain copy is one row.
struct Rows {
  const void* data;
  size_t pitch;
};
struct Copy {
  void* to;
  size_t to_pitch;
  Rows from;
  size_t width;
  size_t height;
  cudaMemcpyKind kind;

  size_t extent(size_t pitch) const { return (height - 1) * pitch + width; }
  bool to_device() const { return is_device(to); }
  bool from_device() const { return is_device(from.data); }
};

const char* name(cudaMemcpyKind kind) {
  switch (kind) {
    case cudaMemcpyHostToDevice:
      return "cudaMemcpyHostToDevice";
    case cudaMemcpyDeviceToHost:
      return "cudaMemcpyDeviceToHost";
    case cudaMemcpyDeviceToDevice:
      return "cudaMemcpyDeviceToDevice";
    case cudaMemcpyHostToHost:
      return "cudaMemcpyHostToHost";
    default:
      return "cudaMemcpyDefault";
  }
}

void check_side(const Copy& copy, const void* data, size_t pitch, bool named_device, const char* what) {
  const bool device = is_device(data);
  if (copy.kind != cudaMemcpyDefault && device != named_device)
    fault("copy direction", "{}, but the {} is {} memory", name(copy.kind), what, device ? "device" : "host");
  if (device) {
    require_device(data, copy.extent(pitch), what);
  } else {
    require_host(data, copy.extent(pitch), what);
  }
}

void check(const Copy& copy) {
  const bool to_device = copy.kind == cudaMemcpyHostToDevice || copy.kind == cudaMemcpyDeviceToDevice;
  const bool from_device = copy.kind == cudaMemcpyDeviceToHost || copy.kind == cudaMemcpyDeviceToDevice;
  check_side(copy, copy.to, copy.to_pitch, to_device, "destination of the copy");
  check_side(copy, copy.from.data, copy.from.pitch, from_device, "source of the copy");
}

void perform(const Copy& copy) {
  const DeviceAccess access;
  for (size_t row = 0; row < copy.height; ++row)
    std::memmove(static_cast<char*>(copy.to) + row * copy.to_pitch,
                 static_cast<const char*>(copy.from.data) + row * copy.from.pitch, copy.width);
}

bool refused(const Copy& copy) {
  return copy.width > copy.to_pitch || copy.width > copy.from.pitch || copy.kind < cudaMemcpyHostToHost ||
         copy.kind > cudaMemcpyDefault;
}

cudaError_t copy_now(const Copy& copy) {
  if (const cudaError_t error = refuse_while_capturing()) return error;
  if (copy.width == 0 || copy.height == 0) return cudaSuccess;
  if (refused(copy)) return copy.height == 1 ? cudaErrorInvalidValue : cudaErrorInvalidPitchValue;
  drain_blocking();
  check(copy);
  perform(copy);
  return cudaSuccess;
}

cudaError_t copy_later(const Copy& copy, CUstream_st& stream) {
  if (copy.width == 0 || copy.height == 0) return cudaSuccess;
  if (refused(copy)) return copy.height == 1 ? cudaErrorInvalidValue : cudaErrorInvalidPitchValue;
  check(copy);
  const bool from_pageable = find_block(copy.from.data) == nullptr;
  const bool to_pageable = find_block(copy.to) == nullptr;
  // The device can't copy from or to memory that may be paged out while the host goes on, so the runtime does
  // it in steps: what comes from there was read when the call returns, what goes there has arrived. A graph
  // can't do either.
  if (from_pageable || to_pageable)
    if (const cudaError_t error = refuse_while_capturing(stream)) return error;
  if (to_pageable) {
    drain(stream);
    check(copy);
    perform(copy);
    return cudaSuccess;
  }
  if (from_pageable) {
    auto staged = std::make_shared<std::unique_ptr<char[]>>(new char[copy.width * copy.height]);
    Copy in = copy;
    in.to = staged->get();
    in.to_pitch = copy.width;
    perform(in);
    Copy out = copy;
    out.from = {staged->get(), copy.width};
    return push(stream, {NodeKind::copy, [staged, out] {
                           check(out);
                           perform(out);
                         }});
  }
  return push(stream, {NodeKind::copy, [copy] {
                         check(copy);
                         perform(copy);
                       }});
}

void set(void* data, int value, size_t bytes) {
  const DeviceAccess access;
  require_device(data, bytes, "memory to set");
  std::memset(data, value, bytes);
}

cudaError_t set_later(void* data, int value, size_t bytes, CUstream_st& stream) {
  if (bytes == 0) return cudaSuccess;
  require_device(data, bytes, "memory to set");
  return push(stream, {NodeKind::set, [=] { set(data, value, bytes); }});
}

cudaError_t allocate_host(void** data, size_t bytes) {
  *data = nullptr;
  if (const cudaError_t error = refuse_while_capturing()) return error;
  if (bytes == 0) return cudaSuccess;
  *data = allocate_pinned(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** data, size_t bytes) {
  return call(__func__, [&] {
    *data = nullptr;
    if (const cudaError_t error = refuse_while_capturing()) return error;
    if (bytes == 0) return cudaSuccess;
    *data = allocate_device(current_device(), bytes);
    return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
  });
}

cudaError_t cudaFree(void* data) {
  return call(__func__, [&] {
    if (data == nullptr) return cudaSuccess;
    if (const cudaError_t error = refuse_while_capturing()) return error;
    drain_all();
    if (!release_device(data)) fault("bad free", "cudaFree of {}, which is no live device allocation", data);
    return cudaSuccess;
  });
}

cudaError_t cudaMallocHost(void** data, size_t bytes) {
  return call(__func__, [&] { return allocate_host(data, bytes); });
}
cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  return call(__func__, [&] { return allocate_host(data, bytes); });
}

cudaError_t cudaFreeHost(void* data) {
  return call(__func__, [&] {
    if (data == nullptr) return cudaSuccess;
    if (const cudaError_t error = refuse_while_capturing()) return error;
    drain_all();
    if (!release_pinned(data))
      fault("bad free", "cudaFreeHost of {}, which is no live page-locked block", data);
    return cudaSuccess;
  });
}

cudaError_t cudaMemGetInfo(size_t* left, size_t* total) {
  return call(__func__, [&] {
    *total = settings().device_memory;
    *left = *total - device_bytes(current_device());
    return cudaSuccess;
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
  return call(__func__, [&] {
    *attributes = {};
    const Block* block = find_block(data);
    attributes->type = cudaMemoryTypeUnregistered;
    if (block == nullptr) return cudaSuccess;
    attributes->type = block->device ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
    attributes->device = block->index;
    attributes->devicePointer = const_cast<void*>(data);
    if (!block->device) attributes->hostPointer = const_cast<void*>(data);
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return call(__func__, [&] { return copy_now({to, bytes, {from, bytes}, bytes, 1, kind}); });
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return call(__func__, [&] {
    return copy_later({to, bytes, {from, bytes}, bytes, 1, kind}, stream_of(stream));
  });
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                         size_t height, cudaMemcpyKind kind) {
  return call(__func__, [&] { return copy_now({to, to_pitch, {from, from_pitch}, width, height, kind}); });
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return call(__func__, [&] {
    return copy_later({to, to_pitch, {from, from_pitch}, width, height, kind}, stream_of(stream));
  });
}

cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  return call(__func__, [&] { return set_later(data, value, bytes, stream_of(nullptr)); });
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  return call(__func__, [&] { return set_later(data, value, bytes, stream_of(stream)); });
}

}  // extern "C"
