#include <cublas_v2.h>
#include <cusparse.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <vector>

#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/on_device.hpp"

// Mistakes in calls of cuBLAS and cuSPARSE that the fakes must find, by name, and the same calls without
// them.
namespace coppice::cuda_on_host {
namespace {

using testing::ExitedWithCode;

/// Runs the statement and what it queued.
#define COPPICE_EXPECT_FAULT(statement, message) \
  EXPECT_EXIT(                                   \
      {                                          \
        statement;                               \
        cudaDeviceSynchronize();                 \
        std::exit(0);                            \
      },                                         \
      ExitedWithCode(kFaultExitCode), "cuda_on_host: " message)

class Libraries : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cublasCreate(&blas_), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cublasSetStream(blas_, stream_), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cusparseCreate(&sparse_), CUSPARSE_STATUS_SUCCESS);
    ASSERT_EQ(cusparseSetStream(sparse_, stream_), CUSPARSE_STATUS_SUCCESS);
  }
  void TearDown() override {
    EXPECT_EQ(cusparseDestroy(sparse_), CUSPARSE_STATUS_SUCCESS);
    EXPECT_EQ(cublasDestroy(blas_), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
  }

  /// C [2, 2] = A [2, 3] · B [3, 2], column-major.
  cublasStatus_t multiply(int64_t lda, const OnDevice<float>& c) {
    const float one = 1;
    const float zero = 0;
    return cublasGemmEx_64(blas_, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 3, &one, a_.data(), CUDA_R_32F, lda,
                           b_.data(), CUDA_R_32F, 3, &zero, c.data(), CUDA_R_32F, 2, CUBLAS_COMPUTE_32F,
                           CUBLAS_GEMM_DEFAULT);
  }

  /// Y [2, 2] = A · X [3, 2], row-major; A [2, 3] has 7 and 5, one a row, in the given columns. The workspace
  /// is as long as asked for, or shorter.
  void multiply_sparse(const std::vector<int>& columns, size_t missing_bytes, const OnDevice<float>& y) {
    const OnDevice<int> offsets({0, 1, 2});
    const OnDevice<int> indices(columns);
    const OnDevice<float> values({7, 5});
    const float one = 1;
    const float zero = 0;
    cusparseSpMatDescr_t a = nullptr;
    cusparseDnMatDescr_t x = nullptr;
    cusparseDnMatDescr_t result = nullptr;
    ASSERT_EQ(cusparseCreateCsr(&a, 2, 3, 2, offsets.data(), indices.data(), values.data(),
                                CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, CUDA_R_32F),
              CUSPARSE_STATUS_SUCCESS);
    ASSERT_EQ(cusparseCreateDnMat(&x, 3, 2, 2, b_.data(), CUDA_R_32F, CUSPARSE_ORDER_ROW),
              CUSPARSE_STATUS_SUCCESS);
    ASSERT_EQ(cusparseCreateDnMat(&result, 2, 2, 2, y.data(), CUDA_R_32F, CUSPARSE_ORDER_ROW),
              CUSPARSE_STATUS_SUCCESS);
    constexpr auto kPlain = CUSPARSE_OPERATION_NON_TRANSPOSE;
    size_t bytes = 0;
    ASSERT_EQ(cusparseSpMM_bufferSize(sparse_, kPlain, kPlain, &one, a, x, &zero, result, CUDA_R_32F,
                                      CUSPARSE_SPMM_CSR_ALG2, &bytes),
              CUSPARSE_STATUS_SUCCESS);
    const OnDevice<char> workspace(std::vector<char>(bytes - missing_bytes));
    ASSERT_EQ(cusparseSpMM(sparse_, kPlain, kPlain, &one, a, x, &zero, result, CUDA_R_32F,
                           CUSPARSE_SPMM_CSR_ALG2, workspace.data()),
              CUSPARSE_STATUS_SUCCESS);
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(cusparseDestroySpMat(a), CUSPARSE_STATUS_SUCCESS);
    EXPECT_EQ(cusparseDestroyDnMat(x), CUSPARSE_STATUS_SUCCESS);
    EXPECT_EQ(cusparseDestroyDnMat(result), CUSPARSE_STATUS_SUCCESS);
  }

  cudaStream_t stream_ = nullptr;
  cublasHandle_t blas_ = nullptr;
  cusparseHandle_t sparse_ = nullptr;
  const OnDevice<float> a_{{1, 2, 3, 4, 5, 6}};
  const OnDevice<float> b_{{1, 0, 2, 0, 1, 0}};
};

TEST_F(Libraries, WrongLeadingDimension) {
  const OnDevice<float> c(std::vector<float>(4, NAN));
  EXPECT_EQ(multiply(2, c), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(c.values(), (std::vector<float>{11, 14, 3, 4}));
  EXPECT_EQ(multiply(1, c), CUBLAS_STATUS_INVALID_VALUE);
  COPPICE_EXPECT_FAULT(multiply(3, c), "out of bounds: cublasGemmEx_64: A.*; in cublasGemmEx_64");
}

TEST_F(Libraries, ResultTooShort) {
  const OnDevice<float> c(std::vector<float>(3));
  COPPICE_EXPECT_FAULT(multiply(2, c), "out of bounds: cublasGemmEx_64: C");
}

TEST_F(Libraries, ProductCapturedWithoutAWorkspace) {
  const OnDevice<float> c(std::vector<float>(4));
  ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), cudaSuccess);
  COPPICE_EXPECT_FAULT(multiply(2, c), "cublas: a product is captured without a workspace");
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_F(Libraries, ShortWorkspace) {
  const OnDevice<float> y(std::vector<float>(4, NAN));
  multiply_sparse({1, 0}, 0, y);
  EXPECT_EQ(y.values(), (std::vector<float>{14, 0, 5, 0}));
  COPPICE_EXPECT_FAULT(multiply_sparse({1, 0}, 1, y), "out of bounds: a workspace");
}

TEST_F(Libraries, ColumnOutsideOfTheMatrix) {
  const OnDevice<float> y(std::vector<float>(4));
  COPPICE_EXPECT_FAULT(multiply_sparse({1, 3}, 0, y),
                       "cusparse: cusparseSpMM: nonzero 1 lies in column 3 of 3");
}

}  // namespace
}  // namespace coppice::cuda_on_host
