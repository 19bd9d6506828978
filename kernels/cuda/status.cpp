#include "kernels/cuda/status.hpp"

#include <fmt/format.h>

#include <string_view>

namespace coppice::cuda {
namespace {

[[noreturn]] void refuse(ErrorKind kind, std::string_view library, std::string_view name,
                         std::string_view words, const char* call, const char* file, int line) {
  // What a user can act on comes first; where it was is for the report of a bug.
  throw Error(kind, fmt::format("{}: {} ({}) from {} at {}:{}", library, words, name, call, file, line));
}

}  // namespace

void expect_success(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next check of a launch would find this one again
  const bool memory = status == cudaErrorMemoryAllocation;
  refuse(memory ? ErrorKind::out_of_memory : ErrorKind::failure, "CUDA", cudaGetErrorName(status),
         cudaGetErrorString(status), call, file, line);
}

void expect_success(cublasStatus_t status, const char* call, const char* file, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  refuse(ErrorKind::failure, "cuBLAS", cublasGetStatusName(status), cublasGetStatusString(status), call, file,
         line);
}

void expect_success(cusparseStatus_t status, const char* call, const char* file, int line) {
  if (status == CUSPARSE_STATUS_SUCCESS) return;
  refuse(ErrorKind::failure, "cuSPARSE", cusparseGetErrorName(status), cusparseGetErrorString(status), call,
         file, line);
}

}  // namespace coppice::cuda
