#include "tests/cuda_on_host/faults.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/on_device.hpp"

// Mistakes planted in kernels and in their callers: each must be found, by name, and the same without it must
// give the right numbers in every order.
namespace coppice::cuda_on_host {
namespace {

using testing::ExitedWithCode;

constexpr int kRaceExitCode = 66;  // ThreadSanitizer's
constexpr int kN = 1000;

std::vector<int> numbers(int n = kN) {
  std::vector<int> x(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) x[static_cast<size_t>(i)] = (i * 37 + 11) % 101;
  return x;
}
std::vector<int> nothing(int n = kN) {
  return std::vector<int>(static_cast<size_t>(n), -7);
}

using Kernel = void (*)(Version, const int*, int*, int, cudaStream_t);

std::vector<int> result_of(Kernel kernel, Version version, const std::vector<int>& x,
                           const std::vector<int>& y) {
  const OnDevice<int> in(x);
  const OnDevice<int> out(y);
  kernel(version, in.data(), out.data(), static_cast<int>(x.size()), nullptr);
  return out.values();
}

/// The right one is right in every order.
void expect_right(Kernel kernel, const std::vector<int>& x, const std::vector<int>& y,
                  const std::vector<int>& expected) {
  for (const auto [order, seed] : kOrders) {
    set_order(order, seed);
    EXPECT_EQ(result_of(kernel, Version::right, x, y), expected)
        << "order " << static_cast<int>(order) << ", seed " << seed;
  }
  set_order(Order::forward);
}

/// The wrong one is found: by ThreadSanitizer as a race, elsewhere by its numbers in one order at least.
void expect_race(Kernel kernel, const std::vector<int>& x, const std::vector<int>& y,
                 const std::vector<int>& expected) {
  if constexpr (kWatchesRaces) {
    EXPECT_EXIT(
        {
          result_of(kernel, Version::wrong, x, y);
          std::exit(0);
        },
        ExitedWithCode(kRaceExitCode), "data race");
    return;
  }
  int caught = 0;
  for (const auto [order, seed] : kOrders) {
    set_order(order, seed);
    caught += result_of(kernel, Version::wrong, x, y) != expected;
  }
  set_order(Order::forward);
  EXPECT_GT(caught, 0);
}

/// Ends with a fault of that kind.
template <class Statement>
void expect_fault(Statement statement, const std::string& message) {
  EXPECT_EXIT(
      {
        statement();
        cudaDeviceSynchronize();
        std::exit(0);
      },
      ExitedWithCode(kFaultExitCode), "cuda_on_host: " + message);
}
void expect_fault(Kernel kernel, const std::string& message, int n = kN) {
  expect_fault([=] { result_of(kernel, Version::wrong, numbers(n), nothing(n)); }, message);
}

std::vector<int> reversed_blocks(std::vector<int> x) {
  x.resize((x.size() + 255) / 256 * 256);
  for (size_t first = 0; first < x.size(); first += 256)
    std::reverse(x.begin() + static_cast<std::ptrdiff_t>(first),
                 x.begin() + static_cast<std::ptrdiff_t>(first) + 256);
  x.resize(kN);
  return x;
}

std::vector<int> firsts(const std::vector<int>& x, size_t lanes) {
  std::vector<int> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i / lanes * lanes];
  return y;
}

// ---- Threads of a block ----

TEST(Faults, MissingBarrier) {
  expect_right(reverse_blocks, numbers(), nothing(), reversed_blocks(numbers()));
  expect_race(reverse_blocks, numbers(), nothing(), reversed_blocks(numbers()));
}

TEST(Faults, MissingSyncwarp) {
  const std::vector<int> x = numbers();
  std::vector<int> expected = nothing();
  for (int warp = 0; warp * 32 < kN; ++warp)
    expected[static_cast<size_t>(warp)] =
        std::accumulate(x.begin() + warp * 32, x.begin() + std::min(kN, warp * 32 + 32), 0);
  expect_right(sum_warps, x, nothing(), expected);
  expect_race(sum_warps, x, nothing(), expected);
}

TEST(Faults, UninitialisedSharedMemory) {
  std::vector<int> expected(16);
  for (int value : numbers()) ++expected[static_cast<size_t>(value & 15)];
  const std::vector<int> zeros(16);
  const Kernel count = [](Version version, const int* x, int* y, int n, cudaStream_t stream) {
    count_digits(version, x, y, n, stream);
  };
  expect_right(count, numbers(), zeros, expected);
  for (const auto [order, seed] : kOrders) {
    set_order(order, seed);
    EXPECT_NE(result_of(count, Version::wrong, numbers(), zeros), expected);
  }
  set_order(Order::forward);
}

TEST(Faults, DivergentBarrier) {
  const Kernel kernel = [](Version version, const int*, int* y, int n, cudaStream_t stream) {
    wait_in_halves(version, y, n, stream);
  };
  std::vector<int> expected(64, 1);
  std::fill(expected.begin() + 32, expected.end(), 2);
  expect_right(kernel, numbers(64), nothing(64), expected);
  expect_fault(
      kernel, "divergent barrier: .*faults.cu:[0-9]+ and at .*faults.cu:[0-9]+; kernel .*wait_in_halves", 64);
}

TEST(Faults, ThreadsThatNeverCome) {
  const Kernel kernel = [](Version version, const int*, int* y, int n, cudaStream_t stream) {
    wait_for_nobody(version, y, n, stream);
  };
  expect_right(kernel, numbers(32), nothing(32), std::vector<int>(32, 32));
  expect_fault(kernel, "deadlock: 32 threads .*warp operation .*__syncthreads.*kernel wait_for_nobody_kernel",
               32);
}

TEST(Faults, WrongLaneMask) {
  expect_right(broadcast, numbers(), nothing(), firsts(numbers(), 32));
  expect_fault(broadcast, "wrong mask: .*kernel .*broadcast_kernel");
}

TEST(Faults, ExitedLanesInAShuffle) {
  expect_right(broadcast_to_the_end, numbers(), nothing(), firsts(numbers(), 32));
  expect_fault(broadcast_to_the_end, "exited lane: ");
}

TEST(Faults, ShuffleFromALaneOutsideOfTheMask) {
  expect_right(broadcast_in_halves, numbers(), nothing(), firsts(numbers(), 16));
  expect_fault(broadcast_in_halves, "lane not in mask: ");
}

// ---- Memory of a kernel ----

std::vector<int> incremented(std::vector<int> x) {
  for (int& value : x) ++value;
  return x;
}

TEST(Faults, OutOfBounds) {
  expect_right(increment, numbers(), nothing(), incremented(numbers()));
#ifdef COPPICE_CUDA_BOUNDS
  EXPECT_EXIT(result_of(increment, Version::wrong, numbers(), nothing()), ExitedWithCode(1),
              "heap-buffer-overflow");
#endif
}

TEST(Faults, OutOfBoundsInSharedMemory) {
  std::vector<int> expected = numbers(512);
  expected.erase(expected.begin());
  expected.push_back(0);
  expected[255] = 0;
  expect_right(shift_in_shared, numbers(512), nothing(512), expected);
#ifdef COPPICE_CUDA_BOUNDS
  EXPECT_EXIT(result_of(shift_in_shared, Version::wrong, numbers(512), nothing(512)), ExitedWithCode(1),
              "heap-buffer-overflow|out of bounds");
#endif
}

TEST(Faults, MisalignedVectorLoad) {
  std::vector<int> expected = numbers(64);
  std::fill(expected.end() - 4, expected.end(), -7);
  expect_right(copy_quads, numbers(64), nothing(64), expected);
  expect_right(copy_plain_quads, numbers(64), nothing(64), expected);
  expect_fault(copy_quads, "misaligned access: .* 16 bytes; kernel copy_quads", 64);
#ifdef COPPICE_CUDA_BOUNDS  // with UndefinedBehaviorSanitizer beside it
  EXPECT_EXIT(result_of(copy_plain_quads, Version::wrong, numbers(64), nothing(64)), ExitedWithCode(1),
              "misaligned address");
#endif
}

TEST(Faults, NoDynamicSharedMemory) {
  const Kernel kernel = [](Version version, const int*, int* y, int n, cudaStream_t stream) {
    use_dynamic_shared(version, y, n, stream);
  };
  std::vector<int> expected(256);
  std::iota(expected.rbegin(), expected.rend(), 0);
  expect_right(kernel, numbers(256), nothing(256), expected);
#ifdef COPPICE_CUDA_BOUNDS
  EXPECT_EXIT(result_of(kernel, Version::wrong, numbers(256), nothing(256)), ExitedWithCode(1), "SEGV");
#elif !defined(COPPICE_CUDA_RACES)
  EXPECT_EXIT(result_of(kernel, Version::wrong, numbers(256), nothing(256)), testing::KilledBySignal(SIGSEGV),
              "");
#endif
}

TEST(Faults, TooMuchSharedMemory) {
  const Kernel kernel = [](Version version, const int*, int* y, int n, cudaStream_t stream) {
    use_much_shared(version, y, n, stream);
  };
  expect_right(kernel, numbers(2), nothing(2), {0, 2});
  expect_fault(kernel, "shared memory: 65536 bytes in a block, which may have 49152", 2);
}

// ---- Blocks ----

TEST(Faults, RaceBetweenBlocks) {
  const Kernel kernel = [](Version version, const int*, int* y, int n, cudaStream_t stream) {
    count_blocks(version, y, n, stream);
  };
  expect_right(kernel, numbers(20), {0}, {20});
  // Without instrumentation the blocks' statements don't interleave: only ThreadSanitizer can see this one.
  if constexpr (kWatchesRaces) expect_race(kernel, numbers(20), {0}, {20});
}

TEST(Faults, MissingFence) {
  const Kernel kernel = [](Version version, const int* x, int* y, int n, cudaStream_t stream) {
    const OnDevice<int> partial(std::vector<int>(static_cast<size_t>(n), -1));
    const OnDevice<unsigned> done({0});
    sum_by_last_block(version, x, partial.data(), done.data(), y, n, stream);
  };
  const std::vector<int> x = numbers();
  const int sum = std::accumulate(x.begin(), x.end(), 0);
  expect_right(kernel, x, {0}, {sum});
  if constexpr (kWatchesRaces) expect_race(kernel, x, {0}, {sum});
}

TEST(Faults, MissingGridBarrier) {
  const Kernel kernel = [](Version version, const int* x, int* y, int n, cudaStream_t stream) {
    const OnDevice<int> scratch(std::vector<int>(static_cast<size_t>(n), -1));
    reverse_grid(version, x, scratch.data(), y, n, stream);
  };
  std::vector<int> expected = numbers();
  std::reverse(expected.begin(), expected.end());
  expect_right(kernel, numbers(), nothing(), expected);
  expect_race(kernel, numbers(), nothing(), expected);
}

// ---- Callers ----

TEST(Faults, HostPointerToAKernel) {
  expect_fault(
      [] {
        std::vector<int> x = numbers();
        const OnDevice<int> y(nothing());
        increment(Version::right, x.data(), y.data(), kN, nullptr);
      },
      "host pointer: argument 0 of increment_kernel");
}

TEST(Faults, HostPointerInsideOfAnArgument) {
  const OnDevice<int> x(numbers(8));
  const OnDevice<int> y(nothing(8));
  unpack({x.data(), 8}, y.data(), nullptr);
  EXPECT_EQ(y.values(), numbers(8));
  expect_fault(
      [&] {
        const std::vector<int> host = numbers(8);
        unpack({host.data(), 8}, y.data(), nullptr);
      },
      "host pointer: argument 0 of unpack_kernel");
}

TEST(Faults, UseAfterFree) {
  expect_fault(
      [] {
        int* freed = nullptr;
        cudaMalloc(reinterpret_cast<void**>(&freed), sizeof(int));
        cudaFree(freed);
        add(freed, 1, nullptr);
      },
      "freed memory: argument 0 of add_kernel was freed");
}

TEST(Faults, FreedTwice) {
  expect_fault(
      [] {
        int* data = nullptr;
        cudaMalloc(reinterpret_cast<void**>(&data), sizeof(int));
        cudaFree(data);
        cudaFree(data);
      },
      "bad free: ");
}

TEST(Faults, GraphWithFreedMemory) {
  expect_fault(
      [] {
        int* data = nullptr;
        cudaMalloc(reinterpret_cast<void**>(&data), sizeof(int));
        cudaStream_t stream = nullptr;
        cudaStreamCreate(&stream);
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t executable = nullptr;
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
        add(data, 1, stream);
        cudaStreamEndCapture(stream, &graph);
        cudaGraphInstantiate(&executable, graph, 0);
        cudaFree(data);
        cudaGraphLaunch(executable, stream);
      },
      "freed memory: argument 0 of add_kernel was freed");
}

TEST(Faults, HostCodeTouchesDeviceMemory) {
#ifdef COPPICE_CUDA_BOUNDS
  const OnDevice<int> x(numbers());
  EXPECT_EXIT(std::exit(x.data()[3]), ExitedWithCode(1), "use-after-poison");
#endif
}

TEST(Faults, WrongCopyDirection) {
  expect_fault(
      [] {
        const OnDevice<int> x(numbers());
        std::vector<int> y(kN);
        cudaMemcpy(y.data(), x.data(), kN * sizeof(int), cudaMemcpyHostToDevice);
      },
      "copy direction: cudaMemcpyHostToDevice, but the destination");
}

TEST(Faults, CopyBehindTheEnd) {
  expect_fault(
      [] {
        const OnDevice<int> x(numbers());
        std::vector<int> y(kN + 1);
        cudaMemcpy(y.data(), x.data(), (kN + 1) * sizeof(int), cudaMemcpyDeviceToHost);
      },
      "out of bounds: source of the copy: 4004 bytes from offset 0 of an allocation of 4000 bytes");
}

TEST(Faults, DestroyedStream) {
  expect_fault(
      [] {
        cudaStream_t stream = nullptr;
        cudaStreamCreate(&stream);
        cudaStreamDestroy(stream);
        cudaStreamSynchronize(stream);
      },
      "destroyed handle: stream");
}

TEST(Faults, ReadBeforeSynchronising) {
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  const OnDevice<int> x({1});
  int* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&pinned), sizeof(int)), cudaSuccess);
  *pinned = -1;
  add(x.data(), 1, stream);
  ASSERT_EQ(cudaMemcpyAsync(pinned, x.data(), sizeof(int), cudaMemcpyDeviceToHost, stream), cudaSuccess);
  EXPECT_EQ(*pinned, -1);  // too early
  int other_stream = 0;    // the legacy stream does not wait for one that is not in order with it
  ASSERT_EQ(cudaMemcpy(&other_stream, x.data(), sizeof(int), cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(other_stream, 1);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(*pinned, 2);
  ASSERT_EQ(cudaFreeHost(pinned), cudaSuccess);
  ASSERT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

}  // namespace
}  // namespace coppice::cuda_on_host
