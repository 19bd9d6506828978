#include <cublas_v2.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "tests/cuda_on_host/emulator.hpp"

// cuBLAS as the backend uses it: the vendor's own declarations, its documented rules for arguments, plain
// loops. A call that breaks a rule gets the status that the documentation names; a mistake that the real
// library would not notice (memory that is too short, a graph without a workspace) is a fault.

namespace on_host = coppice::cuda_on_host;

struct cublasContext {
  int device = 0;
  cudaStream_t stream = nullptr;
  bool has_workspace = false;
  cublasPointerMode_t pointer_mode = CUBLAS_POINTER_MODE_HOST;
};

namespace {

#define COPPICE_INJECT(name) \
  if (const int status = on_host::injected(#name); status != 0) return static_cast<cublasStatus_t>(status)

/// What the matrix units keep of a factor, to nearest even.
float rounded(float x, cublasComputeType_t type) {
  const int dropped = type == CUBLAS_COMPUTE_32F_FAST_16BF   ? 16
                      : type == CUBLAS_COMPUTE_32F_FAST_TF32 ? 13
                                                             : 0;
  if (dropped == 0 || x != x) return x;
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t odd = bits >> dropped & 1;
  return std::bit_cast<float>((bits + (1u << (dropped - 1)) - 1 + odd) >> dropped << dropped);
}

bool known(cublasOperation_t operation) {
  return operation == CUBLAS_OP_N || operation == CUBLAS_OP_T || operation == CUBLAS_OP_C;
}

/// A column-major matrix as stored, and whether it is meant transposed.
struct Factor {
  const float* data;
  int64_t leading;
  bool transposed;

  void require(int64_t rows, int64_t cols, const char* what) const {
    if (transposed) std::swap(rows, cols);
    on_host::require_device(data, static_cast<size_t>((cols - 1) * leading + rows) * sizeof(float), what);
  }
  float at(int64_t row, int64_t col) const {
    return transposed ? data[row * leading + col] : data[col * leading + row];
  }
};

/// C [m, n] = α·op(A)·op(B) + β·C. Where β is 0, C is written and not read.
void multiply(int64_t m, int64_t n, int64_t k, float alpha, Factor a, Factor b, float beta, float* c,
              int64_t ldc, cublasComputeType_t type) {
  on_host::require_device(c, static_cast<size_t>((n - 1) * ldc + m) * sizeof(float), "cublasGemmEx_64: C");
  const bool reads = k > 0 && alpha != 0.0f;
  std::vector<float> row(static_cast<size_t>(k)), columns;
  if (reads) {
    a.require(m, k, "cublasGemmEx_64: A");
    b.require(k, n, "cublasGemmEx_64: B");
    columns.resize(static_cast<size_t>(k * n));
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t l = 0; l < k; ++l) columns[static_cast<size_t>(j * k + l)] = rounded(b.at(l, j), type);
    }
  }
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t l = 0; reads && l < k; ++l) row[static_cast<size_t>(l)] = rounded(a.at(i, l), type);
    for (int64_t j = 0; j < n; ++j) {
      float sum = 0.0f;
      if (reads) {
        const float* const column = columns.data() + j * k;
        for (int64_t l = 0; l < k; ++l) sum += row[static_cast<size_t>(l)] * column[l];
      }
      float& to = c[j * ldc + i];
      to = beta == 0.0f ? alpha * sum : alpha * sum + beta * to;
    }
  }
}

}  // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  COPPICE_INJECT(cublasCreate);
  if (handle == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = new cublasContext{device};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  COPPICE_INJECT(cublasDestroy);
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  COPPICE_INJECT(cublasSetStream);
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->stream = stream;
  handle->has_workspace = false;  // the documentation: unconditionally the default workspace again
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t bytes) {
  COPPICE_INJECT(cublasSetWorkspace);
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (reinterpret_cast<uintptr_t>(workspace) % 256 != 0) return CUBLAS_STATUS_INVALID_VALUE;
  if (workspace == nullptr && bytes > 0) return CUBLAS_STATUS_INVALID_VALUE;
  on_host::require_device(workspace, bytes, "cublasSetWorkspace");
  handle->has_workspace = bytes > 0;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
  COPPICE_INJECT(cublasSetPointerMode);
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (mode != CUBLAS_POINTER_MODE_HOST && mode != CUBLAS_POINTER_MODE_DEVICE)
    return CUBLAS_STATUS_INVALID_VALUE;
  handle->pointer_mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb,
                               int64_t m, int64_t n, int64_t k, const void* alpha, const void* A,
                               cudaDataType Atype, int64_t lda, const void* B, cudaDataType Btype,
                               int64_t ldb, const void* beta, void* C, cudaDataType Ctype, int64_t ldc,
                               cublasComputeType_t computeType, cublasGemmAlgo_t algo) {
  COPPICE_INJECT(cublasGemmEx_64);
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!known(transa) || !known(transb) || m < 0 || n < 0 || k < 0) return CUBLAS_STATUS_INVALID_VALUE;
  const int64_t a_rows = transa == CUBLAS_OP_N ? m : k, b_rows = transb == CUBLAS_OP_N ? k : n;
  if (lda < std::max<int64_t>(1, a_rows) || ldb < std::max<int64_t>(1, b_rows) ||
      ldc < std::max<int64_t>(1, m)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (alpha == nullptr || beta == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  if (m > 0 && n > 0 && (C == nullptr || (k > 0 && (A == nullptr || B == nullptr)))) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (algo < CUBLAS_GEMM_DEFAULT || algo > CUBLAS_GEMM_ALGO15_TENSOR_OP) return CUBLAS_STATUS_INVALID_VALUE;
  if (Atype != CUDA_R_32F || Btype != CUDA_R_32F || Ctype != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  switch (computeType) {
    case CUBLAS_COMPUTE_32F:
    case CUBLAS_COMPUTE_32F_PEDANTIC:
    case CUBLAS_COMPUTE_32F_FAST_TF32:
    case CUBLAS_COMPUTE_32F_FAST_16BF:
      break;
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (handle->pointer_mode != CUBLAS_POINTER_MODE_HOST)
    on_host::fault("cublas", "the fake has no scalars on the device");
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (device != handle->device) {
    on_host::fault("cublas", "the handle is of device {}, but device {} is current", handle->device, device);
  }
  if (on_host::capturing(handle->stream) && !handle->has_workspace) {
    on_host::fault("cublas",
                   "a product is captured without a workspace of the user's: the library would allocate");
  }
  if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
  const Factor a{static_cast<const float*>(A), lda, transa != CUBLAS_OP_N};
  const Factor b{static_cast<const float*>(B), ldb, transb != CUBLAS_OP_N};
  const float scale = *static_cast<const float*>(alpha), start = *static_cast<const float*>(beta);
  float* const c = static_cast<float*>(C);
  on_host::enqueue(
      handle->stream, [=] { multiply(m, n, k, scale, a, b, start, c, ldc, computeType); }, "cublasGemmEx_64");
  return CUBLAS_STATUS_SUCCESS;
}

const char* cublasGetStatusName(cublasStatus_t status) {
  switch (status) {
#define COPPICE_NAME(name) \
  case name:               \
    return #name
    COPPICE_NAME(CUBLAS_STATUS_SUCCESS);
    COPPICE_NAME(CUBLAS_STATUS_NOT_INITIALIZED);
    COPPICE_NAME(CUBLAS_STATUS_ALLOC_FAILED);
    COPPICE_NAME(CUBLAS_STATUS_INVALID_VALUE);
    COPPICE_NAME(CUBLAS_STATUS_ARCH_MISMATCH);
    COPPICE_NAME(CUBLAS_STATUS_MAPPING_ERROR);
    COPPICE_NAME(CUBLAS_STATUS_EXECUTION_FAILED);
    COPPICE_NAME(CUBLAS_STATUS_INTERNAL_ERROR);
    COPPICE_NAME(CUBLAS_STATUS_NOT_SUPPORTED);
#undef COPPICE_NAME
    default:
      return "an unknown status";
  }
}

const char* cublasGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : "the library refused";
}

}  // extern "C"
