#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cub/device/device_radix_sort.cuh>
#include <vector>
#if __has_include(<cub/device/device_topk.cuh>)
#include <cuda/execution.determinism.h>
#include <cuda/execution.output_ordering.h>
#include <cuda/execution.require.h>

#include <cub/device/device_reduce.cuh>
#include <cub/device/device_topk.cuh>
#define HAS_TOP_K
#endif

// What selection would take with a sort in the middle: scores |w·g| of all weights into an array, CUB's radix
// sort of them, the k-th, a pass that cuts; and, where the toolkit's CUB has it, with a top-k in the place of
// the sort: the keys that stay, and the least of them. The peer of bench/selection_gpu.cpp: the same number
// of weights, the same share cut, timed by events. Prints one line of JSON.
//   bench_selection_cub [PARAMETERS] [SPARSITY] [SAMPLES]

namespace {

void check(cudaError_t status, int line) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "bench_selection_cub: line %d: %s\n", line, cudaGetErrorString(status));
  std::exit(1);
}
#define CHECK(call) check((call), __LINE__)

constexpr int kThreads = 256;

/// Uniform values by SplitMix64: a sort by bits cares for little else than their entropy.
__global__ void fill(float* data, int64_t count, float scale, uint64_t seed) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint64_t z = static_cast<uint64_t>(i) + seed * 0x9e37'79b9'7f4a'7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58'476d'1ce4'e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d0'49bb'1331'11ebull;
    data[i] = scale * (static_cast<float>(z >> 40) * 0x1p-23f - 1.0f);
  }
}

__global__ void score(const float4* weights, const float4* gradients, uint4* keys, int64_t quads) {
  const auto key = [](float w, float g) { return __float_as_uint(fabsf(w * g)); };
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < quads;
       i += int64_t{gridDim.x} * blockDim.x) {
    const float4 w = weights[i], g = gradients[i];
    keys[i] = make_uint4(key(w.x, g.x), key(w.y, g.y), key(w.z, g.z), key(w.w, g.w));
  }
}

/// Cuts below a key.
__global__ void cut(float4* weights, const float4* gradients, const uint32_t* key, int64_t quads) {
  const uint32_t threshold = *key;
  const auto kept = [=](float w, float g) { return __float_as_uint(fabsf(w * g)) < threshold ? 0.0f : w; };
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < quads;
       i += int64_t{gridDim.x} * blockDim.x) {
    const float4 w = weights[i], g = gradients[i];
    weights[i] = make_float4(kept(w.x, g.x), kept(w.y, g.y), kept(w.z, g.z), kept(w.w, g.w));
  }
}

template <class T>
T* allocate(int64_t count) {
  void* data = nullptr;
  CHECK(cudaMalloc(&data, static_cast<size_t>(count) * sizeof(T)));
  return static_cast<T*>(data);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t count = (argc > 1 ? std::atoll(argv[1]) : 100'000'000) / 4 * 4;
  const double sparsity = argc > 2 ? std::atof(argv[2]) : 0.9;
  const int samples = argc > 3 ? std::max(1, std::atoi(argv[3])) : 9;
  cudaDeviceProp properties{};
  CHECK(cudaGetDeviceProperties(&properties, 0));
  const unsigned blocks = static_cast<unsigned>(properties.multiProcessorCount) * 8;

  float* weights = allocate<float>(count);
  float* gradients = allocate<float>(count);
  cub::DoubleBuffer<uint32_t> keys(allocate<uint32_t>(count), allocate<uint32_t>(count));
  size_t scratch_bytes = 0;
  CHECK(cub::DeviceRadixSort::SortKeys(nullptr, scratch_bytes, keys, count));
  char* scratch = allocate<char>(static_cast<int64_t>(scratch_bytes));
  fill<<<blocks, kThreads>>>(gradients, count, 1e-3f, 2);

  cudaEvent_t marks[4];
  for (cudaEvent_t& mark : marks) CHECK(cudaEventCreate(&mark));
  const int64_t rank = std::min(count - 1, static_cast<int64_t>(sparsity * static_cast<double>(count)));
  std::vector<double> scoring, sorting, cutting, all;
  for (int i = 0; i < samples + 2; ++i) {
    fill<<<blocks, kThreads>>>(weights, count, 0.05f, 1);
    CHECK(cudaEventRecord(marks[0]));
    score<<<blocks, kThreads>>>(reinterpret_cast<const float4*>(weights),
                                reinterpret_cast<const float4*>(gradients),
                                reinterpret_cast<uint4*>(keys.Current()), count / 4);
    CHECK(cudaEventRecord(marks[1]));
    CHECK(cub::DeviceRadixSort::SortKeys(scratch, scratch_bytes, keys, count));
    CHECK(cudaEventRecord(marks[2]));
    cut<<<blocks, kThreads>>>(reinterpret_cast<float4*>(weights), reinterpret_cast<const float4*>(gradients),
                              keys.Current() + rank, count / 4);
    CHECK(cudaEventRecord(marks[3]));
    CHECK(cudaEventSynchronize(marks[3]));
    CHECK(cudaGetLastError());
    if (i < 2) continue;
    const auto seconds = [&](int from, int to) {
      float milliseconds = 0.0f;
      CHECK(cudaEventElapsedTime(&milliseconds, marks[from], marks[to]));
      return 1e-3 * static_cast<double>(milliseconds);
    };
    scoring.push_back(seconds(0, 1));
    sorting.push_back(seconds(1, 2));
    cutting.push_back(seconds(2, 3));
    all.push_back(seconds(0, 3));
  }
  double top_k = -1.0;  // not there
#ifdef HAS_TOP_K
  // The keys that stay go where the sort has its second array.
  namespace execution = cuda::execution;
  const auto any_order =
      execution::require(execution::determinism::not_guaranteed, execution::output_ordering::unsorted);
  uint32_t* const least = allocate<uint32_t>(1);
  const int64_t kept = count - rank;
  size_t top_bytes = 0, least_bytes = 0;
  CHECK(
      cub::DeviceTopK::MaxKeys(nullptr, top_bytes, keys.Current(), keys.Alternate(), count, kept, any_order));
  CHECK(cub::DeviceReduce::Min(nullptr, least_bytes, keys.Alternate(), least, kept));
  char* const top_scratch = allocate<char>(static_cast<int64_t>(std::max(top_bytes, least_bytes)));
  std::vector<double> tops;
  for (int i = 0; i < samples + 2; ++i) {
    fill<<<blocks, kThreads>>>(weights, count, 0.05f, 1);
    CHECK(cudaEventRecord(marks[0]));
    score<<<blocks, kThreads>>>(reinterpret_cast<const float4*>(weights),
                                reinterpret_cast<const float4*>(gradients),
                                reinterpret_cast<uint4*>(keys.Current()), count / 4);
    CHECK(cub::DeviceTopK::MaxKeys(top_scratch, top_bytes, keys.Current(), keys.Alternate(), count, kept,
                                   any_order));
    CHECK(cub::DeviceReduce::Min(top_scratch, least_bytes, keys.Alternate(), least, kept));
    cut<<<blocks, kThreads>>>(reinterpret_cast<float4*>(weights), reinterpret_cast<const float4*>(gradients),
                              least, count / 4);
    CHECK(cudaEventRecord(marks[3]));
    CHECK(cudaEventSynchronize(marks[3]));
    CHECK(cudaGetLastError());
    float milliseconds = 0.0f;
    CHECK(cudaEventElapsedTime(&milliseconds, marks[0], marks[3]));
    if (i >= 2) tops.push_back(1e-3 * static_cast<double>(milliseconds));
  }
  top_k = median(tops);
#endif
  std::printf(
      "{\"work\":\"selection by CUB's radix sort\",\"device\":\"%s\",\"units\":%lld,\"sparsity\":%g,"
      "\"score_median_s\":%g,\"sort_median_s\":%g,\"cut_median_s\":%g,\"top_k_median_s\":%g,"
      "\"median_s\":%g}\n",
      properties.name, static_cast<long long>(count), sparsity, median(scoring), median(sorting),
      median(cutting), top_k, median(all));
}
