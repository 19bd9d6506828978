#include <cuda_runtime_api.h>

#include <chrono>

#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/memory.hpp"
#include "tests/cuda_on_host/runtime.hpp"
#include "tests/cuda_on_host/streams.hpp"

// Streams and events of the runtime.

using namespace coppice::cuda_on_host;

namespace {

cudaError_t create_stream(cudaStream_t* handle, unsigned flags, int priority) {
  if (handle == nullptr || (flags & ~unsigned{cudaStreamNonBlocking}) != 0) return cudaErrorInvalidValue;
  CUstream_st& stream = handles().streams.make();
  stream.device = current_device();
  stream.blocking = (flags & cudaStreamNonBlocking) == 0;
  stream.priority = priority;
  *handle = &stream;
  return cudaSuccess;
}

cudaError_t create_event(cudaEvent_t* handle, unsigned flags) {
  if (handle == nullptr) return cudaErrorInvalidValue;
  CUevent_st& event = handles().events.make();
  event.timed = (flags & cudaEventDisableTiming) == 0;
  *handle = &event;
  return cudaSuccess;
}

/// The event stands for what the stream holds by now.
cudaError_t record_event(CUevent_st& event, CUstream_st& stream) {
  auto record = std::make_shared<Record>();
  record->stream = &stream;
  record->capture = stream.capture;
  event.record = record;
  if (stream.capture != nullptr) return cudaSuccess;
  return push(stream, {NodeKind::event, [record] {
                         record->time = std::chrono::steady_clock::now();
                         record->done = true;
                       }});
}

void finish(const Record& record) {
  while (!record.done) step(*record.stream);
}

/// A stream waits for an event of a capture: it takes part from now on, or a fork of it comes home.
cudaError_t join(CUstream_st& stream, const Record& record) {
  Capture& capture = *record.capture;
  if (stream.capture == nullptr) {
    if (is_legacy(stream)) return cudaErrorStreamCaptureImplicit;
    stream.capture = record.capture;
    capture.streams.push_back(&stream);
  } else if (stream.capture != record.capture) {
    stream.capture->invalidated = capture.invalidated = true;
    return cudaErrorStreamCaptureMerge;
  }
  if (&stream != record.stream) std::erase(capture.unjoined, record.stream);
  if (&stream != capture.origin) capture.unjoined.push_back(&stream);
  return cudaSuccess;
}

cudaError_t wait_event(CUstream_st& stream, const CUevent_st& event) {
  const std::shared_ptr<Record> record = event.record;
  if (record == nullptr) return cudaSuccess;
  if (record->capture != nullptr) return join(stream, *record);
  if (stream.capture != nullptr) {
    stream.capture->invalidated = true;
    return cudaErrorStreamCaptureIsolation;
  }
  return push(stream, {NodeKind::wait, [record] { finish(*record); }});
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return call(__func__, [&] { return create_stream(stream, cudaStreamDefault, 0); });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return call(__func__, [&] { return create_stream(stream, flags, 0); });
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  return call(__func__, [&] { return create_stream(stream, flags, priority); });
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return call(__func__, [&] {
    CUstream_st& stream = stream_of(handle);
    if (is_legacy(stream)) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t refused = refuse_while_capturing(stream)) return refused;
    drain(stream);
    stream.destroyed = true;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return call(__func__, [&] {
    CUstream_st& stream = stream_of(handle);
    if (const cudaError_t refused = refuse_while_capturing(stream)) return refused;
    if (is_legacy(stream)) {
      drain_blocking();
    } else {
      drain(stream);
    }
    return cudaSuccess;
  });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return call(__func__, [&] {
    CUstream_st& stream = stream_of(handle);
    if (const cudaError_t refused = refuse_while_capturing(stream)) return refused;
    if (stream.queue.empty()) return cudaSuccess;
    step(stream);  // who asks again and again gets there
    return cudaErrorNotReady;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return call(__func__, [&] { return wait_event(stream_of(stream), event_of(event)); });
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
  return call(__func__, [&] {
    *flags = stream_of(handle).blocking ? cudaStreamDefault : cudaStreamNonBlocking;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
  return call(__func__, [&] {
    *priority = stream_of(handle).priority;
    return cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return call(__func__, [&] {
    return push(stream_of(stream), {NodeKind::host_function, [function, data] {
                                      const NoDeviceAccess none;
                                      function(data);
                                    }});
  });
}

cudaError_t cudaDeviceSynchronize() {
  return call(__func__, [&] {
    if (const cudaError_t refused = refuse_while_capturing()) return refused;
    drain_all();
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return call(__func__, [&] { return create_event(event, cudaEventDefault); });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return call(__func__, [&] { return create_event(event, flags); });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return call(__func__, [&] {
    event_of(event).destroyed = true;
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call(__func__, [&] { return record_event(event_of(event), stream_of(stream)); });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  return call(__func__, [&] {
    const std::shared_ptr<Record> record = event_of(handle).record;
    if (record == nullptr) return cudaSuccess;
    if (record->capture != nullptr) {
      record->capture->invalidated = true;
      return cudaErrorCapturedEvent;
    }
    finish(*record);
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  return call(__func__, [&] {
    const std::shared_ptr<Record> record = event_of(handle).record;
    if (record == nullptr || record->done) return cudaSuccess;
    if (record->capture != nullptr) {
      record->capture->invalidated = true;
      return cudaErrorCapturedEvent;
    }
    step(*record->stream);
    return cudaErrorNotReady;
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t first, cudaEvent_t second) {
  return call(__func__, [&] {
    const CUevent_st& begin = event_of(first);
    const CUevent_st& end = event_of(second);
    if (!begin.timed || !end.timed || begin.record == nullptr || end.record == nullptr)
      return cudaErrorInvalidResourceHandle;
    if (!begin.record->done || !end.record->done) return cudaErrorNotReady;
    *milliseconds = std::chrono::duration<float, std::milli>(end.record->time - begin.record->time).count();
    return cudaSuccess;
  });
}

}  // extern "C"
