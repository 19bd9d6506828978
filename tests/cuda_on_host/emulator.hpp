#pragma once

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

// What runs the CUDA backend on the host: the part that the fake libraries and the tests talk to. The
// runtime's own functions are in fake_runtime.cpp, what kernels see is in shim.hpp.
//
// Settings from the environment, read once, when the first call is made:
//   COPPICE_CUDA_ORDER=forward|reverse|random:SEED   in which order threads and blocks run (forward)
//   COPPICE_CUDA_FAIL=CALL:AFTER:STATUS[:TIMES],...  calls that fail, see fail_call
//   COPPICE_CUDA_DEVICES=N                           how many devices there are (1)
//   COPPICE_CUDA_TOTAL_MEMORY=BYTES                        what each of them has (4 GiB)
//   COPPICE_CUDA_MULTIPROCESSORS=N                   how many blocks' worth of hardware (4)
namespace coppice::cuda_on_host {

// ---- Work ----

/// Puts `work` into the stream: it runs in stream order, with device memory accessible, and not before
/// something waits for the stream. A stream that is being captured records it instead, and every launch of
/// the graph runs it again: what it captures by value is frozen, as a node's parameters are. `what` names it
/// in messages.
void enqueue(cudaStream_t stream, std::function<void()> work, const char* what = "library call");

/// A fault unless [data, data + bytes) lies inside one live device allocation. For code that AddressSanitizer
/// does not see (BLAS, masked loads); to be called when the work runs, not when it is queued. Zero bytes are
/// always fine.
void require_device(const void* data, size_t bytes, const char* what);
/// The same for memory that the host reads or writes at once: a fault if any of it is device memory.
void require_host(const void* data, size_t bytes, const char* what);

/// Whether the stream is being captured right now, so that calls that can't be captured may refuse.
bool capturing(cudaStream_t stream);

// ---- Faults ----

/// What a process that made a mistake exits with.
inline constexpr int kFaultExitCode = 86;

/// Prints "cuda_on_host: KIND: TEXT [kernel K, block (x,y,z), thread (x,y,z)]" on standard error and ends the
/// process.
[[noreturn]] void fault_text(std::string_view kind, std::string_view text);
template <class... Arguments>
[[noreturn]] void fault(std::string_view kind, fmt::format_string<Arguments...> format,
                        Arguments&&... arguments) {
  fault_text(kind, fmt::format(format, std::forward<Arguments>(arguments)...));
}

/// Makes a call fail: the next `after` calls of that name work, then `times` calls return `status` without
/// doing anything. Names are those of the public functions ("cudaMalloc", "cublasSgemm", "cusparseSpMM").
void fail_call(std::string_view call, int after, int status, int times = 1);
/// Forgets all of them.
void fail_nothing();
/// What this call is to return instead of working; 0: it works. Every fake function asks once, first of all.
int injected(const char* call);

// ---- Order ----

/// Forward and reverse run one block after the other. Random also mixes a few blocks, lets go at atomics and,
/// where several streams have work, picks one by chance; the same seed gives the same run.
enum class Order { forward, reverse, random };
void set_order(Order order, uint64_t seed = 1);

// ---- The device ----

void set_device_count(int devices);
void set_device_memory(size_t bytes);
void set_multiprocessors(int count);

struct Statistics {
  int64_t launches = 0;      // of kernels, those of graphs included
  int64_t threads = 0;       // run to their end
  int64_t switches = 0;      // between fibers
  int64_t live_bytes = 0;    // device memory that nobody freed yet
  int64_t live_objects = 0;  // device and pinned blocks, streams, events, graphs that nobody destroyed yet
  std::string last_kernel;   // its name, demangled
};
Statistics statistics();

}  // namespace coppice::cuda_on_host
