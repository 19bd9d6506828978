#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/layouts/csr.hpp"

// y = x·Wᵀ with W in compressed rows. Three shapes of kernel:
//  - a few rows of x: a warp (or a quarter of one, for short rows of W) adds up one dot product, its lanes a
//    nonzero each; x is gathered, which a cache of the first level serves.
//  - many rows of x: x is transposed first, so that the 32 values that one nonzero meets lie side by side; 8
//  lanes
//    serve a row of W with 4 sums each, and no sum is ever shared between lanes.
//  - gradients: the dot products of stored places alone, over transposed rows as well.
// Each sum is taken in a fixed order: no atomics.

namespace coppice::cuda {
namespace {

constexpr int kBlock = 256;
constexpr int kBundle = 32;        // rows of W that a block serves at a time
constexpr int kTile = 32;          // rows of x that a block serves
constexpr int kLanes = kTile / 4;  // lanes that share a row of W, each with a float4 of the tile
constexpr int64_t kFewRows = 4;    // of x: up to here transposing it costs more than it saves
constexpr int64_t kChunk = 1024;   // rows of x that are transposed at a time: bounds the scratch
constexpr int kMostBlocks = 1 << 16;

static_assert(kBlock / kLanes == kBundle, "every row of a bundle has its lanes");

template <class Index>
struct Rows {
  const int32_t* offsets;
  const Index* indices;
  const float* values;
  const int32_t* order;
  int64_t rows;
  int64_t bundles;
};

/// Σ over the `kWidth` lanes of a group, the same in each. `mask` names the group.
template <int kWidth>
__device__ float sum_of_group(float sum, unsigned mask) {
  for (int step = kWidth / 2; step > 0; step /= 2) sum += __shfl_xor_sync(mask, sum, step, kWidth);
  return sum;
}

/// The lanes of this thread's group of `kWidth`.
template <int kWidth>
__device__ unsigned group_mask() {
  const unsigned first = threadIdx.x % kWarp / kWidth * kWidth;
  return (kFullMask >> (kWarp - kWidth)) << first;
}

/// A few rows of x (blockIdx.y of them): `kWidth` lanes a dot product.
template <class Index, int kWidth>
__global__ void multiply_few_kernel(Rows<Index> w, const float* x, int64_t x_stride, const float* bias,
                                    bool accumulate, float* y, int64_t y_stride) {
  const unsigned lane = threadIdx.x % kWidth, mask = group_mask<kWidth>();
  x += blockIdx.y * x_stride;
  y += blockIdx.y * y_stride;
  const int64_t step = int64_t{gridDim.x} * (kBlock / kWidth);
  for (int64_t i = int64_t{blockIdx.x} * (kBlock / kWidth) + threadIdx.x / kWidth; i < w.bundles * kBundle;
       i += step) {
    const int32_t row = w.order[i];
    if (row < 0) continue;
    const int32_t end = w.offsets[row + 1];
    float sum = 0.0f;
    for (int32_t p = w.offsets[row] + static_cast<int32_t>(lane); p < end; p += kWidth) {
      sum = fmaf(w.values[p], x[w.indices[p]], sum);
    }
    sum = sum_of_group<kWidth>(sum, mask);
    if (lane == 0) y[row] = sum + (accumulate ? y[row] : 0.0f) + (bias != nullptr ? bias[row] : 0.0f);
  }
}

/// xt[c][b] = x[b][c] for b < n, 0 for the rest of a multiple of kTile. The tile's 33rd column keeps the 32
/// lanes that read down one off each other's banks.
__global__ void transpose_rows_kernel(const float* x, int64_t x_stride, int64_t n, int64_t cols, float* xt,
                                      int64_t xt_stride) {
  COPPICE_SHARED(float, tile, [kTile][kTile + 1]);
  const int64_t b0 = int64_t{blockIdx.y} * kTile;
  for (int64_t c0 = int64_t{blockIdx.x} * kTile; c0 < cols; c0 += int64_t{gridDim.x} * kTile) {
    for (unsigned i = threadIdx.y; i < kTile; i += blockDim.y) {
      const int64_t b = b0 + i, c = c0 + threadIdx.x;
      tile[i][threadIdx.x] = b < n && c < cols ? x[b * x_stride + c] : 0.0f;
    }
    __syncthreads();
    for (unsigned i = threadIdx.y; i < kTile; i += blockDim.y) {
      const int64_t c = c0 + i;
      if (c < cols) xt[c * xt_stride + b0 + threadIdx.x] = tile[threadIdx.x][i];
    }
    __syncthreads();  // the next tile overwrites this one
  }
}

/// Many rows of x, transposed: a block serves 32 rows of W (blockIdx.x, and on) and 32 of x (blockIdx.y).
template <class Index>
__global__ void __launch_bounds__(kBlock)
    multiply_many_kernel(Rows<Index> w, const float* xt, int64_t xt_stride, int64_t n, const float* bias,
                         bool accumulate, float* y, int64_t y_stride) {
  COPPICE_SHARED(float, tile, [kBundle][kTile + 1]);
  const int group = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t b0 = int64_t{blockIdx.y} * kTile;
  const float* const x = xt + b0 + lane * 4;
  for (int64_t bundle = blockIdx.x; bundle < w.bundles; bundle += gridDim.x) {
    const int32_t row = w.order[bundle * kBundle + group];
    if (row >= 0) {
      const int32_t end = w.offsets[row + 1];
      float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
      for (int32_t p = w.offsets[row]; p < end; ++p) {
        const float value = w.values[p];
        const float4 v = *reinterpret_cast<const float4*>(x + w.indices[p] * xt_stride);
        sum.x = fmaf(value, v.x, sum.x);
        sum.y = fmaf(value, v.y, sum.y);
        sum.z = fmaf(value, v.z, sum.z);
        sum.w = fmaf(value, v.w, sum.w);
      }
      float* const to = &tile[row % kBundle][lane * 4];
      to[0] = sum.x;
      to[1] = sum.y;
      to[2] = sum.z;
      to[3] = sum.w;
    }
    __syncthreads();
    const int64_t first_row = w.order[bundle * kBundle] / kBundle * kBundle;  // the longest one's: never −1
    for (int i = static_cast<int>(threadIdx.x); i < kBundle * kTile; i += kBlock) {
      const int64_t r = first_row + i % kBundle, b = b0 + i / kBundle;
      if (r >= w.rows || b >= n) continue;
      float& to = y[b * y_stride + r];
      const float start = (accumulate ? to : 0.0f) + (bias != nullptr ? bias[r] : 0.0f);
      to = tile[i % kBundle][i / kBundle] + start;
    }
    __syncthreads();  // the next bundle overwrites the tile
  }
}

/// dw[r][c] += Σ_b dyt[r][b]·xt[c][b] at the stored places: a warp takes a row, 8 of its lanes a place. What
/// lies behind row n of the tiles is 0 in both.
template <class Index>
__global__ void gradient_kernel(Rows<Index> w, const float* dyt, const float* xt, int64_t stride, float* dw,
                                int64_t dw_stride) {
  const unsigned mask = group_mask<kLanes>();
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int group = static_cast<int>(threadIdx.x) % kWarp / kLanes;
  const int64_t step = int64_t{gridDim.x} * (kBlock / kWarp);
  for (int64_t i = int64_t{blockIdx.x} * (kBlock / kWarp) + threadIdx.x / kWarp; i < w.bundles * kBundle;
       i += step) {
    const int32_t row = w.order[i];
    if (row < 0) continue;
    const float* const dy = dyt + row * stride;
    const int32_t end = w.offsets[row + 1];
    for (int32_t p = w.offsets[row] + group; p < end; p += kWarp / kLanes) {
      const float* const x = xt + w.indices[p] * stride;
      float sum = 0.0f;
      for (int64_t b = lane * 4; b < stride; b += kTile) {
        const float4 u = *reinterpret_cast<const float4*>(dy + b),
                     v = *reinterpret_cast<const float4*>(x + b);
        sum = fmaf(u.x, v.x, sum);
        sum = fmaf(u.y, v.y, sum);
        sum = fmaf(u.z, v.z, sum);
        sum = fmaf(u.w, v.w, sum);
      }
      sum = sum_of_group<kLanes>(sum, mask);
      if (lane == 0) dw[row * dw_stride + w.indices[p]] += sum;
    }
  }
}

OrderedRows in_order(const CudaContext& context, CompressedRows a) {
  std::vector<int32_t> offsets(static_cast<size_t>(a.rows) + 1);
  COPPICE_CUDA(cudaMemcpyAsync(offsets.data(), a.offsets.data(), static_cast<size_t>(a.offsets.bytes()),
                               cudaMemcpyDeviceToHost, context.stream));
  COPPICE_CUDA(cudaStreamSynchronize(context.stream));
  const auto length = [&](int64_t first, int64_t last) {
    return offsets[static_cast<size_t>(std::min(last, a.rows))] - offsets[static_cast<size_t>(first)];
  };
  std::vector<int32_t> bundles(static_cast<size_t>((a.rows + kBundle - 1) / kBundle));
  std::iota(bundles.begin(), bundles.end(), 0);
  std::stable_sort(bundles.begin(), bundles.end(), [&](int64_t b, int64_t c) {
    return length(b * kBundle, (b + 1) * kBundle) > length(c * kBundle, (c + 1) * kBundle);
  });
  std::vector<int32_t> order;
  order.reserve(bundles.size() * kBundle);
  for (const int64_t bundle : bundles) {
    const auto first = order.end() - order.begin();
    for (int64_t r = bundle * kBundle; r < (bundle + 1) * kBundle; ++r) {
      order.push_back(r < a.rows ? static_cast<int32_t>(r) : -1);
    }
    std::stable_sort(order.begin() + first, order.end(), [&](int32_t r, int32_t s) {
      return (r < 0 ? -1 : length(r, r + 1)) > (s < 0 ? -1 : length(s, s + 1));
    });
  }
  auto on_device =
      to_device<int32_t>(*context.memory, context.stream, order, "the order of a sparse matrix's rows");
  return {std::move(a), std::move(on_device), std::move(offsets)};
}

/// Calls body(Rows<uint16_t>) or body(Rows<int32_t>).
template <class Body>
void with_rows(const OrderedRows& w, Body&& body) {
  with_indices(w.a, [&](auto* indices) {
    using Index = std::remove_pointer_t<decltype(indices)>;
    body(Rows<Index>{w.a.offsets.data(), indices, w.a.values.data(), w.order.data(), w.a.rows,
                     w.order.count() / kBundle});
  });
}

int64_t tiled(int64_t rows) {
  return (rows + kTile - 1) / kTile * kTile;
}

/// xt [cols, tiled(n)] of x [n, cols].
void transpose_rows(const CudaContext& context, MatrixView<const float> x, float* xt) {
  const dim3 grid(blocks_for(x.cols, kTile, context.full_grid(8)), blocks_for(x.rows, kTile, kChunk / kTile));
  launch(transpose_rows_kernel, grid, dim3(kTile, 8), 0, context.stream, x.data, x.stride, x.rows, x.cols, xt,
         tiled(x.rows));
}

template <class Index, int kWidth>
void multiply_few(const CudaContext& context, const Rows<Index>& w, MatrixView<const float> x,
                  const float* bias, bool accumulate, MatrixView<float> y) {
  const dim3 grid(blocks_for(w.bundles * kBundle, kBlock / kWidth, kMostBlocks),
                  static_cast<unsigned>(x.rows));
  launch(multiply_few_kernel<Index, kWidth>, grid, dim3(kBlock), 0, context.stream, w, x.data, x.stride, bias,
         accumulate, y.data, y.stride);
}

/// y (+)= x·Wᵀ (+ bias).
void product(const CudaContext& context, const OrderedRows& ordered, MatrixView<const float> x,
             const float* bias, bool accumulate, MatrixView<float> y) {
  with_rows(ordered, [&](const auto& w) {
    using Index = std::remove_cvref_t<decltype(*w.indices)>;
    if (x.rows <= kFewRows) {
      // Short rows would leave most lanes of a warp without a nonzero.
      if (ordered.a.nonzeros > 16 * ordered.a.rows) {
        multiply_few<Index, kWarp>(context, w, x, bias, accumulate, y);
      } else {
        multiply_few<Index, 8>(context, w, x, bias, accumulate, y);
      }
      return;
    }
    float* const xt = context.transposed_rows->reserve<float>(x.cols * tiled(std::min(x.rows, kChunk)));
    for (int64_t first = 0; first < x.rows; first += kChunk) {
      const int64_t n = std::min(kChunk, x.rows - first);
      transpose_rows(context, x.row_slice(first, n), xt);
      const dim3 grid(blocks_for(w.bundles, 1, kMostBlocks), blocks_for(n, kTile, kChunk / kTile));
      launch(multiply_many_kernel<Index>, grid, dim3(kBlock), 0, context.stream, w, xt, tiled(n), n, bias,
             accumulate, y.row(first), y.stride);
    }
  });
}

}  // namespace

CsrWeight::CsrWeight(CudaContext& context, MatrixView<const float> values)
    : CudaWeight(values.rows, values.cols, values.device),
      context_(context),
      forward_(in_order(context, compress(context, values, narrowest(values.cols)))) {}

void CsrWeight::refresh_impl(MatrixView<const float> values) {
  context_.make_current();
  gather(context_, values, forward_.a);
  // At once, not when it is next used: that may be in a captured graph.
  if (permutation_.data() != nullptr) {
    permute(context_, permutation_, forward_.a.values.data(), backward_.a.values.data());
  }
}

void CsrWeight::multiply_impl(MatrixView<const float> x, VectorView<const float> bias, MatrixView<float> y,
                              bool accumulate) {
  context_.make_current();
  product(context_, forward_, x, bias.empty() ? nullptr : bias.data, accumulate, y);
}

void CsrWeight::multiply_transposed_impl(MatrixView<const float> dy, MatrixView<float> dx, bool accumulate) {
  context_.make_current();
  product(context_, transposed(), dy, nullptr, accumulate, dx);
}

const OrderedRows& CsrWeight::transposed() {
  if (permutation_.data() == nullptr) {
    DeviceArray<int32_t> permutation;
    backward_ = in_order(context_, transpose(context_, forward_.a, narrowest(out()), permutation));
    permutation_ = std::move(permutation);
    permute(context_, permutation_, forward_.a.values.data(), backward_.a.values.data());
  }
  return backward_;
}

SpreadCsr CsrWeight::spread() {
  if (forward_units_.units == 0) forward_units_ = spread_rows(context_, forward_.offsets, out() / in());
  return {forward_.a, forward_units_};
}
SpreadCsr CsrWeight::spread_transposed() {
  const OrderedRows& rows = transposed();
  if (backward_units_.units == 0) backward_units_ = spread_rows(context_, rows.offsets, 1);
  return {rows.a, backward_units_};
}

void CsrWeight::accumulate_gradient_impl(MatrixView<const float> dy, MatrixView<const float> x,
                                         MatrixView<float> dw) {
  context_.make_current();
  const int64_t most = tiled(std::min(x.rows, kChunk));
  float* const xt = context_.transposed_rows->reserve<float>((in() + out()) * most);
  float* const dyt = xt + in() * most;
  with_rows(forward_, [&](const auto& w) {
    using Index = std::remove_cvref_t<decltype(*w.indices)>;
    for (int64_t first = 0; first < x.rows; first += kChunk) {
      const int64_t n = std::min(kChunk, x.rows - first);
      transpose_rows(context_, x.row_slice(first, n), xt);
      transpose_rows(context_, dy.row_slice(first, n), dyt);
      launch(gradient_kernel<Index>, dim3(blocks_for(w.bundles * kBundle, kBlock / kWarp, kMostBlocks)),
             dim3(kBlock), 0, context_.stream, w, dyt, xt, tiled(n), dw.data, dw.stride);
    }
  });
}

}  // namespace coppice::cuda
