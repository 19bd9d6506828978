// The backend's own calls of the runtime and the libraries: memory, uploads, opening and closing, calls that
// fail.

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.hpp"
#include "kernels/cuda/handles.hpp"
#include "kernels/cuda/memory.hpp"
#include "kernels/error.hpp"
#include "tests/cuda_on_host/emulator.hpp"

extern "C" coppice::Backend* coppice_open_backend(uint32_t abi, int index,
                                                  const coppice::BackendOptions& options, char* reason,
                                                  size_t size);

namespace coppice::cuda {
namespace {

namespace on_host = cuda_on_host;

template <class F>
std::string message_of(ErrorKind kind, F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

std::unique_ptr<Backend> open(std::string& reason, const BackendOptions& options = {}, int index = 0,
                              uint32_t abi = kBackendAbi) {
  char text[512] = "";
  std::unique_ptr<Backend> backend(coppice_open_backend(abi, index, options, text, sizeof text));
  reason = text;
  return backend;
}

class Core : public testing::Test {
 protected:
  void TearDown() override { on_host::fail_nothing(); }
};
using Memory = Core;
using Uploads = Core;
using Opening = Core;

TEST_F(Memory, ReleasedBlocksAreGivenOutAgain) {
  DeviceMemory memory;
  void* const first = memory.allocate(1000, "a test");
  EXPECT_EQ(memory.bytes_in_use(), 1000);
  memory.release(first);
  EXPECT_EQ(memory.bytes_in_use(), 0);
  EXPECT_EQ(memory.bytes_reserved(), 1000);
  EXPECT_EQ(memory.allocate(990, "a test"), first) << "nearly as large";
  void* const other = memory.allocate(1000, "a test");
  EXPECT_NE(other, first);
  memory.release(first);
  void* const small = memory.allocate(100, "a test");
  EXPECT_NE(small, first) << "most of it would lie idle";
  memory.release(other);
  memory.release(small);
  memory.trim();
  EXPECT_EQ(memory.bytes_reserved(), 0);
}

TEST_F(Memory, WithoutTheCacheEveryBlockGoesBack) {
  const int64_t before = on_host::statistics().live_bytes;
  DeviceMemory memory({.caching = false});
  memory.release(memory.allocate(1000, "a test"));
  EXPECT_EQ(memory.bytes_reserved(), 0);
  EXPECT_EQ(on_host::statistics().live_bytes, before);
}

TEST_F(Memory, TheBudgetHoldsAndIsNamed) {
  DeviceMemory memory({.budget_bytes = 10'000});
  void* const half = memory.allocate(5000, "one half");
  const std::string refused =
      message_of(ErrorKind::out_of_memory, [&] { memory.allocate(6000, "the other half"); });
  for (const char* part : {"the other half", "6000 bytes wanted", "5000 in use of the 10000 allowed"}) {
    EXPECT_NE(refused.find(part), std::string::npos) << refused;
  }
  memory.release(half);
  memory.release(memory.allocate(9000, "what the cache makes room for"));
}

TEST_F(Memory, WhatIsCachedGoesBackWhenTheDriverHasNoMore) {
  DeviceMemory memory;
  memory.release(memory.allocate(1000, "a test"));
  on_host::fail_call("cudaMalloc", 0, cudaErrorMemoryAllocation);
  memory.release(memory.allocate(5000, "a test"));
  EXPECT_EQ(memory.bytes_reserved(), 5000);
  on_host::fail_call("cudaMalloc", 0, cudaErrorMemoryAllocation, 2);
  message_of(ErrorKind::out_of_memory, [&] { memory.allocate(50'000, "a test"); });
  EXPECT_EQ(memory.bytes_in_use(), 0);
}

TEST_F(Memory, NothingIsAllocatedInACapture) {
  const Stream stream = make_stream();
  DeviceMemory memory({.stream = stream.get()});
  memory.release(memory.allocate(1000, "a test"));
  ASSERT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
  const std::string refused =
      message_of(ErrorKind::failure, [&] { memory.allocate(1000, "somebody's scratch"); });
  EXPECT_NE(refused.find("somebody's scratch"), std::string::npos) << refused;
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_F(Memory, OutgrownScratchMayBeKept) {
  DeviceMemory memory;
  Scratch scratch(memory, "a test");
  scratch.keep_outgrown();
  float* const small = scratch.reserve<float>(10);
  EXPECT_EQ(scratch.reserve<float>(5), small);
  EXPECT_NE(scratch.reserve<float>(100), small);
  EXPECT_EQ(memory.bytes_in_use(), 64 + 400);  // a graph may still write to the first
}

// Small ones that share a piece, and ones of several pieces: the host's memory is used again at once, and the
// device has not run yet.
TEST_F(Uploads, HostMemoryMayBeUsedAgainAtOnce) {
  std::string reason;
  const auto backend = open(reason);
  ASSERT_NE(backend, nullptr) << reason;
  for (const int64_t bytes : {int64_t{1}, int64_t{1000}, int64_t{1} << 20, (int64_t{9} << 20) + 5}) {
    const int times = bytes < 10'000 ? 3000 : 2;
    const Buffer buffer(*backend, bytes * times, "a test");
    std::vector<unsigned char> host(static_cast<size_t>(bytes));
    for (int i = 0; i < times; ++i) {
      std::memset(host.data(), i % 251, host.size());
      backend->upload(host.data(), static_cast<char*>(buffer.data()) + i * bytes, bytes);
    }
    std::vector<unsigned char> all(static_cast<size_t>(bytes * times));
    backend->download(buffer.data(), all.data(), bytes * times);
    for (size_t i = 0; i < all.size(); ++i)
      ASSERT_EQ(all[i], i / host.size() % 251) << bytes << " bytes, at " << i;
  }
}

TEST_F(Opening, NothingIsLeftBehind) {
  const int64_t before = on_host::statistics().live_objects;
  std::string reason;
  auto backend = open(reason);
  ASSERT_NE(backend, nullptr) << reason;
  { const Buffer buffer(*backend, 1000, "a test"); }
  EXPECT_GT(on_host::statistics().live_objects, before);
  backend.reset();
  EXPECT_EQ(on_host::statistics().live_objects, before);
}

TEST_F(Opening, GivesItsReasons) {
  std::string reason;
  EXPECT_EQ(open(reason, {}, 0, kBackendAbi + 1), nullptr);
  EXPECT_NE(reason.find("another release"), std::string::npos) << reason;
  EXPECT_EQ(open(reason, {}, 1), nullptr);
  EXPECT_EQ(reason, "there is no device cuda:1; this machine has one GPU, cuda:0");
  for (const int status : {cudaErrorInsufficientDriver, cudaErrorNoDevice, cudaErrorStubLibrary}) {
    on_host::fail_call("cudaGetDeviceCount", 0, status);
    EXPECT_EQ(open(reason), nullptr);
    EXPECT_EQ(reason.substr(0, 8), "no GPU: ") << reason;
    on_host::fail_nothing();
  }
  EXPECT_EQ(open(reason, {.memory_bytes = 1000}), nullptr);
  EXPECT_NE(reason.find("no memory on the GPU for cuBLAS"), std::string::npos) << reason;
  char none[1] = "";
  EXPECT_EQ(coppice_open_backend(0, 0, {}, none, 0), nullptr)
      << "no room for a reason is no reason to write one";
}

// Whatever call fails while a backend opens: a reason comes back, and nothing is left behind.
TEST_F(Opening, EveryCallMayFail) {
  const int64_t before = on_host::statistics().live_objects;
  for (const char* call :
       {"cudaDeviceGetAttribute", "cudaStreamCreateWithFlags", "cudaMalloc", "cublasCreate",
        "cublasSetStream", "cublasSetWorkspace", "cusparseCreate", "cusparseSetStream"}) {
    SCOPED_TRACE(call);
    const bool library = std::strncmp(call, "cu", 2) == 0 && std::strncmp(call, "cuda", 4) != 0;
    on_host::fail_call(call, 0, library ? 1 : static_cast<int>(cudaErrorUnknown));
    std::string reason;
    EXPECT_EQ(open(reason), nullptr);
    EXPECT_NE(reason.find("from "), std::string::npos) << reason;
    on_host::fail_nothing();
    EXPECT_EQ(on_host::statistics().live_objects, before);
  }
}

TEST_F(Opening, AProductThatFailsSaysWhichCall) {
  std::string reason;
  const auto backend = open(reason);
  ASSERT_NE(backend, nullptr) << reason;
  const Buffer buffer(*backend, 4 * 64, "a test");
  const auto weight = backend->dense_weight(buffer.matrix<const float>(4, 4));
  on_host::fail_call("cublasGemmEx_64", 0, CUBLAS_STATUS_EXECUTION_FAILED);
  const std::string refused = message_of(ErrorKind::failure, [&] {
    weight->multiply(buffer.matrix<const float>(4, 4, 16), {}, buffer.matrix<float>(4, 4, 32));
  });
  for (const char* part : {"cuBLAS", "CUBLAS_STATUS_EXECUTION_FAILED", "cublasGemmEx_64", "dense.cpp"}) {
    EXPECT_NE(refused.find(part), std::string::npos) << refused;
  }
}

}  // namespace
}  // namespace coppice::cuda
