#include <limits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/layouts/compressed_rows.hpp"
#include "kernels/error.hpp"

namespace coppice::cuda {
namespace {

constexpr int kBlock = 256;
constexpr int kWarps = kBlock / kWarp;
constexpr int kScanBlock = 512;
/// Rows that one warp takes in order when a matrix is transposed. The table of counts that this needs is
/// 1 / kStrip of the dense matrix.
constexpr int kStrip = 32;
constexpr int kMostBlocks = 1 << 16;

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

/// offsets[i] = Σ counts[0 … i − 1] for i = 0 … count; total: the last of them, in 64 bits. One block: this
/// runs once for a matrix, over its rows. `counts` may be `offsets`.
__global__ void scan_kernel(const int32_t* counts, int64_t count, int32_t* offsets, int64_t* total) {
  COPPICE_SHARED(int64_t, warp_sums, [kScanBlock / kWarp]);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  int64_t before = 0;
  for (int64_t first = 0; first < count; first += kScanBlock) {
    const int64_t i = first + threadIdx.x;
    const int64_t own = i < count ? counts[i] : 0;
    int64_t sum = own;
    for (int step = 1; step < kWarp; step *= 2) {
      const int64_t left = __shfl_up_sync(kFullMask, sum, step);
      if (lane() >= step) sum += left;
    }
    if (lane() == kWarp - 1) warp_sums[warp] = sum;
    __syncthreads();
    int64_t start = before;
    for (int w = 0; w < kScanBlock / kWarp; ++w) {
      if (w < warp) start += warp_sums[w];
      before += warp_sums[w];
    }
    if (i < count) offsets[i] = static_cast<int32_t>(start + sum - own);
    __syncthreads();  // the next tile overwrites the sums
  }
  if (threadIdx.x == 0) {
    offsets[count] = static_cast<int32_t>(before);
    *total = before;
  }
}

/// table[s][c] = nonzeros of column c in strip s of kStrip rows. A warp takes a strip's rows one after the
/// other, within which no column comes twice: counting needs no atomics.
template <class Index>
__global__ void count_columns_kernel(const int32_t* offsets, const Index* indices, int64_t rows, int64_t cols,
                                     int64_t strips, int32_t* table) {
  for (int64_t s = warp_number(); s < strips; s += warp_count()) {
    for (int64_t r = s * kStrip; r < (s + 1) * kStrip && r < rows; ++r) {
      for (int32_t p = offsets[r] + lane(); p < offsets[r + 1]; p += kWarp) ++table[s * cols + indices[p]];
      __syncwarp();  // the next row counts up what other lanes have written
    }
  }
}

/// table[s][c] = Σ of the strips before s; counts[c] = Σ of all.
__global__ void scan_strips_kernel(int32_t* table, int64_t strips, int64_t cols, int32_t* counts) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t c = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; c < cols; c += step) {
    int32_t before = 0;
    for (int64_t s = 0; s < strips; ++s) {
      const int32_t own = table[s * cols + c];
      table[s * cols + c] = before;
      before += own;
    }
    counts[c] = before;
  }
}

/// Each nonzero into its column's row of the transpose, in the order of rows.
template <class Index, class TransposedIndex>
__global__ void fill_transposed_kernel(const int32_t* offsets, const Index* indices, int64_t rows,
                                       int64_t cols, int64_t strips, int32_t* table,
                                       const int32_t* transposed_offsets, TransposedIndex* transposed_indices,
                                       int32_t* permutation) {
  for (int64_t s = warp_number(); s < strips; s += warp_count()) {
    for (int64_t r = s * kStrip; r < (s + 1) * kStrip && r < rows; ++r) {
      for (int32_t p = offsets[r] + lane(); p < offsets[r + 1]; p += kWarp) {
        const int64_t c = indices[p];
        const int32_t place = transposed_offsets[c] + table[s * cols + c]++;
        transposed_indices[place] = static_cast<TransposedIndex>(r);
        permutation[place] = p;
      }
      __syncwarp();  // as above
    }
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

/// Exclusive sums of counts[0 … count − 1] into offsets[0 … count]; returns the total, for which it waits.
int64_t scan(const CudaContext& context, const int32_t* counts, int64_t count, int32_t* offsets) {
  const DeviceArray<int64_t> total(*context.memory, 1, "the size of a sparse matrix");
  launch(scan_kernel, dim3(1), dim3(kScanBlock), 0, context.stream, counts, count, offsets, total.data());
  int64_t result = 0;
  COPPICE_CUDA(cudaMemcpyAsync(&result, total.data(), sizeof result, cudaMemcpyDeviceToHost, context.stream));
  COPPICE_CUDA(cudaStreamSynchronize(context.stream));
  return result;
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
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (values.cols > kMost || values.rows >= kMost) {
    bad_input("a sparse weight of [{}, {}] needs row or column numbers beyond 32 bits", values.rows,
              values.cols);
  }
  CompressedRows a = allocate(context, values.rows, values.cols, width);
  const unsigned grid = warps_for(a.rows);
  launch(count_kernel, dim3(grid), dim3(kBlock), 0, context.stream, values.data, values.stride, a.rows,
         a.cols, a.offsets.data());
  const int64_t nonzeros = scan(context, a.offsets.data(), a.rows, a.offsets.data());
  if (nonzeros > kMost) bad_input("a sparse weight of {} nonzeros needs numbers beyond 32 bits", nonzeros);
  allocate_nonzeros(context, nonzeros, a);
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
  const int64_t strips = (a.rows + kStrip - 1) / kStrip;
  const DeviceArray<int32_t> table(*context.memory, strips * a.cols, "transposing a sparse matrix");
  COPPICE_CUDA(cudaMemsetAsync(table.data(), 0, static_cast<size_t>(table.bytes()), context.stream));
  with_indices(a, [&](auto* indices) {
    using Index = std::remove_pointer_t<decltype(indices)>;
    launch(count_columns_kernel<Index>, dim3(warps_for(strips)), dim3(kBlock), 0, context.stream,
           a.offsets.data(), indices, a.rows, a.cols, strips, table.data());
    launch(scan_strips_kernel, dim3(blocks_for(a.cols, kBlock, kMostBlocks)), dim3(kBlock), 0, context.stream,
           table.data(), strips, a.cols, t.offsets.data());
    scan(context, t.offsets.data(), t.rows, t.offsets.data());
    with_indices(t, [&](auto* transposed_indices) {
      using TransposedIndex = std::remove_pointer_t<decltype(transposed_indices)>;
      launch(fill_transposed_kernel<Index, TransposedIndex>, dim3(warps_for(strips)), dim3(kBlock), 0,
             context.stream, a.offsets.data(), indices, a.rows, a.cols, strips, table.data(),
             t.offsets.data(), transposed_indices, permutation.data());
    });
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
