#include "kernels/cuda/dense.hpp"

#include <algorithm>

#include "kernels/cuda/start_rows.hpp"
#include "kernels/cuda/status.hpp"

namespace coppice::cuda {
namespace {

cublasComputeType_t compute_type(MatmulPrecision precision) {
  switch (precision) {
    case MatmulPrecision::tf32:
      return CUBLAS_COMPUTE_32F_FAST_TF32;
    case MatmulPrecision::bf16:
      return CUBLAS_COMPUTE_32F_FAST_16BF;
    case MatmulPrecision::fp32:
      break;
  }
  return CUBLAS_COMPUTE_32F;
}

/// A row-major [rows, cols] is cuBLAS's column-major [cols, rows] with the stride as its leading dimension.
template <class T>
int64_t leading(const MatrixView<T>& matrix) {
  return std::max({matrix.stride, matrix.cols, int64_t{1}});  // a single row may come with any stride
}

/// C [rows, cols] = (C +) op(A)·op(B), all row-major, `depth` the length of each dot product. cuBLAS sees
/// Cᵀ = op(B)ᵀ·op(A)ᵀ, so B comes first.
void product(const CudaContext& context, bool transpose_a, MatrixView<const float> a, bool transpose_b,
             MatrixView<const float> b, int64_t depth, bool accumulate, MatrixView<float> c) {
  const float one = 1.0f, start = accumulate ? 1.0f : 0.0f;
  COPPICE_CUDA(cublasGemmEx_64(context.blas, transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                               transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, c.cols, c.rows, depth, &one, b.data,
                               CUDA_R_32F, leading(b), a.data, CUDA_R_32F, leading(a), &start, c.data,
                               CUDA_R_32F, leading(c), compute_type(context.matmul), CUBLAS_GEMM_DEFAULT));
}

}  // namespace

DenseWeight::DenseWeight(CudaContext& context, MatrixView<const float> values)
    : CudaWeight(values.rows, values.cols, values.device), context_(context), values_(values) {}

void DenseWeight::refresh_impl(MatrixView<const float> values) {
  if (values.data == values_.data && values.stride == values_.stride) return;
  values_ = values;
  moved();
}

void DenseWeight::multiply_impl(MatrixView<const float> x, VectorView<const float> bias, MatrixView<float> y,
                                bool accumulate) {
  context_.make_current();
  const bool started = !bias.empty() || in() == 0;
  if (started) start_rows(context_, bias, accumulate, y);
  if (in() > 0) product(context_, false, x, true, values_, in(), accumulate || started, y);
}

void DenseWeight::multiply_transposed_impl(MatrixView<const float> dy, MatrixView<float> dx,
                                           bool accumulate) {
  context_.make_current();
  if (out() == 0) return start_rows(context_, {}, accumulate, dx);
  product(context_, false, dy, false, values_, out(), accumulate, dx);
}

void DenseWeight::accumulate_gradient_impl(MatrixView<const float> dy, MatrixView<const float> x,
                                           MatrixView<float> dw) {
  context_.make_current();
  product(context_, true, dy, false, x, x.rows, true, dw);
}

}  // namespace coppice::cuda
