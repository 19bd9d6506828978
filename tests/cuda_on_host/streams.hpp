#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <unordered_set>
#include <vector>

// Streams as queues: nothing runs before something waits for it, so that what was read too early is still
// old.
namespace coppice::cuda_on_host {

enum class NodeKind { kernel, copy, set, host_function, library, event, wait, graph };

/// A piece of work. Graphs run theirs again and again: it must leave what it captured as it was.
struct Node {
  NodeKind kind;
  std::function<void()> work;
};
using Nodes = std::vector<Node>;

/// One graph on the way, from the stream where it began and those that it was forked to.
struct Capture {
  CUstream_st* origin = nullptr;
  unsigned long long id = 0;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool invalidated = false;
  Nodes nodes;
  std::vector<CUstream_st*> streams;   // all that take part, the origin included
  std::vector<CUstream_st*> unjoined;  // forked, with work that the origin has not waited for
};

/// One recording of an event: a point in a stream, or a fork of a capture.
struct Record {
  CUstream_st* stream = nullptr;
  bool done = false;
  std::chrono::steady_clock::time_point time;
  std::shared_ptr<Capture> capture;
};

}  // namespace coppice::cuda_on_host

// The types that the toolkit's headers leave open.
struct CUstream_st {
  int device = 0;
  bool blocking = true;  // in order with the legacy stream
  int priority = 0;
  bool destroyed = false;
  std::deque<coppice::cuda_on_host::Node> queue;
  int64_t pushed = 0;
  int64_t ran = 0;
  std::shared_ptr<coppice::cuda_on_host::Capture> capture;  // null: none
};
struct CUevent_st {
  bool timed = true;
  bool destroyed = false;
  std::shared_ptr<coppice::cuda_on_host::Record> record;  // null: never
};
struct CUgraph_st {
  bool destroyed = false;
  std::shared_ptr<const coppice::cuda_on_host::Nodes> nodes;
};
struct CUgraphExec_st {
  bool destroyed = false;
  std::shared_ptr<const coppice::cuda_on_host::Nodes> nodes;
};

namespace coppice::cuda_on_host {

/// All that were ever made: what was destroyed stays, so that it is known when somebody uses it again.
template <class T>
struct Table {
  std::deque<T> all;
  std::unordered_set<const T*> known;
  T& make() {
    T& made = all.emplace_back();
    known.insert(&made);
    return made;
  }
};
struct Handles {
  Table<CUstream_st> streams;
  Table<CUevent_st> events;
  Table<CUgraph_st> graphs;
  Table<CUgraphExec_st> executables;
  std::vector<std::shared_ptr<Capture>> captures;  // under way
  unsigned long long captures_begun = 0;
};
Handles& handles();

// What a handle stands for; a fault for one that was destroyed or never made.
CUstream_st& stream_of(cudaStream_t handle);
CUevent_st& event_of(cudaEvent_t handle);
CUgraph_st& graph_of(cudaGraph_t handle);
CUgraphExec_st& executable_of(cudaGraphExec_t handle);
bool is_legacy(const CUstream_st& stream);

/// Queues a node, or records it where the stream is being captured.
cudaError_t push(CUstream_st& stream, Node node);

/// One step of a stream, if any is left.
void step(CUstream_st& stream);
/// Runs a stream until so much of it ran.
void drain(CUstream_st& stream, int64_t position = INT64_MAX);
/// Runs every stream of every device, in turns that the order chooses.
void drain_all();
/// The legacy stream and all that are in order with it.
void drain_blocking();

// For calls that can't be made while anything, or this stream, is captured: an error that spoils the capture.
cudaError_t refuse_while_capturing();
cudaError_t refuse_while_capturing(CUstream_st& stream);

}  // namespace coppice::cuda_on_host
