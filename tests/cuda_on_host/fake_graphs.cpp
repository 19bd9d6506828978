#include <cuda_runtime_api.h>

#include <algorithm>

#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/runtime.hpp"
#include "tests/cuda_on_host/streams.hpp"

// Capturing a stream, and launching what was captured.

using namespace coppice::cuda_on_host;

namespace {

cudaError_t begin_capture(CUstream_st& stream, cudaStreamCaptureMode mode) {
  if (is_legacy(stream)) return cudaErrorStreamCaptureUnsupported;
  if (stream.capture != nullptr) return cudaErrorIllegalState;
  auto capture = std::make_shared<Capture>();
  capture->origin = &stream;
  capture->id = ++handles().captures_begun;
  capture->mode = mode;
  capture->streams.push_back(&stream);
  stream.capture = capture;
  handles().captures.push_back(std::move(capture));
  return cudaSuccess;
}

cudaError_t end_capture(CUstream_st& stream, cudaGraph_t* graph) {
  *graph = nullptr;
  const std::shared_ptr<Capture> capture = stream.capture;
  if (capture == nullptr) return cudaErrorIllegalState;
  if (capture->origin != &stream) {
    capture->invalidated = true;
    return cudaErrorStreamCaptureUnmatched;
  }
  for (CUstream_st* participant : capture->streams) participant->capture = nullptr;
  std::erase(handles().captures, capture);
  if (capture->invalidated) return cudaErrorStreamCaptureInvalidated;
  if (!capture->unjoined.empty()) return cudaErrorStreamCaptureUnjoined;
  CUgraph_st& made = handles().graphs.make();
  made.nodes = std::make_shared<const Nodes>(std::move(capture->nodes));
  *graph = &made;
  return cudaSuccess;
}

cudaStreamCaptureStatus capture_status(const CUstream_st& stream) {
  if (stream.capture == nullptr) return cudaStreamCaptureStatusNone;
  return stream.capture->invalidated ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
}

cudaError_t instantiate(cudaGraphExec_t* executable, CUgraph_st& graph) {
  CUgraphExec_st& made = handles().executables.make();
  made.nodes = graph.nodes;
  *executable = &made;
  return cudaSuccess;
}

bool same_shape(const Nodes& a, const Nodes& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Node& x, const Node& y) { return x.kind == y.kind; });
}

}  // namespace

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return call(__func__, [&] { return begin_capture(stream_of(stream), mode); });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return call(__func__, [&] { return end_capture(stream_of(stream), graph); });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return call(__func__, [&] {
    *status = capture_status(stream_of(stream));
    return cudaSuccess;
  });
}

#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies, const cudaGraphEdgeData** edges,
                                     size_t* count) {
  return call(__func__, [&] {
    // The graph on its way has no handle here: it is for adding nodes by hand.
    if (graph != nullptr || dependencies != nullptr || edges != nullptr || count != nullptr)
      return cudaErrorNotSupported;
    const CUstream_st& stream = stream_of(handle);
    *status = capture_status(stream);
    if (id != nullptr && stream.capture != nullptr) *id = stream.capture->id;
    return cudaSuccess;
  });
}
#endif

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  return call(__func__, [&] { return instantiate(executable, graph_of(graph)); });
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph,
                                          unsigned long long) {
  return call(__func__, [&] { return instantiate(executable, graph_of(graph)); });
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t handle, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo* info) {
  return call(__func__, [&] {
    CUgraphExec_st& executable = executable_of(handle);
    const CUgraph_st& source = graph_of(graph);
    const bool fits = same_shape(*executable.nodes, *source.nodes);
    *info = {};
    info->result = fits ? cudaGraphExecUpdateSuccess : cudaGraphExecUpdateErrorTopologyChanged;
    if (!fits) return cudaErrorGraphExecUpdateFailure;
    executable.nodes = source.nodes;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t stream) {
  return call(__func__, [&] {
    executable_of(executable);
    stream_of(stream);
    return cudaSuccess;
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return call(__func__, [&] {
    const auto run = [nodes = executable_of(executable).nodes] {
      for (const Node& node : *nodes) node.work();
    };
    return push(stream_of(stream), {NodeKind::graph, run});
  });
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  return call(__func__, [&] {
    if (nodes != nullptr) return cudaErrorNotSupported;
    *count = graph_of(graph).nodes->size();
    return cudaSuccess;
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return call(__func__, [&] {
    graph_of(graph).destroyed = true;
    graph->nodes = nullptr;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return call(__func__, [&] {
    executable_of(executable).destroyed = true;
    executable->nodes = nullptr;
    return cudaSuccess;
  });
}

}  // extern "C"
