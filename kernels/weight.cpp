#include "kernels/weight.hpp"

#include "kernels/error.hpp"

namespace coppice {
namespace {

/// One matrix of a product against what the weight's shape demands; `rows` < 0: any number.
template <class T>
void check(const Weight& weight, const char* product, const char* name, const MatrixView<T>& matrix,
           int64_t rows, int64_t cols) {
  if (matrix.device != weight.device()) {
    bad_input("{}: {} lies on {}, the weight on {}", product, name, to_string(matrix.device),
              to_string(weight.device()));
  }
  if (matrix.cols != cols || matrix.rows < 0 || (rows >= 0 && matrix.rows != rows)) {
    bad_input("{}: {} is [{}, {}], but a weight of [{}, {}] needs [{}, {}]", product, name, matrix.rows,
              matrix.cols, weight.out(), weight.in(), rows < 0 ? std::string("n") : std::to_string(rows),
              cols);
  }
  if (matrix.rows > 1 && matrix.stride < matrix.cols) {
    bad_input("{}: {} has rows of {} elements but a stride of {}", product, name, matrix.cols, matrix.stride);
  }
  if (matrix.data == nullptr && !matrix.empty()) {
    bad_input("{}: {} [{}, {}] has no memory", product, name, matrix.rows, matrix.cols);
  }
}

}  // namespace

void Weight::refresh(MatrixView<const float> values) {
  check(*this, "refresh", "values", values, out_, in_);
  refresh_impl(values);
}

void Weight::multiply(MatrixView<const float> x, VectorView<const float> bias, MatrixView<float> y,
                      bool accumulate) {
  check(*this, "multiply", "x", x, -1, in_);
  check(*this, "multiply", "y", y, x.rows, out_);
  if (!bias.empty()) {
    if (bias.device != device_) {
      bad_input("multiply: bias lies on {}, the weight on {}", to_string(bias.device), to_string(device_));
    }
    if (bias.size != out_) {
      bad_input("multiply: bias has {} elements, but a weight of [{}, {}] needs {}", bias.size, out_, in_,
                out_);
    }
  }
  if (!y.empty()) multiply_impl(x, bias, y, accumulate);
}

void Weight::check_trainable(const char* operation) const {
  if (value_type_ == DType::f32) return;
  bad_input("{}: a weight of {} values is for inference alone; expected f32", operation,
            to_string(value_type_));
}

void Weight::multiply_transposed(MatrixView<const float> dy, MatrixView<float> dx, bool accumulate) {
  check_trainable("multiply_transposed");
  check(*this, "multiply_transposed", "dy", dy, -1, out_);
  check(*this, "multiply_transposed", "dx", dx, dy.rows, in_);
  if (!dx.empty()) multiply_transposed_impl(dy, dx, accumulate);
}

void Weight::accumulate_gradient(MatrixView<const float> dy, MatrixView<const float> x,
                                 MatrixView<float> dw) {
  check_trainable("accumulate_gradient");
  check(*this, "accumulate_gradient", "dy", dy, -1, out_);
  check(*this, "accumulate_gradient", "x", x, dy.rows, in_);
  check(*this, "accumulate_gradient", "dw", dw, out_, in_);
  if (!dw.empty() && dy.rows > 0) accumulate_gradient_impl(dy, x, dw);
}

}  // namespace coppice
