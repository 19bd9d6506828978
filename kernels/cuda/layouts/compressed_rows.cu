#include <thrust/binary_search.h>
#include <thrust/functional.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/reduce.h>
#include <thrust/scan.h>
#include <thrust/sequence.h>
#include <thrust/sort.h>

#include <limits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/layouts/compressed_rows.hpp"
#include "kernels/cuda/thrust.cuh"
#include "kernels/error.hpp"

namespace coppice::cuda {
namespace {

constexpr int kBlock = 256;
constexpr int kWarps = kBlock / kWarp;
constexpr int kMostBlocks = 1 << 16;
constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

__device__ int lane() {
  return static_cast<int>(threadIdx.x) % kWarp;
}
/// The number of this warp in the grid, and how many there are.
__device__ int64_t warp_number() {
  return int64_t{blockIdx.x} * (blockDim.x / kWarp) + threadIdx.x / kWarp;
}
__device__ int64_t warp_count() {
  return int64_t{gridDim.x} * (blockDim.x / kWarp);
}

/// counts[r] = nonzeros of row r: one warp a row.
__global__ void count_kernel(const float* values, int64_t stride, int64_t rows, int64_t cols,
                             int32_t* counts) {
  for (int64_t r = warp_number(); r < rows; r += warp_count()) {
    int count = 0;
    for (int64_t first = 0; first < cols; first += kWarp) {
      const int64_t c = first + lane();
      count += __popc(__ballot_sync(kFullMask, c < cols && values[r * stride + c] != 0.0f));
    }
    if (lane() == 0) counts[r] = count;
  }
}

/// Column numbers and values of each row: a lane's place is the number of nonzeros before it.
template <class Index>
__global__ void fill_kernel(const float* values, int64_t stride, int64_t rows, int64_t cols,
                            const int32_t* offsets, Index* indices, float* kept) {
  for (int64_t r = warp_number(); r < rows; r += warp_count()) {
    int64_t next = offsets[r];
    for (int64_t first = 0; first < cols; first += kWarp) {
      const int64_t c = first + lane();
      const float value = c < cols ? values[r * stride + c] : 0.0f;
      const unsigned nonzero = __ballot_sync(kFullMask, value != 0.0f);
      if (value != 0.0f) {
        const int64_t place = next + __popc(nonzero & ((1u << lane()) - 1));
        indices[place] = static_cast<Index>(c);
        kept[place] = value;
      }
      next += __popc(nonzero);
    }
  }
}

/// to[q] = the row of nonzero numbers[q]: the last one that starts at or before it.
template <class Index>
__global__ void row_of_nonzero_kernel(const int32_t* offsets, int64_t rows, const int32_t* numbers,
                                      int64_t count, Index* to) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t q = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; q < count; q += step) {
    int64_t first = 0, last = rows;  // offsets[first] <= number < offsets[last]
    while (last - first > 1) {
      const int64_t middle = (first + last) / 2;
      (offsets[middle] <= numbers[q] ? first : last) = middle;
    }
    to[q] = static_cast<Index>(first);
  }
}

template <class Index>
__global__ void gather_kernel(const float* values, int64_t stride, int64_t rows, const int32_t* offsets,
                              const Index* indices, float* kept) {
  for (int64_t r = warp_number(); r < rows; r += warp_count()) {
    for (int32_t p = offsets[r] + lane(); p < offsets[r + 1]; p += kWarp)
      kept[p] = values[r * stride + indices[p]];
  }
}

template <class Index>
__global__ void scatter_add_kernel(const float* numbered, int64_t rows, const int32_t* offsets,
                                   const Index* indices, float* values, int64_t stride) {
  for (int64_t r = warp_number(); r < rows; r += warp_count()) {
    for (int32_t p = offsets[r] + lane(); p < offsets[r + 1]; p += kWarp) {
      values[r * stride + indices[p]] += numbered[p];
    }
  }
}

__global__ void permute_kernel(const int32_t* permutation, int64_t count, const float* from, float* to) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step)
    to[i] = from[permutation[i]];
}

unsigned warps_for(int64_t count) {
  return blocks_for(count, kWarps, kMostBlocks);
}

/// counts[0 … rows − 1] become the numbers of the rows' first nonzeros, and counts[rows] that of all, which
/// is returned; waits for it.
int64_t count_to_offsets(const CudaContext& context, int32_t* counts, int64_t rows) {
  int64_t total = 0;
  with_thrust(context, [counts, rows, to = &total](const auto& policy) {
    *to = thrust::reduce(policy, counts, counts + rows, int64_t{0}, thrust::plus<int64_t>());
  });
  COPPICE_CUDA(cudaStreamSynchronize(context.stream));
  if (total > kMost) bad_input("a sparse weight of {} nonzeros needs numbers beyond 32 bits", total);
  COPPICE_CUDA(cudaMemsetAsync(counts + rows, 0, sizeof *counts, context.stream));
  with_thrust(context, [counts, rows](const auto& policy) {
    thrust::exclusive_scan(policy, counts, counts + rows + 1, counts);
  });
  return total;
}

CompressedRows allocate(const CudaContext& context, int64_t rows, int64_t cols, IndexWidth width) {
  CompressedRows a;
  a.rows = rows;
  a.cols = cols;
  a.width = width;
  a.offsets = DeviceArray<int32_t>(*context.memory, rows + 1, "a sparse matrix");
  return a;
}

void allocate_nonzeros(const CudaContext& context, int64_t nonzeros, CompressedRows& a) {
  a.nonzeros = nonzeros;
  const int64_t index_bytes = a.width == IndexWidth::two_bytes ? 2 : 4;
  a.indices = DeviceArray<char>(*context.memory, nonzeros * index_bytes, "a sparse matrix");
  a.values = DeviceArray<float>(*context.memory, nonzeros, "a sparse matrix");
}

}  // namespace

CompressedRows compress(const CudaContext& context, MatrixView<const float> values, IndexWidth width) {
  if (values.cols > kMost || values.rows >= kMost) {
    bad_input("a sparse weight of [{}, {}] needs row or column numbers beyond 32 bits", values.rows,
              values.cols);
  }
  CompressedRows a = allocate(context, values.rows, values.cols, width);
  const unsigned grid = warps_for(a.rows);
  launch(count_kernel, dim3(grid), dim3(kBlock), 0, context.stream, values.data, values.stride, a.rows,
         a.cols, a.offsets.data());
  allocate_nonzeros(context, count_to_offsets(context, a.offsets.data(), a.rows), a);
  with_indices(a, [&](auto* indices) {
    launch(fill_kernel<std::remove_pointer_t<decltype(indices)>>, dim3(grid), dim3(kBlock), 0, context.stream,
           values.data, values.stride, a.rows, a.cols, a.offsets.data(), indices, a.values.data());
  });
  return a;
}

CompressedRows transpose(const CudaContext& context, const CompressedRows& a, IndexWidth width,
                         DeviceArray<int32_t>& permutation) {
  CompressedRows t = allocate(context, a.cols, a.rows, width);
  allocate_nonzeros(context, a.nonzeros, t);
  permutation = DeviceArray<int32_t>(*context.memory, a.nonzeros, "a transposed sparse matrix");
  // Sorted stably by column, the nonzeros of a column stay in the order of rows.
  const DeviceArray<char> columns(*context.memory, a.indices.count(), "transposing a sparse matrix");
  COPPICE_CUDA(cudaMemcpyAsync(columns.data(), a.indices.data(), static_cast<size_t>(a.indices.bytes()),
                               cudaMemcpyDeviceToDevice, context.stream));
  with_indices(a, [&](auto* indices) {
    auto* const sorted = reinterpret_cast<decltype(indices)>(columns.data());
    with_thrust(context, [sorted, n = a.nonzeros, cols = a.cols, offsets = t.offsets.data(),
                          order = permutation.data()](const auto& policy) {
      thrust::sequence(policy, order, order + n);
      thrust::stable_sort_by_key(policy, sorted, sorted + n, order);
      const thrust::counting_iterator<int32_t> column(0);
      // In 32 bits: the column behind the last may be no number of the narrow type.
      thrust::lower_bound(policy, sorted, sorted + n, column, column + (cols + 1), offsets,
                          thrust::less<int32_t>());
    });
  });
  with_indices(t, [&](auto* rows) {
    launch(row_of_nonzero_kernel<std::remove_pointer_t<decltype(rows)>>,
           dim3(blocks_for(a.nonzeros, kBlock, kMostBlocks)), dim3(kBlock), 0, context.stream,
           a.offsets.data(), a.rows, permutation.data(), a.nonzeros, rows);
  });
  return t;
}

void gather(const CudaContext& context, MatrixView<const float> values, const CompressedRows& a) {
  with_indices(a, [&](auto* indices) {
    launch(gather_kernel<std::remove_pointer_t<decltype(indices)>>, dim3(warps_for(a.rows)), dim3(kBlock), 0,
           context.stream, values.data, values.stride, a.rows, a.offsets.data(), indices, a.values.data());
  });
}

void scatter_add(const CudaContext& context, const CompressedRows& a, const float* numbered,
                 MatrixView<float> values) {
  with_indices(a, [&](auto* indices) {
    launch(scatter_add_kernel<std::remove_pointer_t<decltype(indices)>>, dim3(warps_for(a.rows)),
           dim3(kBlock), 0, context.stream, numbered, a.rows, a.offsets.data(), indices, values.data,
           values.stride);
  });
}

void permute(const CudaContext& context, const DeviceArray<int32_t>& permutation, const float* from,
             float* to) {
  launch(permute_kernel, dim3(blocks_for(permutation.count(), kBlock, context.full_grid(16))), dim3(kBlock),
         0, context.stream, permutation.data(), permutation.count(), from, to);
}

}  // namespace coppice::cuda
