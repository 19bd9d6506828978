#include "kernels/cuda/graph_cache.hpp"

#include <algorithm>

#include "kernels/cuda/status.hpp"

namespace coppice::cuda {

GraphCache::Entry& GraphCache::find(GraphKey key) {
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.key == key; });
  if (found != entries_.end()) {
    entries_.splice(entries_.begin(), entries_, found);
  } else {
    entries_.emplace_front();
    entries_.front().key = std::move(key);
    if (entries_.size() > capacity_) entries_.pop_back();
  }
  return entries_.front();
}

bool GraphCache::begin_capture() noexcept {
  // Thread-local: what this thread must not do in a capture fails instead of ending up outside of the graph,
  // and other threads of the program may do as they like.
  if (cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal) == cudaSuccess) return true;
  static_cast<void>(cudaGetLastError());  // a refused capture is no failure of the calls after it
  return false;
}

GraphCache::Graph GraphCache::end_capture(bool complete) noexcept {
  cudaGraph_t captured = nullptr;
  cudaGraphExec_t executable = nullptr;
  bool good = cudaStreamEndCapture(stream_, &captured) == cudaSuccess && captured != nullptr;
  good = good && complete && cudaGraphInstantiate(&executable, captured, 0) == cudaSuccess;
  if (captured != nullptr) static_cast<void>(cudaGraphDestroy(captured));
  if (good) return Graph(executable);
  static_cast<void>(cudaGetLastError());
  return nullptr;
}

void GraphCache::replay(const Entry& entry) {
  COPPICE_CUDA(cudaGraphLaunch(entry.graph.get(), stream_));
}

}  // namespace coppice::cuda
