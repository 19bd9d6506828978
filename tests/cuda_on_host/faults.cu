#include "kernels/cuda/launch.cuh"
#include "tests/cuda_on_host/faults.hpp"

namespace coppice::cuda_on_host {

using cuda::kFullMask;
using cuda::kWarp;
using cuda::launch;
using cuda::launch_cooperative;

namespace {

constexpr int kBlock = 256;
unsigned blocks(int n, int block = kBlock) {
  return static_cast<unsigned>((n + block - 1) / block);
}

template <Version version>
__global__ void reverse_blocks_kernel(const int* x, int* y, int n) {
  COPPICE_SHARED(int, tile, [kBlock]);
  const int i = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
  tile[threadIdx.x] = i < n ? x[i] : 0;
  if (version == Version::right) __syncthreads();
  if (i < n) y[i] = tile[kBlock - 1 - threadIdx.x];
}

template <Version version>
__global__ void sum_warps_kernel(const int* x, int* y, int n) {
  COPPICE_SHARED(int, values, [kBlock]);
  const int t = static_cast<int>(threadIdx.x);
  const int lane = t % kWarp;
  const int i = static_cast<int>(blockIdx.x) * kBlock + t;
  values[t] = i < n ? x[i] : 0;
  for (int step = kWarp / 2; step > 0; step /= 2) {
    if (version == Version::right) __syncwarp();
    const int other = lane < step ? values[t + step] : 0;
    if (version == Version::right) __syncwarp();
    values[t] += other;
  }
  if (lane == 0 && i < n) y[i / kWarp] = values[t];
}

template <Version version>
__global__ void increment_kernel(const int* x, int* y, int n) {
  const int i = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
  if (i < n) y[i] = x[version == Version::right ? i : i + 1] + 1;
}

template <Version version>
__global__ void shift_in_shared_kernel(const int* x, int* y, int n) {
  COPPICE_SHARED(int, tile, [kBlock]);
  const int t = static_cast<int>(threadIdx.x);
  const int i = static_cast<int>(blockIdx.x) * kBlock + t;
  tile[t] = i < n ? x[i] : 0;
  __syncthreads();
  if (i < n) y[i] = version == Version::right && t + 1 == kBlock ? 0 : tile[t + 1];
}

template <Version version>
__global__ void count_digits_kernel(const int* x, int* y, int n) {
  COPPICE_SHARED(int, counters, [16]);
  const int t = static_cast<int>(threadIdx.x);
  if (version == Version::right && t < 16) counters[t] = 0;
  __syncthreads();
  for (int i = static_cast<int>(blockIdx.x) * kBlock + t; i < n; i += static_cast<int>(gridDim.x) * kBlock)
    atomicAdd(&counters[x[i] & 15], 1);
  __syncthreads();
  if (t < 16) atomicAdd(&y[t], counters[t]);
}

template <Version version>
__global__ void wait_in_halves_kernel(int* y, int n) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < n / 2) {
    y[t] = 1;
    if (version == Version::wrong) __syncthreads();
  } else {
    y[t] = 2;
    if (version == Version::wrong) __syncthreads();
  }
  if (version == Version::right) __syncthreads();
}

template <Version version>
__global__ void wait_for_nobody_kernel(int* y, int n) {
  const int t = static_cast<int>(threadIdx.x);
  y[t] = n;
  if (version == Version::right || t < kWarp / 2) __syncwarp();
  if (version == Version::right || t >= kWarp / 2) __syncthreads();
}

template <Version version>
__global__ void broadcast_kernel(const int* x, int* y, int n) {
  const int i = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
  const int value = i < n ? x[i] : 0;
  const bool own = version == Version::wrong && threadIdx.x % kWarp == 5;
  const int first = __shfl_sync(own ? 0x0000'00ffu : kFullMask, value, 0);
  if (i < n) y[i] = first;
}

template <Version version>
__global__ void broadcast_to_the_end_kernel(const int* x, int* y, int n) {
  const int i = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
  if (version == Version::wrong && i >= n) return;
  const int first = __shfl_sync(kFullMask, i < n ? x[i] : 0, 0);
  if (i < n) y[i] = first;
}

template <Version version>
__global__ void broadcast_in_halves_kernel(const int* x, int* y, int n) {
  const int i = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
  const int half = static_cast<int>(threadIdx.x) % kWarp / 16;
  const unsigned mask = half == 0 ? 0x0000'ffffu : 0xffff'0000u;
  const int first = __shfl_sync(mask, i < n ? x[i] : 0, version == Version::right ? half * 16 : 0);
  if (i < n) y[i] = first;
}

template <Version version>
__global__ void count_blocks_kernel(int* y) {
  if (threadIdx.x != 0) return;
  if (version == Version::right) {
    atomicAdd(y, 1);
  } else {
    *y = *y + 1;
  }
}

template <Version version>
__global__ void sum_by_last_block_kernel(const int* x, int* partial, unsigned* done, int* y, int n) {
  COPPICE_SHARED(bool, is_last, [1]);
  const int t = static_cast<int>(threadIdx.x);
  const int i = static_cast<int>(blockIdx.x) * kWarp + t;
  const int sum = __reduce_add_sync(kFullMask, i < n ? x[i] : 0);
  if (t == 0) {
    partial[blockIdx.x] = sum;
    if (version == Version::right) __threadfence();
    is_last[0] = atomicAdd(done, 1u) == gridDim.x - 1;
    if (version == Version::right) __threadfence();
  }
  __syncthreads();
  if (!is_last[0] || t != 0) return;
  int total = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) total += partial[block];
  *y = total;
}

template <Version version>
__global__ void copy_quads_kernel(const int* x, int* y, int n) {
  const int i = 4 * static_cast<int>(threadIdx.x);
  if (i + 4 <= n) __stcs(reinterpret_cast<int4*>(y + i), __ldg(reinterpret_cast<const int4*>(x + i)));
}

__global__ void copy_plain_quads_kernel(const int* x, int* y, int n) {
  const int i = 4 * static_cast<int>(threadIdx.x);
  if (i + 4 <= n) *reinterpret_cast<int4*>(y + i) = *reinterpret_cast<const int4*>(x + i);
}

template <Version version>
__global__ void reverse_grid_kernel(const int* x, int* scratch, int* y, int n) {
  const int stride = static_cast<int>(gridDim.x * blockDim.x);
  const int first = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  for (int i = first; i < n; i += stride) scratch[i] = x[i];
  if (version == Version::right) COPPICE_GRID_BARRIER();
  for (int i = first; i < n; i += stride) y[i] = scratch[n - 1 - i];
}

__global__ void use_dynamic_shared_kernel(int* y, int n) {
  COPPICE_DYNAMIC_SHARED(int, scratch);
  const int t = static_cast<int>(threadIdx.x);
  scratch[t] = t;
  __syncthreads();
  if (t < n) y[t] = scratch[n - 1 - t];
}

__global__ void use_much_shared_kernel(int* y, int n) {
  COPPICE_SHARED(int, fixed, [6 << 10]);  // 24 KiB
  COPPICE_DYNAMIC_SHARED(int, scratch);
  const int t = static_cast<int>(threadIdx.x);
  if (t >= n) return;
  fixed[t] = scratch[t] = t;
  y[t] = fixed[t] + scratch[t];
}

__global__ void unpack_kernel(Box box, int* y) {
  for (int64_t i = 0; i < box.count; ++i) y[i] = box.values[i];
}

__global__ void add_kernel(int* y, int by) {
  *y += by;
}

__global__ void check_builtins_kernel(int* y) {
  const int t = static_cast<int>(threadIdx.x);
  const int lane = t % kWarp;
  const int threads = static_cast<int>(blockDim.x);
  int wrong = 0;
  const auto expect = [&](bool holds) { wrong += !holds; };

  expect(__shfl_down_sync(kFullMask, lane, 3) == (lane + 3 < kWarp ? lane + 3 : lane));
  expect(__shfl_up_sync(kFullMask, lane, 5) == (lane >= 5 ? lane - 5 : lane));
  expect(__shfl_xor_sync(kFullMask, lane, 17) == (lane ^ 17));
  expect(__shfl_sync(kFullMask, 0.5 * lane, 7) == 3.5);
  expect(__shfl_sync(kFullMask, lane, 3, 8) == (lane & ~7) + 3);
  expect(__shfl_xor_sync(kFullMask, 1ull << lane, 1, 4) == 1ull << (lane ^ 1));
  expect(__shfl_down_sync(kFullMask, lane, 2, 4) == (lane % 4 < 2 ? lane + 2 : lane));
  expect(__ballot_sync(kFullMask, lane % 3 == 0) == 0x4924'9249u);
  expect(__any_sync(kFullMask, lane == 31) == 1);
  expect(__all_sync(kFullMask, lane < 31) == 0);
  expect(__match_any_sync(kFullMask, lane / 16) == (lane < 16 ? 0xffffu : 0xffff'0000u));
  int all = 0;
  expect(__match_all_sync(kFullMask, 5, &all) == kFullMask && all == 1);
  expect(__reduce_add_sync(kFullMask, 1u) == 32);
  expect(__reduce_max_sync(kFullMask, -lane) == 0);
  expect(__reduce_min_sync(kFullMask, -lane) == -31);
  expect(__reduce_or_sync(kFullMask, 1u << lane) == kFullMask);
  if (lane < 8) expect(__shfl_sync(0xffu, lane, 6) == 6);
  expect((__activemask() >> lane & 1) == 1);

  expect(__syncthreads_count(t % 2) == threads / 2);
  expect(__syncthreads_and(t >= 0) != 0);
  expect(__syncthreads_or(t == threads - 1) != 0);

  expect(__popc(0xf0f0u) == 8 && __popcll(~0ull) == 64);
  expect(__clz(1) == 31 && __clz(0) == 32 && __clzll(1) == 63);
  expect(__ffs(8) == 4 && __ffs(0) == 0 && __ffsll(1ll << 40) == 41);
  expect(__brev(1u) == 0x8000'0000u && __byte_perm(0x33221100u, 0x77665544u, 0x6420) == 0x66442200u);
  expect(__funnelshift_l(0x8000'0000u, 1u, 1) == 3u && __funnelshift_r(1u, 1u, 1) == 0x8000'0000u);
  expect(__umulhi(~0u, ~0u) == ~0u - 1 && __mulhi(-1, 1) == -1 && __umul64hi(1ull << 63, 4) == 2);
  expect(__float_as_int(1.0f) == 0x3f80'0000 && __uint_as_float(0x4000'0000u) == 2.0f);
  expect(__hiloint2double(__double2hiint(1.5), __double2loint(1.5)) == 1.5);
  expect(__longlong_as_double(__double_as_longlong(-2.5)) == -2.5);
  expect(__fmaf_rn(2.0f, 3.0f, 4.0f) == 10.0f && __fma_rn(2.0, 3.0, 4.0) == 10.0);
  expect(__fadd_rn(1.0f, 2.0f) == 3.0f && __dmul_rn(2.0, 4.0) == 8.0 && __frcp_rn(4.0f) == 0.25f);
  expect(__saturatef(7.0f) == 1.0f && rsqrtf(4.0f) == 0.5f && __expf(0.0f) == 1.0f);
  expect(min(3, 2) == 2 && max(3u, 4u) == 4u && min(1.0f, __int_as_float(0x7fc0'0000)) == 1.0f);
  y[t] = wrong;
}

template <class... Parameters, class... Arguments>
void choose(Version version, void (*right)(Parameters...), void (*wrong)(Parameters...), unsigned grid,
            unsigned block, cudaStream_t stream, Arguments... arguments) {
  launch(version == Version::right ? right : wrong, dim3(grid), dim3(block), 0, stream, arguments...);
}

}  // namespace

#define COPPICE_BOTH(kernel) version, kernel<Version::right>, kernel<Version::wrong>

void reverse_blocks(Version version, const int* x, int* y, int n, cudaStream_t stream) {
  choose(COPPICE_BOTH(reverse_blocks_kernel), blocks(n), kBlock, stream, x, y, n);
}
void sum_warps(Version version, const int* x, int* y, int n, cudaStream_t stream) {
  choose(COPPICE_BOTH(sum_warps_kernel), blocks(n), kBlock, stream, x, y, n);
}
void increment(Version version, const int* x, int* y, int n, cudaStream_t stream) {
  choose(COPPICE_BOTH(increment_kernel), blocks(n), kBlock, stream, x, y, n);
}
void shift_in_shared(Version version, const int* x, int* y, int n, cudaStream_t stream) {
  choose(COPPICE_BOTH(shift_in_shared_kernel), blocks(n), kBlock, stream, x, y, n);
}
void count_digits(Version version, const int* x, int* y, int n, cudaStream_t stream) {
  choose(COPPICE_BOTH(count_digits_kernel), 3, kBlock, stream, x, y, n);
}
void wait_in_halves(Version version, int* y, int n, cudaStream_t stream) {
  choose(COPPICE_BOTH(wait_in_halves_kernel), 1, static_cast<unsigned>(n), stream, y, n);
}
void wait_for_nobody(Version version, int* y, int n, cudaStream_t stream) {
  choose(COPPICE_BOTH(wait_for_nobody_kernel), 1, kWarp, stream, y, n);
}
void broadcast(Version version, const int* x, int* y, int n, cudaStream_t stream) {
  choose(COPPICE_BOTH(broadcast_kernel), blocks(n), kBlock, stream, x, y, n);
}
void broadcast_to_the_end(Version version, const int* x, int* y, int n, cudaStream_t stream) {
  choose(COPPICE_BOTH(broadcast_to_the_end_kernel), blocks(n), kBlock, stream, x, y, n);
}
void broadcast_in_halves(Version version, const int* x, int* y, int n, cudaStream_t stream) {
  choose(COPPICE_BOTH(broadcast_in_halves_kernel), blocks(n), kBlock, stream, x, y, n);
}
void count_blocks(Version version, int* y, int blocks, cudaStream_t stream) {
  choose(COPPICE_BOTH(count_blocks_kernel), static_cast<unsigned>(blocks), kWarp, stream, y);
}
void sum_by_last_block(Version version, const int* x, int* partial, unsigned* done, int* y, int n,
                       cudaStream_t stream) {
  choose(COPPICE_BOTH(sum_by_last_block_kernel), blocks(n, kWarp), kWarp, stream, x, partial, done, y, n);
}
void copy_quads(Version version, const int* x, int* y, int n, cudaStream_t stream) {
  choose(COPPICE_BOTH(copy_quads_kernel), 1, kBlock, stream, version == Version::right ? x : x + 1, y, n - 4);
}
void copy_plain_quads(Version version, const int* x, int* y, int n, cudaStream_t stream) {
  launch(copy_plain_quads_kernel, 1, kBlock, 0, stream, version == Version::right ? x : x + 1, y, n - 4);
}
void reverse_grid(Version version, const int* x, int* scratch, int* y, int n, cudaStream_t stream) {
  launch_cooperative(
      version == Version::right ? reverse_grid_kernel<Version::right> : reverse_grid_kernel<Version::wrong>,
      4, 64, 0, stream, x, scratch, y, n);
}
void use_dynamic_shared(Version version, int* y, int n, cudaStream_t stream) {
  const size_t bytes = version == Version::right ? kBlock * sizeof(int) : 0;
  launch(use_dynamic_shared_kernel, 1, kBlock, bytes, stream, y, n);
}
void use_much_shared(Version version, int* y, int n, cudaStream_t stream) {
  launch(use_much_shared_kernel, 1, kBlock, version == Version::right ? 4 << 10 : 40 << 10, stream, y, n);
}
void unpack(Box box, int* y, cudaStream_t stream) {
  launch(unpack_kernel, 1, 1, 0, stream, box, y);
}
void add(int* y, int by, cudaStream_t stream) {
  launch(add_kernel, 1, 1, 0, stream, y, by);
}
void check_builtins(int* y, int threads, cudaStream_t stream) {
  launch(check_builtins_kernel, 1, static_cast<unsigned>(threads), 0, stream, y);
}

}  // namespace coppice::cuda_on_host
