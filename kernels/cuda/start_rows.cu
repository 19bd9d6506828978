#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/start_rows.hpp"

namespace coppice::cuda {
namespace {

constexpr int kBlock = 256;

/// A block walks along rows, so that neighbouring threads write neighbouring elements whatever the stride.
__global__ void start_rows_kernel(const float* bias, bool accumulate, float* y, int64_t stride, int64_t rows,
                                  int64_t cols) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t c = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; c < cols; c += step) {
    const float start = bias != nullptr ? bias[c] : 0.0f;
    for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
      float& to = y[r * stride + c];
      to = accumulate ? to + start : start;
    }
  }
}

}  // namespace

void start_rows(const CudaContext& context, VectorView<const float> bias, bool accumulate,
                MatrixView<float> y) {
  if (y.empty() || (accumulate && bias.empty())) return;
  const unsigned across = blocks_for(y.cols, kBlock, 1 << 16);
  const unsigned down = blocks_for(y.rows, 1, std::max<int64_t>(1, context.full_grid(8) / across));
  launch(start_rows_kernel, dim3(across, std::min(down, 65'535u)), dim3(kBlock), 0, context.stream,
         bias.empty() ? nullptr : bias.data, accumulate, y.data, y.stride, y.rows, y.cols);
}

}  // namespace coppice::cuda
