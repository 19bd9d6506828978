#include "kernels/cpu/layouts/sell.hpp"

#include <limits>
#include <utility>

namespace coppice::cpu {
namespace {

/// Up to so many rows of x, the form for one of them is faster, one by one.
constexpr int64_t kFewRows = 3;
constexpr int64_t kManyRows = std::numeric_limits<int64_t>::max();

}  // namespace

SellMatrix::SellMatrix(const CpuContext& context, CompressedRows matrix, DType values)
    : context_(context), values_(values), nonzeros_(matrix.nonzeros()), source_(std::move(matrix)) {
  if (values_ != DType::bf16) return;
  for (float& value : source_->values) value = bfloat16_to_float(float_to_bfloat16(value));
}

int64_t SellMatrix::bytes() const {
  if (source_) return nonzeros_ * (2 + size_of(values_));
  return (batch_ ? batch_->bytes() : 0) + (single_ ? single_->bytes() : 0);
}

CompressedRows SellMatrix::compressed_rows() const {
  return source_ ? *source_ : batch_ ? batch_->compressed_rows() : single_->compressed_rows();
}

void SellMatrix::refresh(const DenseValues& values) {
  if (batch_) batch_->refresh(values, context_.threads);
  if (single_) single_->refresh(values, context_.threads);
  if (!source_) return;
  for (int64_t r = 0; r < source_->rows; ++r) {
    for (auto p = static_cast<size_t>(source_->row_offsets[static_cast<size_t>(r)]);
         p < static_cast<size_t>(source_->row_offsets[static_cast<size_t>(r) + 1]); ++p) {
      const float value = values.at(r, source_->col_indices[p]);
      source_->values[p] = values_ == DType::bf16 ? bfloat16_to_float(float_to_bfloat16(value)) : value;
    }
  }
}

void SellMatrix::prepare(int64_t n) {
  if (n <= kFewRows && !single_) {
    single_ = std::make_unique<SellSingle>(context_, source_ ? *source_ : batch_->compressed_rows(), values_);
  } else if (n > kFewRows && !batch_) {
    batch_ = std::make_unique<SellBatch>(context_, source_ ? *source_ : single_->compressed_rows(), values_);
  }
  source_.reset();
}

void SellMatrix::multiply(const float* x, int64_t x_stride, int64_t n, const float* bias, bool accumulate,
                          float* y, int64_t y_stride, int threads) const {
  if (batch_ && (n > kFewRows || !single_)) {
    return batch_->multiply(x, x_stride, n, bias, accumulate, y, y_stride, threads);
  }
  for (int64_t b = 0; b < n; ++b) {
    single_->multiply(x + b * x_stride, bias, accumulate, y + b * y_stride, threads);
  }
}

SellWeight::SellWeight(const CpuContext& context, MatrixView<const float> values, DType type)
    : CpuWeight(values.rows, values.cols, values.device, type),
      context_(context),
      forward_(context, compress_rows(values), type) {}

void SellWeight::refresh_impl(MatrixView<const float> values) {
  forward_.refresh({values.data, values.stride, 1});
  if (transposed_) transposed_->refresh({values.data, 1, values.stride});
}

void SellWeight::prepare_transposed(int64_t n) {
  if (!transposed_) transposed_.emplace(context_, forward_.compressed_rows().transposed(), value_type());
  transposed_->prepare(n);
}

void SellWeight::prepare_rows(bool transposed) {
  transposed ? prepare_transposed(kManyRows) : forward_.prepare(kManyRows);
}

void SellWeight::multiply_impl(MatrixView<const float> x, VectorView<const float> bias, MatrixView<float> y,
                               bool accumulate) {
  forward_.prepare(x.rows);
  forward_.multiply(x.data, x.stride, x.rows, bias.empty() ? nullptr : bias.data, accumulate, y.data,
                    y.stride, context_.threads);
}

void SellWeight::multiply_transposed_impl(MatrixView<const float> dy, MatrixView<float> dx, bool accumulate) {
  prepare_transposed(dy.rows);
  transposed_->multiply(dy.data, dy.stride, dy.rows, nullptr, accumulate, dx.data, dx.stride,
                        context_.threads);
}

void SellWeight::accumulate_gradient_impl(MatrixView<const float> dy, MatrixView<const float> x,
                                          MatrixView<float> dw) {
  if (!gradient_) {
    const CompressedRows w = forward_.compressed_rows();
    gradient_.emplace(context_, out(), in(), w.row_offsets, w.col_indices);
  }
  gradient_->add(dy, x, dw);
}

void SellWeight::multiply_rows(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                               bool accumulate) const {
  forward_.multiply(x, ldx, rows, nullptr, accumulate, y, ldy, 1);
}

void SellWeight::multiply_transposed_rows(const float* dy, int64_t ldy, int64_t rows, float* dx, int64_t ldx,
                                          bool accumulate) const {
  transposed_->multiply(dy, ldy, rows, nullptr, accumulate, dx, ldx, 1);
}

}  // namespace coppice::cpu
