#include "engine/model/layer.hpp"
#include "kernels/error.hpp"

namespace coppice {

void Arena::reserve(int64_t bytes) {
  used_ = 0;
  if (bytes <= buffer_.bytes()) return;
  buffer_ = Buffer();  // before the larger one, or both would be held at once
  buffer_ = Buffer(*backend_, bytes, "activations");
}

MatrixView<float> Arena::matrix(int64_t rows, int64_t cols) {
  const int64_t taken = bytes(rows, cols);
  if (used_ + taken > buffer_.bytes()) {
    failure("a layer takes {} bytes of activations where {} were reserved", used_ + taken, buffer_.bytes());
  }
  const MatrixView<float> view =
      buffer_.matrix<float>(rows, cols, used_ / static_cast<int64_t>(sizeof(float)));
  used_ += taken;
  return view;
}

VectorView<float> Arena::vector(int64_t size) {
  const MatrixView<float> row = matrix(1, size);
  return {row.data, size, row.device};
}

}  // namespace coppice
