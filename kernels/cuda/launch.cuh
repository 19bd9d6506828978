#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/status.hpp"

#ifndef COPPICE_CUDA_ON_HOST
#include <cooperative_groups.h>
#endif

// How kernels are written and launched here, so that the same sources compile with nvcc and, for the tests, as
// plain C++ that is executed on the host (tests/cuda_on_host): no <<<>>>, no bare __shared__, no bare inline PTX.

#ifndef COPPICE_CUDA_ON_HOST
/// A shared array: COPPICE_SHARED(float, tile, [32][33]).
#define COPPICE_SHARED(T, name, dims) __shared__ T name dims
/// The block's dynamic shared memory seen as T[]: COPPICE_DYNAMIC_SHARED(float, scratch). Once a kernel.
#define COPPICE_DYNAMIC_SHARED(T, name)                          \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  T* const name = reinterpret_cast<T*>(name##_bytes)
/// All threads of all blocks wait for each other here, and see what the others wrote before. Only in a kernel that was
/// started by launch_cooperative, and by every thread of it.
#define COPPICE_GRID_BARRIER() ::cooperative_groups::this_grid().sync()
#endif

namespace coppice::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kFullMask = 0xffff'ffffu;

/// Queues `kernel` on `stream`. Arguments convert to the kernel's own types before they are copied. Throws
/// Error(failure) when the launch is refused; an empty grid (nothing to do) is not launched at all.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  COPPICE_CUDA(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

/// The same with all blocks resident at once, so that they may wait for each other at a grid barrier.
template <class... Parameters, class... Arguments>
void launch_cooperative(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                        cudaStream_t stream, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  COPPICE_CUDA(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

/// Blocks of `block` threads for `count` items, at most `most`: kernels loop over the grid (`grid_stride`).
inline unsigned blocks_for(int64_t count, int block, int64_t most) {
  const int64_t wanted = (count + block - 1) / block;
  return static_cast<unsigned>(wanted < most ? wanted : most);
}

}  // namespace coppice::cuda
