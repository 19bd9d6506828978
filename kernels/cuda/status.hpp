#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusparse.h>

#include "kernels/error.hpp"

namespace coppice::cuda {

/// Throws the library's own error unless the call went well: file, line, call and the vendor's words.
/// cudaErrorMemoryAllocation becomes Error(out_of_memory), everything else Error(failure).
void expect_success(cudaError_t status, const char* call, const char* file, int line);
void expect_success(cublasStatus_t status, const char* call, const char* file, int line);
void expect_success(cusparseStatus_t status, const char* call, const char* file, int line);

}  // namespace coppice::cuda

/// Every call of the CUDA runtime, cuBLAS and cuSPARSE goes through this.
#define COPPICE_CUDA(...) ::coppice::cuda::expect_success((__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
