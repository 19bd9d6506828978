#include "kernels/cuda/graph_cache.hpp"

#include <gtest/gtest.h>

#include "kernels/cuda/status.hpp"
#include "tests/cuda_on_host/emulator.hpp"

// Recurrences replay their time loops through this; here with work that counts.

namespace coppice::cuda_on_host {
namespace {

using cuda::GraphCache;
using cuda::GraphKey;

GraphKey key(int number) {
  GraphKey result;
  result.add(number);
  return result;
}

class GraphCacheTest : public testing::Test {
 protected:
  void SetUp() override { COPPICE_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  void TearDown() override {
    fail_nothing();
    COPPICE_CUDA(cudaStreamDestroy(stream_));
  }

  void run(GraphCache& cache, int number) {
    cache.run(key(number), [this] {
      ++called_;
      if (throws_ || (throws_in_capture_ && capturing(stream_))) failure("planted");
      enqueue(stream_, [this] { ++executed_; });
    });
    COPPICE_CUDA(cudaStreamSynchronize(stream_));
  }
  void expect_counts(int called, int executed) {
    EXPECT_EQ(called_, called);
    EXPECT_EQ(executed_, executed);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    EXPECT_FALSE(capturing(stream_));
  }

  cudaStream_t stream_ = nullptr;
  int called_ = 0, executed_ = 0;
  bool throws_ = false, throws_in_capture_ = false;
};

TEST_F(GraphCacheTest, RunsThenCapturesThenReplays) {
  GraphCache cache(stream_);
  for (int i = 1; i <= 5; ++i) {
    run(cache, 1);
    expect_counts(i < 2 ? 1 : 2, i);
  }
  run(cache, 2);  // another key is other work
  expect_counts(3, 6);
  run(cache, 1);
  expect_counts(3, 7);
}

TEST_F(GraphCacheTest, DropsTheLeastRecentlyUsed) {
  const int64_t before = statistics().live_objects;
  {
    GraphCache cache(stream_, 2);
    for (int i = 0; i < 3; ++i) run(cache, 1);
    for (int i = 0; i < 3; ++i) run(cache, 2);
    run(cache, 1);
    expect_counts(4, 7);
    run(cache, 3);  // takes the place of 2
    expect_counts(5, 8);
    run(cache, 1);
    expect_counts(5, 9);
    run(cache, 2);  // unknown again
    expect_counts(6, 10);
  }
  EXPECT_EQ(statistics().live_objects, before) << "graphs were left";
}

TEST_F(GraphCacheTest, RunsAsItIsWhereACaptureIsRefused) {
  for (const char* call : {"cudaStreamBeginCapture", "cudaGraphInstantiate"}) {
    called_ = executed_ = 0;
    GraphCache cache(stream_);
    fail_call(call, 0, cudaErrorStreamCaptureUnsupported);
    for (int i = 1; i <= 4; ++i) run(cache, 1);
    EXPECT_EQ(executed_, 4) << call;
    EXPECT_EQ(called_, call == std::string("cudaGraphInstantiate") ? 5 : 4);
  }
  called_ = executed_ = 0;
  throws_in_capture_ = true;  // as an allocation does
  GraphCache cache(stream_);
  for (int i = 1; i <= 4; ++i) run(cache, 1);
  expect_counts(5, 4);
}

TEST_F(GraphCacheTest, FailuresOfTheWorkPass) {
  GraphCache cache(stream_);
  throws_ = true;
  EXPECT_THROW(run(cache, 1), Error);
  throws_ = false;
  run(cache, 1);
  expect_counts(2, 1);
  throws_ = true;  // in the capture, and again outside of it
  EXPECT_THROW(run(cache, 1), Error);
  throws_ = false;
  run(cache, 1);
  expect_counts(5, 2);
}

}  // namespace
}  // namespace coppice::cuda_on_host
