#include "kernels/cuda/layouts/cusparse.hpp"

#include <algorithm>
#include <utility>

#include "kernels/cuda/start_rows.hpp"

namespace coppice::cuda {
namespace {

constexpr auto kPlain = CUSPARSE_OPERATION_NON_TRANSPOSE;
constexpr auto kTransposed = CUSPARSE_OPERATION_TRANSPOSE;

using DenseDescription = std::unique_ptr<cusparseDnMatDescr, Ender<cusparseDestroyDnMat>>;
using VectorDescription = std::unique_ptr<cusparseDnVecDescr, Ender<cusparseDestroyDnVec>>;

SparseDescription describe(const CompressedRows& a, float* values) {
  cusparseSpMatDescr_t result = nullptr;
  COPPICE_CUDA(cusparseCreateCsr(&result, a.rows, a.cols, a.nonzeros, a.offsets.data(), a.indices.data(),
                                 values, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO,
                                 CUDA_R_32F));
  return SparseDescription(result);
}

/// A row-major [rows, cols], or (by columns) the column-major [cols, rows] that it is as well.
DenseDescription describe(MatrixView<const float> m, cusparseOrder_t order) {
  cusparseDnMatDescr_t result = nullptr;
  const bool by_columns = order == CUSPARSE_ORDER_COL;
  // The library has one kind of description; what is only read comes through it unharmed.
  COPPICE_CUDA(cusparseCreateDnMat(&result, by_columns ? m.cols : m.rows, by_columns ? m.rows : m.cols,
                                   std::max(m.stride, m.cols), const_cast<float*>(m.data), CUDA_R_32F,
                                   order));
  return DenseDescription(result);
}

VectorDescription describe_row(MatrixView<const float> m) {
  cusparseDnVecDescr_t result = nullptr;
  COPPICE_CUDA(cusparseCreateDnVec(&result, m.cols, const_cast<float*>(m.data), CUDA_R_32F));
  return VectorDescription(result);
}

}  // namespace

CusparseWeight::CusparseWeight(CudaContext& context, MatrixView<const float> values)
    : CudaWeight(values.rows, values.cols, values.device), context_(context) {
  forward_.a = compress(context, values, IndexWidth::four_bytes);  // the library has no others beside 64 bits
}

void CusparseWeight::refresh_impl(MatrixView<const float> values) {
  context_.make_current();
  gather(context_, values, forward_.a);
  // At once, not when it is next used: that may be in a captured graph.
  if (permutation_.data() != nullptr) {
    permute(context_, permutation_, forward_.a.values.data(), backward_.a.values.data());
  }
}

CusparseWeight::Plan& CusparseWeight::Plans::find(int64_t rows, CusparseWeight& weight) {
  const auto found =
      std::find_if(plans_.begin(), plans_.end(), [&](const auto& plan) { return plan.first == rows; });
  if (found != plans_.end()) {
    plans_.splice(plans_.begin(), plans_, found);
  } else {
    plans_.emplace_front(rows, Plan{});
    if (plans_.size() > kMost) {
      plans_.pop_back();
      weight.moved();  // a captured product may hold its workspace
    }
  }
  return plans_.front().second;
}

/// y (+)= x·Aᵀ, seen by columns: yᵀ (+)= A·xᵀ.
void CusparseWeight::product(Side& side, MatrixView<const float> x, bool accumulate, MatrixView<float> y) {
  if (side.a.nonzeros == 0) return start_rows(context_, {}, accumulate, y);
  const float one = 1.0f, start = accumulate ? 1.0f : 0.0f;
  Plan& plan = side.plans.find(x.rows, *this);
  if (plan.description == nullptr) plan.description = describe(side.a, side.a.values.data());
  const cusparseSpMatDescr_t a = plan.description.get();
  const auto workspace = [&](size_t bytes) {
    plan.workspace = DeviceArray<char>(*context_.memory, static_cast<int64_t>(bytes), "a cuSPARSE product");
    return plan.workspace.data();
  };
  size_t bytes = 0;
  if (x.rows == 1) {
    const VectorDescription from = describe_row(x), to = describe_row(y);
    constexpr auto kAlgorithm = CUSPARSE_SPMV_CSR_ALG2;
    if (!plan.prepared) {
      COPPICE_CUDA(cusparseSpMV_bufferSize(context_.sparse, kPlain, &one, a, from.get(), &start, to.get(),
                                           CUDA_R_32F, kAlgorithm, &bytes));
      workspace(bytes);
      plan.prepared = true;
    }
    COPPICE_CUDA(cusparseSpMV(context_.sparse, kPlain, &one, a, from.get(), &start, to.get(), CUDA_R_32F,
                              kAlgorithm, plan.workspace.data()));
    return;
  }
  const DenseDescription from = describe(x, CUSPARSE_ORDER_COL), to = describe(y, CUSPARSE_ORDER_COL);
  constexpr auto kAlgorithm = CUSPARSE_SPMM_CSR_ALG3;
  if (!plan.prepared) {
    COPPICE_CUDA(cusparseSpMM_bufferSize(context_.sparse, kPlain, kPlain, &one, a, from.get(), &start,
                                         to.get(), CUDA_R_32F, kAlgorithm, &bytes));
    COPPICE_CUDA(cusparseSpMM_preprocess(context_.sparse, kPlain, kPlain, &one, a, from.get(), &start,
                                         to.get(), CUDA_R_32F, kAlgorithm, workspace(bytes)));
    plan.prepared = true;
  }
  COPPICE_CUDA(cusparseSpMM(context_.sparse, kPlain, kPlain, &one, a, from.get(), &start, to.get(),
                            CUDA_R_32F, kAlgorithm, plan.workspace.data()));
}

void CusparseWeight::multiply_impl(MatrixView<const float> x, VectorView<const float> bias,
                                   MatrixView<float> y, bool accumulate) {
  context_.make_current();
  if (!bias.empty()) start_rows(context_, bias, accumulate, y);
  product(forward_, x, accumulate || !bias.empty(), y);
}

void CusparseWeight::multiply_transposed_impl(MatrixView<const float> dy, MatrixView<float> dx,
                                              bool accumulate) {
  context_.make_current();
  if (permutation_.data() == nullptr) {
    DeviceArray<int32_t> permutation;
    backward_.a = transpose(context_, forward_.a, IndexWidth::four_bytes, permutation);
    permutation_ = std::move(permutation);
    permute(context_, permutation_, forward_.a.values.data(), backward_.a.values.data());
  }
  product(backward_, dy, accumulate, dx);
}

void CusparseWeight::accumulate_gradient_impl(MatrixView<const float> dy, MatrixView<const float> x,
                                              MatrixView<float> dw) {
  context_.make_current();
  if (nonzeros() == 0) return;
  const float one = 1.0f, start = 0.0f;
  if (gradient_.data() == nullptr) {
    gradient_ = DeviceArray<float>(*context_.memory, nonzeros(), "a sparse weight's gradient");
  }
  Plan& plan = gradient_plans_.find(x.rows, *this);
  if (plan.description == nullptr) plan.description = describe(forward_.a, gradient_.data());
  const DenseDescription left = describe(dy, CUSPARSE_ORDER_ROW), right = describe(x, CUSPARSE_ORDER_ROW);
  if (!plan.prepared) {
    size_t bytes = 0;
    COPPICE_CUDA(cusparseSDDMM_bufferSize(context_.sparse, kTransposed, kPlain, &one, left.get(), right.get(),
                                          &start, plan.description.get(), CUDA_R_32F,
                                          CUSPARSE_SDDMM_ALG_DEFAULT, &bytes));
    plan.workspace = DeviceArray<char>(*context_.memory, static_cast<int64_t>(bytes), "a cuSPARSE product");
    COPPICE_CUDA(cusparseSDDMM_preprocess(context_.sparse, kTransposed, kPlain, &one, left.get(), right.get(),
                                          &start, plan.description.get(), CUDA_R_32F,
                                          CUSPARSE_SDDMM_ALG_DEFAULT, plan.workspace.data()));
    plan.prepared = true;
  }
  COPPICE_CUDA(cusparseSDDMM(context_.sparse, kTransposed, kPlain, &one, left.get(), right.get(), &start,
                             plan.description.get(), CUDA_R_32F, CUSPARSE_SDDMM_ALG_DEFAULT,
                             plan.workspace.data()));
  scatter_add(context_, forward_.a, gradient_.data(), dw);
}

}  // namespace coppice::cuda
