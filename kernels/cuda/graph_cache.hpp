#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <list>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/tensor.hpp"

namespace coppice::cuda {

/// Everything that a captured piece of work has baked in, so that work of equal keys is the same work: each
/// pointer, size, stride and flag, and the versions of the weights that it multiplies by.
class GraphKey {
 public:
  template <class T>
  void add(T value) {
    if constexpr (std::is_pointer_v<T>) {
      words_.push_back(reinterpret_cast<uintptr_t>(value));
    } else {
      words_.push_back(static_cast<uint64_t>(value));
    }
  }
  template <class T>
  void add(const VectorView<T>& view) {
    add(view.data);
    add(view.size);
  }
  template <class T>
  void add(const MatrixView<T>& view) {
    add(view.data);
    add(view.rows);
    add(view.cols);
    add(view.stride);
  }
  friend bool operator==(const GraphKey&, const GraphKey&) = default;

 private:
  std::vector<uint64_t> words_;
};

/// The executable graphs of the work that was run last, by key. A time loop is hundreds of launches of a few
/// microseconds each; replayed as one graph, the host queues it in the time of a few of them.
///
/// The first run of a key is executed as it is: libraries allocate and choose their kernels then, which a
/// capture forbids, and work that never comes back (the last, shorter batch) is spared the capture. The
/// second is captured, and replayed from then on. Work that can't be captured runs as it is for good.
class GraphCache {
 public:
  /// Graphs of work on `stream`; the least recently used of more than `capacity` is dropped.
  explicit GraphCache(cudaStream_t stream, size_t capacity = 16) : stream_(stream), capacity_(capacity) {}

  /// Runs `work`, a function that queues on the stream and nothing else, or the graph of an earlier run of
  /// it.
  template <class Work>
  void run(GraphKey key, Work&& work) {
    Entry& entry = find(std::move(key));
    if (entry.state == State::warm) {
      entry.state = State::refused;
      if (begin_capture()) {
        bool complete = true;
        try {
          work();
        } catch (...) {  // what can't be captured; a true failure comes again below
          complete = false;
        }
        entry.graph = end_capture(complete);
        if (entry.graph != nullptr) entry.state = State::captured;
      }
    }
    if (entry.state == State::captured) return replay(entry);
    work();
    if (entry.state == State::unknown) entry.state = State::warm;
  }

 private:
  enum class State { unknown, warm, captured, refused };
  // A graph may be destroyed while it runs: the driver frees it when it is done.
  struct Destroy {
    void operator()(cudaGraphExec_t graph) const noexcept { static_cast<void>(cudaGraphExecDestroy(graph)); }
  };
  using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy>;
  struct Entry {
    GraphKey key;
    State state = State::unknown;
    Graph graph;
  };

  Entry& find(GraphKey key);
  bool begin_capture() noexcept;
  /// The captured work, ready to run; null when it was refused or is not `complete`.
  Graph end_capture(bool complete) noexcept;
  void replay(const Entry& entry);

  cudaStream_t stream_;
  size_t capacity_;
  std::list<Entry> entries_;  // the last one used is the first
};

}  // namespace coppice::cuda
