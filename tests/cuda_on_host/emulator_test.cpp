#include "tests/cuda_on_host/emulator.hpp"

#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <vector>

#include "kernels/error.hpp"
#include "tests/cuda_on_host/faults.hpp"
#include "tests/cuda_on_host/on_device.hpp"

// What the emulated runtime does, where it could be taken for granted.
namespace coppice::cuda_on_host {
namespace {

class Stream {
 public:
  explicit Stream(unsigned flags = cudaStreamNonBlocking) {
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, flags), cudaSuccess);
  }
  ~Stream() { EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

TEST(Emulator, BuiltInFunctions) {
  for (const auto [order, seed] : kOrders) {
    set_order(order, seed);
    const OnDevice<int> wrong(std::vector<int>(128, -1));
    check_builtins(wrong.data(), 128, nullptr);
    EXPECT_EQ(wrong.values(), std::vector<int>(128, 0));
  }
  set_order(Order::forward);
}

TEST(Emulator, CountsAndNamesKernels) {
  const Statistics before = statistics();
  const OnDevice<int> x({0});
  add(x.data(), 1, nullptr);
  EXPECT_EQ(statistics().launches, before.launches);  // nobody has waited for it yet
  cudaDeviceSynchronize();
  EXPECT_EQ(statistics().launches, before.launches + 1);
  EXPECT_EQ(statistics().threads, before.threads + 1);
  EXPECT_EQ(statistics().last_kernel, "add_kernel");
  EXPECT_EQ(statistics().live_bytes, before.live_bytes + 4);
  EXPECT_EQ(statistics().live_objects, before.live_objects + 1);
}

TEST(Emulator, CopiesFromPageableMemoryAreReadAtOnce) {
  const Stream stream;
  const OnDevice<int> x({0});
  int host = 5;
  ASSERT_EQ(cudaMemcpyAsync(x.data(), &host, sizeof host, cudaMemcpyHostToDevice, stream), cudaSuccess);
  host = 6;
  EXPECT_EQ(x.values(), std::vector<int>{5});

  int* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&pinned), sizeof(int)), cudaSuccess);
  *pinned = 7;
  ASSERT_EQ(cudaMemcpyAsync(x.data(), pinned, sizeof(int), cudaMemcpyHostToDevice, stream), cudaSuccess);
  *pinned = 8;
  EXPECT_EQ(x.values(), std::vector<int>{8});
  ASSERT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST(Emulator, CopiesOfRows) {
  const OnDevice<int> x({1, 2, 3, 4, 5, 6});
  std::vector<int> y(8, 0);
  ASSERT_EQ(cudaMemcpy2D(y.data(), 16, x.data(), 12, 8, 2, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(y, (std::vector<int>{1, 2, 0, 0, 4, 5, 0, 0}));
  EXPECT_EQ(cudaMemcpy2D(y.data(), 16, x.data(), 4, 8, 2, cudaMemcpyDeviceToHost),
            cudaErrorInvalidPitchValue);
}

TEST(Emulator, EventsOrderStreams) {
  for (const auto [order, seed] : kOrders) {
    set_order(order, seed);
    const Stream first;
    const Stream second;
    cudaEvent_t event = nullptr;
    ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    const OnDevice<int> x({1});
    const OnDevice<int> y({0});
    add(x.data(), 1, first);
    ASSERT_EQ(cudaEventRecord(event, first), cudaSuccess);
    add(x.data(), 5, first);
    ASSERT_EQ(cudaStreamWaitEvent(second, event, 0), cudaSuccess);
    ASSERT_EQ(cudaMemcpyAsync(y.data(), x.data(), sizeof(int), cudaMemcpyDeviceToDevice, second),
              cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(second), cudaSuccess);
    int copied = 0;
    ASSERT_EQ(cudaMemcpy(&copied, y.data(), sizeof copied, cudaMemcpyDeviceToHost), cudaSuccess);
    EXPECT_EQ(copied, 2);
    EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
    ASSERT_EQ(cudaEventDestroy(event), cudaSuccess);
  }
  set_order(Order::forward);
}

TEST(Emulator, AskingAStreamMovesItOn) {
  const Stream stream;
  const OnDevice<int> x({0});
  add(x.data(), 1, stream);
  add(x.data(), 1, stream);
  int asked = 0;
  while (cudaStreamQuery(stream) == cudaErrorNotReady) ++asked;
  EXPECT_EQ(asked, 2);
  cudaGetLastError();
}

TEST(Emulator, TimesBetweenEvents) {
  const Stream stream;
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  ASSERT_EQ(cudaEventCreate(&begin), cudaSuccess);
  ASSERT_EQ(cudaEventCreate(&end), cudaSuccess);
  float milliseconds = -1;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, end), cudaErrorInvalidResourceHandle);
  ASSERT_EQ(cudaEventRecord(begin, stream), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(end, stream), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, end), cudaErrorNotReady);
  ASSERT_EQ(cudaEventSynchronize(end), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, end), cudaSuccess);
  EXPECT_GE(milliseconds, 0);
  ASSERT_EQ(cudaEventDestroy(begin), cudaSuccess);
  ASSERT_EQ(cudaEventDestroy(end), cudaSuccess);
  cudaGetLastError();
}

class Graphs : public testing::Test {
 protected:
  Stream stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;

  void begin() { ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), cudaSuccess); }
  void end() {
    ASSERT_EQ(cudaStreamEndCapture(stream_, &graph_), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&executable_, graph_, 0), cudaSuccess);
  }
  void TearDown() override {
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
    cudaGetLastError();
  }
};

TEST_F(Graphs, RunWhatWasCapturedAgainAndAgain) {
  const OnDevice<int> x({0});
  int by = 3;
  begin();
  EXPECT_TRUE(capturing(stream_));
  add(x.data(), by, stream_);
  enqueue(stream_, [data = x.data()] { *data *= 2; });
  end();
  EXPECT_FALSE(capturing(stream_));
  EXPECT_EQ(x.values(), std::vector<int>{0});  // captured, not run
  by = 100;                                    // too late: the graph holds a copy
  ASSERT_EQ(cudaGraphLaunch(executable_, stream_), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(executable_, stream_), cudaSuccess);
  EXPECT_EQ(x.values(), std::vector<int>{18});
}

TEST_F(Graphs, ReachStreamsThatWaitForTheirs) {
  const Stream other;
  cudaEvent_t forked = nullptr;
  cudaEvent_t joined = nullptr;
  ASSERT_EQ(cudaEventCreate(&forked), cudaSuccess);
  ASSERT_EQ(cudaEventCreate(&joined), cudaSuccess);
  const OnDevice<int> x({1});
  begin();
  ASSERT_EQ(cudaEventRecord(forked, stream_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(other, forked, 0), cudaSuccess);
  EXPECT_TRUE(capturing(other));
  add(x.data(), 1, other);
  ASSERT_EQ(cudaEventRecord(joined, other), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(stream_, joined, 0), cudaSuccess);
  end();
  EXPECT_FALSE(capturing(other));
  ASSERT_EQ(cudaGraphLaunch(executable_, stream_), cudaSuccess);
  EXPECT_EQ(x.values(), std::vector<int>{2});
  ASSERT_EQ(cudaEventDestroy(forked), cudaSuccess);
  ASSERT_EQ(cudaEventDestroy(joined), cudaSuccess);
}

TEST_F(Graphs, DontEndBeforeTheForkCameHome) {
  const Stream other;
  cudaEvent_t forked = nullptr;
  ASSERT_EQ(cudaEventCreate(&forked), cudaSuccess);
  const OnDevice<int> x({1});
  begin();
  ASSERT_EQ(cudaEventRecord(forked, stream_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(other, forked, 0), cudaSuccess);
  add(x.data(), 1, other);
  EXPECT_EQ(cudaStreamEndCapture(stream_, &graph_), cudaErrorStreamCaptureUnjoined);
  ASSERT_EQ(cudaEventDestroy(forked), cudaSuccess);
}

TEST_F(Graphs, AreSpoiltByWhatCantBeCaptured) {
  const OnDevice<int> x({1});
  int host = 0;
  void* data = nullptr;
  const std::function<cudaError_t()> calls[] = {
      [&] { return cudaMalloc(&data, 8); },
      [&] { return cudaMallocHost(&data, 8); },
      [&] { return cudaFree(x.data()); },
      [&] { return cudaStreamSynchronize(stream_); },
      [&] { return cudaDeviceSynchronize(); },
      [&] { return cudaMemcpy(&host, x.data(), sizeof host, cudaMemcpyDeviceToHost); },
      [&] { return cudaMemcpyAsync(&host, x.data(), sizeof host, cudaMemcpyDeviceToHost, stream_); },
      [&] { return cudaMemcpyAsync(x.data(), &host, sizeof host, cudaMemcpyHostToDevice, stream_); },
  };
  for (const auto& call : calls) {
    begin();
    EXPECT_EQ(call(), cudaErrorStreamCaptureUnsupported);
    cudaStreamCaptureStatus status{};
    EXPECT_EQ(cudaStreamIsCapturing(stream_, &status), cudaSuccess);
    EXPECT_EQ(status, cudaStreamCaptureStatusInvalidated);
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph_), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph_, nullptr);
  }
}

TEST_F(Graphs, TakeTheParametersOfAnother) {
  const OnDevice<int> x({0});
  begin();
  add(x.data(), 1, stream_);
  end();
  cudaGraph_t other = nullptr;
  begin();
  add(x.data(), 10, stream_);
  ASSERT_EQ(cudaStreamEndCapture(stream_, &other), cudaSuccess);
  cudaGraphExecUpdateResultInfo info{};
  EXPECT_EQ(cudaGraphExecUpdate(executable_, other, &info), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(executable_, stream_), cudaSuccess);
  EXPECT_EQ(x.values(), std::vector<int>{10});
  ASSERT_EQ(cudaGraphDestroy(other), cudaSuccess);

  begin();
  add(x.data(), 10, stream_);
  add(x.data(), 10, stream_);
  ASSERT_EQ(cudaStreamEndCapture(stream_, &other), cudaSuccess);
  EXPECT_EQ(cudaGraphExecUpdate(executable_, other, &info), cudaErrorGraphExecUpdateFailure);
  EXPECT_EQ(info.result, cudaGraphExecUpdateErrorTopologyChanged);
  ASSERT_EQ(cudaGraphDestroy(other), cudaSuccess);
}

TEST(Emulator, CallsThatAreToldToFail) {
  fail_call("cudaMalloc", 1, cudaErrorMemoryAllocation, 2);
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, 8), cudaSuccess);
  EXPECT_EQ(cudaFree(data), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&data, 8), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&data, 8), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&data, 8), cudaSuccess);
  EXPECT_EQ(cudaFree(data), cudaSuccess);
  EXPECT_STREQ(cudaGetErrorName(cudaErrorMemoryAllocation), "cudaErrorMemoryAllocation");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
}

/// Run by the next test, in a process whose environment it may choose.
TEST(Emulator, DISABLED_UnderItsEnvironment) {
  int count = 0;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorInitializationError);
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorInitializationError);
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  EXPECT_EQ(count, 3);
  size_t left = 0;
  size_t total = 0;
  EXPECT_EQ(cudaMemGetInfo(&left, &total), cudaSuccess);
  EXPECT_EQ(total, 12'345u);
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, 8), cudaSuccess);
  EXPECT_EQ(cudaFree(data), cudaErrorIllegalAddress);
  cudaDeviceProp properties{};
  EXPECT_EQ(cudaGetDeviceProperties(&properties, 2), cudaSuccess);
  EXPECT_EQ(properties.multiProcessorCount, 7);
}

[[noreturn]] void run_under(const char* variable, const char* value) {
  unsetenv("GTEST_OUTPUT");  // the report is this process's
  setenv("COPPICE_CUDA_ORDER", "random:5", 1);
  setenv("COPPICE_CUDA_DEVICES", "3", 1);
  setenv("COPPICE_CUDA_TOTAL_MEMORY", "12345", 1);
  setenv("COPPICE_CUDA_MULTIPROCESSORS", "7", 1);
  setenv("COPPICE_CUDA_FAIL", "cudaGetDeviceCount:0:3:2,cudaFree:0:700", 1);
  setenv(variable, value, 1);
  execl("/proc/self/exe", "test", "--gtest_filter=Emulator.DISABLED_UnderItsEnvironment",
        "--gtest_also_run_disabled_tests", nullptr);
  std::exit(1);
}

TEST(Emulator, ReadsItsEnvironment) {
  EXPECT_EXIT(run_under("COPPICE_CUDA_ORDER", "reverse"), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(run_under("COPPICE_CUDA_ORDER", "sideways"), testing::ExitedWithCode(kFaultExitCode),
              "cuda_on_host: environment: COPPICE_CUDA_ORDER: \"sideways\"");
  EXPECT_EXIT(run_under("COPPICE_CUDA_FAIL", "cudaMalloc:x"), testing::ExitedWithCode(kFaultExitCode),
              "cuda_on_host: environment: COPPICE_CUDA_FAIL: \"x\" is not a number");
}

TEST(Emulator, MemoryRunsOut) {
  set_device_memory(1000);
  size_t left = 0;
  size_t total = 0;
  const size_t used = static_cast<size_t>(statistics().live_bytes);
  ASSERT_EQ(cudaMemGetInfo(&left, &total), cudaSuccess);
  EXPECT_EQ(total, 1000u);
  EXPECT_EQ(left, 1000 - used);
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, 1001), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&data, left), cudaSuccess);
  void* more = nullptr;
  EXPECT_EQ(cudaMalloc(&more, 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaFree(data), cudaSuccess);
  cudaGetLastError();
  set_device_memory(size_t{4} << 30);
}

TEST(Emulator, SeveralDevicesOrNone) {
  set_device_count(0);
  int count = -1;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
  EXPECT_EQ(count, -1);
  set_device_count(2);
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  EXPECT_EQ(count, 2);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  {
    const OnDevice<int> x({1});
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
    EXPECT_EXIT(add(x.data(), 1, nullptr), testing::ExitedWithCode(kFaultExitCode),
                "cuda_on_host: other device");
  }
  set_device_count(1);
  cudaGetLastError();
}

TEST(Emulator, LimitsOfALaunch) {
  const OnDevice<int> y(std::vector<int>(2000));
  try {
    check_builtins(y.data(), 1025, nullptr);
    ADD_FAILURE() << "1025 threads in a block";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("cudaErrorInvalidConfiguration"));
  }
  cudaDeviceProp properties{};
  ASSERT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  EXPECT_EQ(properties.multiProcessorCount, 4);
  set_multiprocessors(1);
  ASSERT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  EXPECT_EQ(properties.multiProcessorCount, 1);
  set_multiprocessors(4);
}

}  // namespace
}  // namespace coppice::cuda_on_host
