#include "tests/cuda_on_host/streams.hpp"

#include <algorithm>
#include <iterator>

#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/memory.hpp"
#include "tests/cuda_on_host/runtime.hpp"
#include "tests/cuda_on_host/settings.hpp"

namespace coppice::cuda_on_host {
namespace {

template <class T>
T& find(Table<T>& table, T* handle, const char* what) {
  if (!table.known.contains(handle))
    fault("destroyed handle", "{} is no {}", static_cast<void*>(handle), what);
  if (handle->destroyed) fault("destroyed handle", "{} {} was destroyed", what, static_cast<void*>(handle));
  return *handle;
}

/// The stream that the null handle means, one for each device.
CUstream_st& legacy_stream(int device) {
  static auto* const streams = new std::deque<CUstream_st>;
  for (int next = static_cast<int>(streams->size()); next <= device; ++next)
    streams->emplace_back().device = next;
  return (*streams)[static_cast<size_t>(device)];
}

CUstream_st& thread_stream() {
  thread_local CUstream_st stream;
  return stream;
}

std::vector<CUstream_st*> live_streams() {
  std::vector<CUstream_st*> streams;
  for (int device = 0; device < settings().devices; ++device) streams.push_back(&legacy_stream(device));
  streams.push_back(&thread_stream());
  for (CUstream_st& stream : handles().streams.all)
    if (!stream.destroyed) streams.push_back(&stream);
  return streams;
}

void drain_in_turns(const std::vector<CUstream_st*>& streams) {
  const DeviceAccess access;
  for (;;) {
    std::vector<CUstream_st*> left;
    std::copy_if(streams.begin(), streams.end(), std::back_inserter(left),
                 [](const CUstream_st* stream) { return !stream->queue.empty(); });
    if (left.empty()) return;
    size_t chosen = 0;
    if (settings().order == Order::reverse) chosen = left.size() - 1;
    if (settings().order == Order::random) chosen = chance().below(static_cast<uint32_t>(left.size()));
    step(*left[chosen]);
  }
}

void queue(CUstream_st& stream, Node node) {
  stream.queue.push_back(std::move(node));
  ++stream.pushed;
}

/// The stream goes on when the other one has run what it holds by now.
void queue_wait(CUstream_st& stream, CUstream_st& other) {
  if (other.queue.empty()) return;
  queue(stream, {NodeKind::wait, [&other, position = other.pushed] { drain(other, position); }});
}

cudaError_t record(CUstream_st& stream, Node node) {
  Capture& capture = *stream.capture;
  if (capture.invalidated) return cudaErrorStreamCaptureInvalidated;
  capture.nodes.push_back(std::move(node));
  const bool known =
      std::find(capture.unjoined.begin(), capture.unjoined.end(), &stream) != capture.unjoined.end();
  if (&stream != capture.origin && !known) capture.unjoined.push_back(&stream);
  return cudaSuccess;
}

}  // namespace

Handles& handles() {
  static auto* const instance = new Handles;
  return *instance;
}

CUstream_st& stream_of(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return legacy_stream(current_device());
  if (handle == cudaStreamPerThread) return thread_stream();
  return find(handles().streams, handle, "stream");
}
CUevent_st& event_of(cudaEvent_t handle) {
  return find(handles().events, handle, "event");
}
CUgraph_st& graph_of(cudaGraph_t handle) {
  return find(handles().graphs, handle, "graph");
}
CUgraphExec_st& executable_of(cudaGraphExec_t handle) {
  return find(handles().executables, handle, "executable graph");
}
bool is_legacy(const CUstream_st& stream) {
  return &stream == &legacy_stream(stream.device);
}

cudaError_t push(CUstream_st& stream, Node node) {
  if (stream.capture != nullptr) return record(stream, std::move(node));
  if (is_legacy(stream)) {
    for (const auto& capture : handles().captures) {
      if (!capture->origin->blocking) continue;
      capture->invalidated = true;
      return cudaErrorStreamCaptureImplicit;
    }
    for (CUstream_st* other : live_streams())
      if (other != &stream && other->blocking && other->device == stream.device) queue_wait(stream, *other);
  } else if (stream.blocking) {
    queue_wait(stream, legacy_stream(stream.device));
  }
  queue(stream, std::move(node));
  return cudaSuccess;
}

void step(CUstream_st& stream) {
  if (stream.queue.empty()) return;
  const DeviceAccess access;
  const Node node = std::move(stream.queue.front());
  stream.queue.pop_front();
  ++stream.ran;
  node.work();
}

void drain(CUstream_st& stream, int64_t position) {
  const DeviceAccess access;
  while (stream.ran < position && !stream.queue.empty()) step(stream);
}

void drain_all() {
  drain_in_turns(live_streams());
}

void drain_blocking() {
  std::vector<CUstream_st*> streams = live_streams();
  std::erase_if(streams, [](const CUstream_st* stream) { return !stream->blocking; });
  drain_in_turns(streams);
}

cudaError_t refuse_while_capturing() {
  cudaError_t status = cudaSuccess;
  for (const auto& capture : handles().captures) {
    if (capture->mode == cudaStreamCaptureModeRelaxed) continue;
    capture->invalidated = true;
    status = cudaErrorStreamCaptureUnsupported;
  }
  return status;
}

cudaError_t refuse_while_capturing(CUstream_st& stream) {
  if (stream.capture == nullptr) return cudaSuccess;
  stream.capture->invalidated = true;
  return cudaErrorStreamCaptureUnsupported;
}

void enqueue(cudaStream_t handle, std::function<void()> work, const char* what) {
  const std::scoped_lock lock(runtime_lock());
  const auto named = [work = std::move(work), what] {
    running_library_call() = what;
    work();
    running_library_call() = nullptr;
  };
  record_error(push(stream_of(handle), {NodeKind::library, named}));
}

bool capturing(cudaStream_t handle) {
  const std::scoped_lock lock(runtime_lock());
  return stream_of(handle).capture != nullptr;
}

}  // namespace coppice::cuda_on_host
