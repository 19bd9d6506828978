#pragma once

#include <cstdint>

#include "kernels/cuda/launch.cuh"

// What passes over long arrays have in common: a thread takes four consecutive elements at a time, in one
// 16-byte access where they are aligned to it (two for elements of 8 bytes), and counts are folded by warps.

namespace coppice::cuda {

inline constexpr int kQuad = 4;

/// Four consecutive elements.
template <class T>
struct alignas(16) Quad {
  T at[kQuad];
};

/// Whether element 0 may be the first of a quad that is accessed as a whole. True for null.
template <class T>
bool aligned_to_quad(const T* data) {
  return reinterpret_cast<uintptr_t>(data) % alignof(Quad<T>) == 0;
}

template <class T>
__device__ inline Quad<T> load_quad(const T* data) {
  return *reinterpret_cast<const Quad<T>*>(data);
}
template <class T>
__device__ inline void store_quad(T* data, const Quad<T>& quad) {
  *reinterpret_cast<Quad<T>*>(data) = quad;
}

/// The same for those elements whose bit of `lanes` is 1; the others are 0, or not written.
template <class T>
__device__ inline Quad<T> load_some(const T* data, unsigned lanes) {
  Quad<T> quad;
#pragma unroll
  for (int k = 0; k < kQuad; ++k) quad.at[k] = (lanes >> k & 1) != 0 ? data[k] : T(0);
  return quad;
}
template <class T>
__device__ inline void store_some(T* data, const Quad<T>& quad, unsigned lanes) {
#pragma unroll
  for (int k = 0; k < kQuad; ++k) {
    if ((lanes >> k & 1) != 0) data[k] = quad.at[k];
  }
}

/// All four.
inline constexpr unsigned kWholeQuad = 0xf;

/// Bit k: `index` + k lies in [0, count).
__device__ inline unsigned quad_inside(int64_t index, int64_t count) {
  unsigned lanes = 0;
#pragma unroll
  for (int k = 0; k < kQuad; ++k) lanes |= unsigned{index + k >= 0 && index + k < count} << k;
  return lanes;
}

__device__ inline int lane_index() {
  return static_cast<int>(threadIdx.x) % kWarp;
}
__device__ inline int warp_index() {
  return static_cast<int>(threadIdx.x) / kWarp;
}

/// Adds the values of a block's threads (whole warps, their sum below 2^32) to `total`: by shuffles, then
/// over the warps, then with one atomic operation, because thousands of blocks meet there. Every thread calls
/// it.
__device__ inline void add_block_sum(unsigned value, unsigned long long* total) {
  COPPICE_SHARED(unsigned, sums, [kWarp]);
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kFullMask, value, step);
  if (lane_index() == 0) sums[warp_index()] = value;
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned long long sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / kWarp; ++warp) sum += sums[warp];
    if (sum != 0) atomicAdd(total, sum);
  }
  __syncthreads();  // the sums may be written again
}

}  // namespace coppice::cuda
