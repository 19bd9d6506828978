#include <cusparse.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "tests/cuda_on_host/emulator.hpp"

// cuSPARSE as the backend uses it: CSR with 32-bit indices, float32, scalars on the host. Beside the
// documented rules for arguments, it watches over workspaces: all of one is written over, and where a product
// was prepared (…_preprocess) all of it must still be as the preparation left it, in the very buffer that it
// was given.

namespace on_host = coppice::cuda_on_host;

struct cusparseContext {
  int device = 0;
  cudaStream_t stream = nullptr;
  cusparsePointerMode_t pointer_mode = CUSPARSE_POINTER_MODE_HOST;
};

namespace {

/// What a preparation found out, and where it left it.
struct Preparation {
  const void* buffer = nullptr;
  const char* product = "";
  int64_t width = 0;  // columns of the dense factor
  unsigned char mark = 0;
};

constexpr uint32_t kAlive = 0xa11ce5edu;

}  // namespace

struct cusparseSpMatDescr {
  uint32_t alive = kAlive;
  int64_t rows = 0, cols = 0, nonzeros = 0;
  const int32_t* offsets = nullptr;
  const int32_t* indices = nullptr;
  float* values = nullptr;
  int32_t base = 0;
  mutable Preparation prepared;
  ~cusparseSpMatDescr() { alive = 0; }
};
struct cusparseDnMatDescr {
  uint32_t alive = kAlive;
  int64_t rows = 0, cols = 0, leading = 0;
  float* values = nullptr;
  cusparseOrder_t order = CUSPARSE_ORDER_COL;
  ~cusparseDnMatDescr() { alive = 0; }
};
struct cusparseDnVecDescr {
  uint32_t alive = kAlive;
  int64_t size = 0;
  float* values = nullptr;
  ~cusparseDnVecDescr() { alive = 0; }
};

namespace {

#define COPPICE_INJECT(name) \
  if (const int status = on_host::injected(#name); status != 0) return static_cast<cusparseStatus_t>(status)

template <class Description>
void require_alive(const char* call, const Description* description) {
  if (description->alive != kAlive)
    on_host::fault("cusparse", "{}: a description was destroyed or never made", call);
}

void require_usable(const char* call, cusparseHandle_t handle) {
  if (handle->pointer_mode != CUSPARSE_POINTER_MODE_HOST) {
    on_host::fault("cusparse", "{}: the fake has no scalars on the device", call);
  }
  int device = 0;
  if (cudaGetDevice(&device) == cudaSuccess && device != handle->device) {
    on_host::fault("cusparse", "{}: the handle is of device {}, but device {} is current", call,
                   handle->device, device);
  }
}

/// A dense matrix, or its transpose.
struct Dense {
  float* values;
  int64_t rows, cols;
  int64_t row_step, col_step;

  Dense(const cusparseDnMatDescr& m, cusparseOperation_t operation)
      : values(m.values),
        rows(m.rows),
        cols(m.cols),
        row_step(m.order == CUSPARSE_ORDER_ROW ? m.leading : 1),
        col_step(m.order == CUSPARSE_ORDER_ROW ? 1 : m.leading) {
    if (operation == CUSPARSE_OPERATION_NON_TRANSPOSE) return;
    std::swap(rows, cols);
    std::swap(row_step, col_step);
  }
  float& at(int64_t r, int64_t c) const { return values[r * row_step + c * col_step]; }
  void require(const char* what) const {
    if (rows == 0 || cols == 0) return;
    on_host::require_device(
        values, static_cast<size_t>((rows - 1) * row_step + (cols - 1) * col_step + 1) * sizeof(float), what);
  }
};

/// Memory as long as it must be, offsets that rise from the base to the end, columns within the matrix.
void require_valid(const char* call, const cusparseSpMatDescr& a) {
  on_host::require_device(a.offsets, static_cast<size_t>(a.rows + 1) * sizeof(int32_t),
                          "a sparse matrix's offsets");
  on_host::require_device(a.indices, static_cast<size_t>(a.nonzeros) * sizeof(int32_t),
                          "a sparse matrix's columns");
  on_host::require_device(a.values, static_cast<size_t>(a.nonzeros) * sizeof(float),
                          "a sparse matrix's values");
  if (a.offsets[0] != a.base || a.offsets[a.rows] != a.base + a.nonzeros) {
    on_host::fault("cusparse", "{}: offsets go from {} to {} in a matrix of {} nonzeros", call, a.offsets[0],
                   a.offsets[a.rows], a.nonzeros);
  }
  for (int64_t r = 0; r < a.rows; ++r) {
    if (a.offsets[r] > a.offsets[r + 1])
      on_host::fault("cusparse", "{}: the offsets fall after row {}", call, r);
  }
  for (int64_t p = 0; p < a.nonzeros; ++p) {
    if (a.indices[p] < a.base || a.indices[p] >= a.base + a.cols) {
      on_host::fault("cusparse", "{}: nonzero {} lies in column {} of {}", call, p, a.indices[p], a.cols);
    }
  }
}

/// Not a round number, and another for each shape, so that a workspace of another product is too short.
size_t workspace_bytes(const cusparseSpMatDescr& a, int64_t width) {
  return static_cast<size_t>(1000 + 4 * a.rows + 2 * a.nonzeros + 8 * width);
}

bool aligned(const void* buffer) {
  return reinterpret_cast<uintptr_t>(buffer) % 16 == 0;
}

void prepare(cudaStream_t stream, const char* product, const cusparseSpMatDescr& a, int64_t width,
             void* buffer) {
  static unsigned char last_mark = 0;
  a.prepared = {buffer, product, width, ++last_mark};
  const cusparseSpMatDescr matrix = a;
  on_host::enqueue(
      stream,
      [=] {
        require_valid(product, matrix);
        const size_t bytes = workspace_bytes(matrix, width);
        on_host::require_device(buffer, bytes, "a workspace");
        std::memset(buffer, matrix.prepared.mark, bytes);
      },
      product);
}

/// What is to be said of a product's workspace at the call …
void check_preparation(const char* product, const cusparseSpMatDescr& a, int64_t width, const void* buffer) {
  const Preparation& p = a.prepared;
  if (p.buffer == nullptr) return;
  if (p.buffer != buffer || std::strcmp(p.product, product) != 0 || p.width != width) {
    on_host::fault("cusparse",
                   "{}: {} columns with another buffer or shape than the product ({}, {} columns) that "
                   "the matrix was prepared for",
                   product, width, p.product, p.width);
  }
}

/// … and when it runs.
void use_workspace(const char* product, const cusparseSpMatDescr& a, int64_t width, void* buffer) {
  const size_t bytes = workspace_bytes(a, width);
  on_host::require_device(buffer, bytes, "a workspace");
  if (a.prepared.buffer == nullptr) {
    std::memset(buffer, 0x5a, bytes);
    return;
  }
  const auto* const marks = static_cast<const unsigned char*>(buffer);
  for (size_t i = 0; i < bytes; ++i) {
    if (marks[i] != a.prepared.mark) {
      on_host::fault("cusparse", "{}: what the preparation left in the workspace was overwritten at byte {}",
                     product, i);
    }
  }
}

float blend(float alpha, float product, float beta, const float& before) {
  return beta == 0.0f ? alpha * product : alpha * product + beta * before;  // 0: what was there is not read
}

float scalar(const void* at) {
  return *static_cast<const float*>(at);
}

cusparseStatus_t check_spmm(const char* call, cusparseHandle_t handle, cusparseOperation_t opA,
                            cusparseOperation_t opB, const void* alpha, cusparseConstSpMatDescr_t a,
                            cusparseConstDnMatDescr_t b, const void* beta, cusparseDnMatDescr_t c,
                            cudaDataType type, cusparseSpMMAlg_t algorithm) {
  if (handle == nullptr) return CUSPARSE_STATUS_NOT_INITIALIZED;
  if (alpha == nullptr || beta == nullptr || a == nullptr || b == nullptr || c == nullptr) {
    return CUSPARSE_STATUS_INVALID_VALUE;
  }
  require_usable(call, handle);
  require_alive(call, a);
  require_alive(call, b);
  require_alive(call, c);
  if (type != CUDA_R_32F) return CUSPARSE_STATUS_NOT_SUPPORTED;
  switch (algorithm) {
    case CUSPARSE_SPMM_ALG_DEFAULT:
    case CUSPARSE_SPMM_CSR_ALG1:
    case CUSPARSE_SPMM_CSR_ALG2:
      break;
    case CUSPARSE_SPMM_CSR_ALG3:
      if (opA != CUSPARSE_OPERATION_NON_TRANSPOSE || opB == CUSPARSE_OPERATION_CONJUGATE_TRANSPOSE) {
        return CUSPARSE_STATUS_NOT_SUPPORTED;
      }
      break;
    default:
      return CUSPARSE_STATUS_NOT_SUPPORTED;
  }
  if (opA != CUSPARSE_OPERATION_NON_TRANSPOSE)
    on_host::fault("cusparse", "{}: the fake has no transposed matrix", call);
  const Dense factor(*b, opB);
  if (a->cols != factor.rows || a->rows != c->rows || factor.cols != c->cols)
    return CUSPARSE_STATUS_INVALID_VALUE;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t check_spmv(const char* call, cusparseHandle_t handle, cusparseOperation_t opA,
                            const void* alpha, cusparseConstSpMatDescr_t a, cusparseConstDnVecDescr_t x,
                            const void* beta, cusparseDnVecDescr_t y, cudaDataType type,
                            cusparseSpMVAlg_t algorithm) {
  if (handle == nullptr) return CUSPARSE_STATUS_NOT_INITIALIZED;
  if (alpha == nullptr || beta == nullptr || a == nullptr || x == nullptr || y == nullptr) {
    return CUSPARSE_STATUS_INVALID_VALUE;
  }
  require_usable(call, handle);
  require_alive(call, a);
  require_alive(call, x);
  require_alive(call, y);
  if (type != CUDA_R_32F) return CUSPARSE_STATUS_NOT_SUPPORTED;
  if (algorithm != CUSPARSE_SPMV_ALG_DEFAULT && algorithm != CUSPARSE_SPMV_CSR_ALG1 &&
      algorithm != CUSPARSE_SPMV_CSR_ALG2) {
    return CUSPARSE_STATUS_NOT_SUPPORTED;
  }
  if (opA != CUSPARSE_OPERATION_NON_TRANSPOSE)
    on_host::fault("cusparse", "{}: the fake has no transposed matrix", call);
  if (a->cols != x->size || a->rows != y->size) return CUSPARSE_STATUS_INVALID_VALUE;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t check_sddmm(const char* call, cusparseHandle_t handle, cusparseOperation_t opA,
                             cusparseOperation_t opB, const void* alpha, cusparseConstDnMatDescr_t a,
                             cusparseConstDnMatDescr_t b, const void* beta, cusparseSpMatDescr_t c,
                             cudaDataType type, cusparseSDDMMAlg_t algorithm) {
  if (handle == nullptr) return CUSPARSE_STATUS_NOT_INITIALIZED;
  if (alpha == nullptr || beta == nullptr || a == nullptr || b == nullptr || c == nullptr) {
    return CUSPARSE_STATUS_INVALID_VALUE;
  }
  require_usable(call, handle);
  require_alive(call, a);
  require_alive(call, b);
  require_alive(call, c);
  if (type != CUDA_R_32F || algorithm != CUSPARSE_SDDMM_ALG_DEFAULT) return CUSPARSE_STATUS_NOT_SUPPORTED;
  if (opA == CUSPARSE_OPERATION_CONJUGATE_TRANSPOSE || opB == CUSPARSE_OPERATION_CONJUGATE_TRANSPOSE) {
    return CUSPARSE_STATUS_NOT_SUPPORTED;
  }
  const Dense left(*a, opA), right(*b, opB);
  if (left.rows != c->rows || right.cols != c->cols || left.cols != right.rows)
    return CUSPARSE_STATUS_INVALID_VALUE;
  return CUSPARSE_STATUS_SUCCESS;
}

#define COPPICE_CHECK(...) \
  if (const cusparseStatus_t status = __VA_ARGS__; status != CUSPARSE_STATUS_SUCCESS) return status

}  // namespace

extern "C" {

cusparseStatus_t cusparseCreate(cusparseHandle_t* handle) {
  COPPICE_INJECT(cusparseCreate);
  if (handle == nullptr) return CUSPARSE_STATUS_INVALID_VALUE;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return CUSPARSE_STATUS_NOT_INITIALIZED;
  *handle = new cusparseContext{device};
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseDestroy(cusparseHandle_t handle) {
  COPPICE_INJECT(cusparseDestroy);
  if (handle == nullptr) return CUSPARSE_STATUS_NOT_INITIALIZED;
  delete handle;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSetStream(cusparseHandle_t handle, cudaStream_t stream) {
  COPPICE_INJECT(cusparseSetStream);
  if (handle == nullptr) return CUSPARSE_STATUS_NOT_INITIALIZED;
  handle->stream = stream;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSetPointerMode(cusparseHandle_t handle, cusparsePointerMode_t mode) {
  COPPICE_INJECT(cusparseSetPointerMode);
  if (handle == nullptr) return CUSPARSE_STATUS_NOT_INITIALIZED;
  handle->pointer_mode = mode;
  return CUSPARSE_STATUS_SUCCESS;
}

const char* cusparseGetErrorName(cusparseStatus_t status) {
  switch (status) {
#define COPPICE_NAME(name) \
  case name:               \
    return #name
    COPPICE_NAME(CUSPARSE_STATUS_SUCCESS);
    COPPICE_NAME(CUSPARSE_STATUS_NOT_INITIALIZED);
    COPPICE_NAME(CUSPARSE_STATUS_ALLOC_FAILED);
    COPPICE_NAME(CUSPARSE_STATUS_INVALID_VALUE);
    COPPICE_NAME(CUSPARSE_STATUS_ARCH_MISMATCH);
    COPPICE_NAME(CUSPARSE_STATUS_EXECUTION_FAILED);
    COPPICE_NAME(CUSPARSE_STATUS_INTERNAL_ERROR);
    COPPICE_NAME(CUSPARSE_STATUS_NOT_SUPPORTED);
    COPPICE_NAME(CUSPARSE_STATUS_INSUFFICIENT_RESOURCES);
#undef COPPICE_NAME
    default:
      return "an unknown status";
  }
}

const char* cusparseGetErrorString(cusparseStatus_t status) {
  return status == CUSPARSE_STATUS_SUCCESS ? "success" : "the library refused";
}

cusparseStatus_t cusparseCreateCsr(cusparseSpMatDescr_t* description, int64_t rows, int64_t cols, int64_t nnz,
                                   void* offsets, void* columns, void* values,
                                   cusparseIndexType_t offsets_type, cusparseIndexType_t columns_type,
                                   cusparseIndexBase_t base, cudaDataType type) {
  COPPICE_INJECT(cusparseCreateCsr);
  if (description == nullptr || rows < 0 || cols < 0 || nnz < 0 || offsets == nullptr) {
    return CUSPARSE_STATUS_INVALID_VALUE;
  }
  if (nnz > 0 && (columns == nullptr || values == nullptr || nnz > rows * cols))
    return CUSPARSE_STATUS_INVALID_VALUE;
  if (base != CUSPARSE_INDEX_BASE_ZERO && base != CUSPARSE_INDEX_BASE_ONE)
    return CUSPARSE_STATUS_INVALID_VALUE;
  if (offsets_type != CUSPARSE_INDEX_32I || columns_type != CUSPARSE_INDEX_32I || type != CUDA_R_32F) {
    return CUSPARSE_STATUS_NOT_SUPPORTED;
  }
  auto made = std::make_unique<cusparseSpMatDescr>();
  made->rows = rows;
  made->cols = cols;
  made->nonzeros = nnz;
  made->offsets = static_cast<const int32_t*>(offsets);
  made->indices = static_cast<const int32_t*>(columns);
  made->values = static_cast<float*>(values);
  made->base = base == CUSPARSE_INDEX_BASE_ONE ? 1 : 0;
  *description = made.release();
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseDestroySpMat(cusparseConstSpMatDescr_t description) {
  COPPICE_INJECT(cusparseDestroySpMat);
  if (description == nullptr) return CUSPARSE_STATUS_INVALID_VALUE;
  require_alive("cusparseDestroySpMat", description);
  delete description;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseCreateDnMat(cusparseDnMatDescr_t* description, int64_t rows, int64_t cols,
                                     int64_t leading, void* values, cudaDataType type,
                                     cusparseOrder_t order) {
  COPPICE_INJECT(cusparseCreateDnMat);
  if (description == nullptr || rows < 0 || cols < 0) return CUSPARSE_STATUS_INVALID_VALUE;
  if (order != CUSPARSE_ORDER_COL && order != CUSPARSE_ORDER_ROW) return CUSPARSE_STATUS_INVALID_VALUE;
  if (leading < (order == CUSPARSE_ORDER_COL ? rows : cols)) return CUSPARSE_STATUS_INVALID_VALUE;
  if (values == nullptr && rows * cols > 0) return CUSPARSE_STATUS_INVALID_VALUE;
  if (type != CUDA_R_32F) return CUSPARSE_STATUS_NOT_SUPPORTED;
  auto made = std::make_unique<cusparseDnMatDescr>();
  made->rows = rows;
  made->cols = cols;
  made->leading = leading;
  made->values = static_cast<float*>(values);
  made->order = order;
  *description = made.release();
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseDestroyDnMat(cusparseConstDnMatDescr_t description) {
  COPPICE_INJECT(cusparseDestroyDnMat);
  if (description == nullptr) return CUSPARSE_STATUS_INVALID_VALUE;
  require_alive("cusparseDestroyDnMat", description);
  delete description;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseCreateDnVec(cusparseDnVecDescr_t* description, int64_t size, void* values,
                                     cudaDataType type) {
  COPPICE_INJECT(cusparseCreateDnVec);
  if (description == nullptr || size < 0 || (values == nullptr && size > 0))
    return CUSPARSE_STATUS_INVALID_VALUE;
  if (type != CUDA_R_32F) return CUSPARSE_STATUS_NOT_SUPPORTED;
  auto made = std::make_unique<cusparseDnVecDescr>();
  made->size = size;
  made->values = static_cast<float*>(values);
  *description = made.release();
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseDestroyDnVec(cusparseConstDnVecDescr_t description) {
  COPPICE_INJECT(cusparseDestroyDnVec);
  if (description == nullptr) return CUSPARSE_STATUS_INVALID_VALUE;
  require_alive("cusparseDestroyDnVec", description);
  delete description;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSpMM_bufferSize(cusparseHandle_t handle, cusparseOperation_t opA,
                                         cusparseOperation_t opB, const void* alpha,
                                         cusparseConstSpMatDescr_t a, cusparseConstDnMatDescr_t b,
                                         const void* beta, cusparseDnMatDescr_t c, cudaDataType type,
                                         cusparseSpMMAlg_t algorithm, size_t* bytes) {
  COPPICE_INJECT(cusparseSpMM_bufferSize);
  COPPICE_CHECK(
      check_spmm("cusparseSpMM_bufferSize", handle, opA, opB, alpha, a, b, beta, c, type, algorithm));
  if (bytes == nullptr) return CUSPARSE_STATUS_INVALID_VALUE;
  *bytes = workspace_bytes(*a, c->cols);
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSpMM_preprocess(cusparseHandle_t handle, cusparseOperation_t opA,
                                         cusparseOperation_t opB, const void* alpha,
                                         cusparseConstSpMatDescr_t a, cusparseConstDnMatDescr_t b,
                                         const void* beta, cusparseDnMatDescr_t c, cudaDataType type,
                                         cusparseSpMMAlg_t algorithm, void* buffer) {
  COPPICE_INJECT(cusparseSpMM_preprocess);
  COPPICE_CHECK(
      check_spmm("cusparseSpMM_preprocess", handle, opA, opB, alpha, a, b, beta, c, type, algorithm));
  if (buffer == nullptr || !aligned(buffer)) return CUSPARSE_STATUS_INVALID_VALUE;
  prepare(handle->stream, "cusparseSpMM", *a, c->cols, buffer);
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSpMM(cusparseHandle_t handle, cusparseOperation_t opA, cusparseOperation_t opB,
                              const void* alpha, cusparseConstSpMatDescr_t a, cusparseConstDnMatDescr_t b,
                              const void* beta, cusparseDnMatDescr_t c, cudaDataType type,
                              cusparseSpMMAlg_t algorithm, void* buffer) {
  COPPICE_INJECT(cusparseSpMM);
  COPPICE_CHECK(check_spmm("cusparseSpMM", handle, opA, opB, alpha, a, b, beta, c, type, algorithm));
  if (buffer == nullptr || !aligned(buffer)) return CUSPARSE_STATUS_INVALID_VALUE;
  check_preparation("cusparseSpMM", *a, c->cols, buffer);
  on_host::enqueue(
      handle->stream,
      [=, matrix = *a, factor = Dense(*b, opB), result = Dense(*c, CUSPARSE_OPERATION_NON_TRANSPOSE),
       scale = scalar(alpha), start = scalar(beta)] {
        use_workspace("cusparseSpMM", matrix, result.cols, buffer);
        require_valid("cusparseSpMM", matrix);
        factor.require("cusparseSpMM: B");
        result.require("cusparseSpMM: C");
        for (int64_t r = 0; r < matrix.rows; ++r) {
          for (int64_t j = 0; j < result.cols; ++j) {
            float sum = 0.0f;
            for (int64_t p = matrix.offsets[r] - matrix.base; p < matrix.offsets[r + 1] - matrix.base; ++p) {
              sum += matrix.values[p] * factor.at(matrix.indices[p] - matrix.base, j);
            }
            float& to = result.at(r, j);
            to = blend(scale, sum, start, to);
          }
        }
      },
      "cusparseSpMM");
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSpMV_bufferSize(cusparseHandle_t handle, cusparseOperation_t opA, const void* alpha,
                                         cusparseConstSpMatDescr_t a, cusparseConstDnVecDescr_t x,
                                         const void* beta, cusparseDnVecDescr_t y, cudaDataType type,
                                         cusparseSpMVAlg_t algorithm, size_t* bytes) {
  COPPICE_INJECT(cusparseSpMV_bufferSize);
  COPPICE_CHECK(check_spmv("cusparseSpMV_bufferSize", handle, opA, alpha, a, x, beta, y, type, algorithm));
  if (bytes == nullptr) return CUSPARSE_STATUS_INVALID_VALUE;
  *bytes = workspace_bytes(*a, 1);
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSpMV(cusparseHandle_t handle, cusparseOperation_t opA, const void* alpha,
                              cusparseConstSpMatDescr_t a, cusparseConstDnVecDescr_t x, const void* beta,
                              cusparseDnVecDescr_t y, cudaDataType type, cusparseSpMVAlg_t algorithm,
                              void* buffer) {
  COPPICE_INJECT(cusparseSpMV);
  COPPICE_CHECK(check_spmv("cusparseSpMV", handle, opA, alpha, a, x, beta, y, type, algorithm));
  if (buffer == nullptr || !aligned(buffer)) return CUSPARSE_STATUS_INVALID_VALUE;
  check_preparation("cusparseSpMV", *a, 1, buffer);
  on_host::enqueue(
      handle->stream,
      [=, matrix = *a, from = x->values, to = y->values, scale = scalar(alpha), start = scalar(beta)] {
        use_workspace("cusparseSpMV", matrix, 1, buffer);
        require_valid("cusparseSpMV", matrix);
        on_host::require_device(from, static_cast<size_t>(matrix.cols) * sizeof(float), "cusparseSpMV: x");
        on_host::require_device(to, static_cast<size_t>(matrix.rows) * sizeof(float), "cusparseSpMV: y");
        for (int64_t r = 0; r < matrix.rows; ++r) {
          float sum = 0.0f;
          for (int64_t p = matrix.offsets[r] - matrix.base; p < matrix.offsets[r + 1] - matrix.base; ++p) {
            sum += matrix.values[p] * from[matrix.indices[p] - matrix.base];
          }
          to[r] = blend(scale, sum, start, to[r]);
        }
      },
      "cusparseSpMV");
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSDDMM_bufferSize(cusparseHandle_t handle, cusparseOperation_t opA,
                                          cusparseOperation_t opB, const void* alpha,
                                          cusparseConstDnMatDescr_t a, cusparseConstDnMatDescr_t b,
                                          const void* beta, cusparseSpMatDescr_t c, cudaDataType type,
                                          cusparseSDDMMAlg_t algorithm, size_t* bytes) {
  COPPICE_INJECT(cusparseSDDMM_bufferSize);
  COPPICE_CHECK(
      check_sddmm("cusparseSDDMM_bufferSize", handle, opA, opB, alpha, a, b, beta, c, type, algorithm));
  if (bytes == nullptr) return CUSPARSE_STATUS_INVALID_VALUE;
  *bytes = workspace_bytes(*c, Dense(*a, opA).cols);
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSDDMM_preprocess(cusparseHandle_t handle, cusparseOperation_t opA,
                                          cusparseOperation_t opB, const void* alpha,
                                          cusparseConstDnMatDescr_t a, cusparseConstDnMatDescr_t b,
                                          const void* beta, cusparseSpMatDescr_t c, cudaDataType type,
                                          cusparseSDDMMAlg_t algorithm, void* buffer) {
  COPPICE_INJECT(cusparseSDDMM_preprocess);
  COPPICE_CHECK(
      check_sddmm("cusparseSDDMM_preprocess", handle, opA, opB, alpha, a, b, beta, c, type, algorithm));
  if (buffer == nullptr || !aligned(buffer)) return CUSPARSE_STATUS_INVALID_VALUE;
  prepare(handle->stream, "cusparseSDDMM", *c, Dense(*a, opA).cols, buffer);
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSDDMM(cusparseHandle_t handle, cusparseOperation_t opA, cusparseOperation_t opB,
                               const void* alpha, cusparseConstDnMatDescr_t a, cusparseConstDnMatDescr_t b,
                               const void* beta, cusparseSpMatDescr_t c, cudaDataType type,
                               cusparseSDDMMAlg_t algorithm, void* buffer) {
  COPPICE_INJECT(cusparseSDDMM);
  COPPICE_CHECK(check_sddmm("cusparseSDDMM", handle, opA, opB, alpha, a, b, beta, c, type, algorithm));
  if (buffer == nullptr || !aligned(buffer)) return CUSPARSE_STATUS_INVALID_VALUE;
  const Dense left(*a, opA), right(*b, opB);
  check_preparation("cusparseSDDMM", *c, left.cols, buffer);
  on_host::enqueue(
      handle->stream,
      [=, matrix = *c, scale = scalar(alpha), start = scalar(beta)] {
        use_workspace("cusparseSDDMM", matrix, left.cols, buffer);
        require_valid("cusparseSDDMM", matrix);
        left.require("cusparseSDDMM: A");
        right.require("cusparseSDDMM: B");
        for (int64_t r = 0; r < matrix.rows; ++r) {
          for (int64_t p = matrix.offsets[r] - matrix.base; p < matrix.offsets[r + 1] - matrix.base; ++p) {
            float sum = 0.0f;
            for (int64_t k = 0; k < left.cols; ++k)
              sum += left.at(r, k) * right.at(k, matrix.indices[p] - matrix.base);
            matrix.values[p] = blend(scale, sum, start, matrix.values[p]);
          }
        }
      },
      "cusparseSDDMM");
  return CUSPARSE_STATUS_SUCCESS;
}

}  // extern "C"
