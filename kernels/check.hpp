#pragma once

#include <fmt/format.h>

#include <string_view>

#include "kernels/error.hpp"
#include "kernels/tensor.hpp"

// What the checked wrappers of the operations share. Each throws Error(bad_input) that names the operation
// and the argument, what was expected and what was found.

namespace coppice::check {

template <class View>
void device(std::string_view operation, std::string_view name, const View& view, Device expected) {
  if (!view.empty() && view.device != expected) {
    bad_input("{}: {} lies on {}, expected {}", operation, name, to_string(view.device), to_string(expected));
  }
}

template <class T>
void matrix(std::string_view operation, std::string_view name, const MatrixView<T>& view, int64_t rows,
            int64_t cols, Device expected) {
  if (view.rows != rows || view.cols != cols) {
    bad_input("{}: {} is [{}, {}], expected [{}, {}]", operation, name, view.rows, view.cols, rows, cols);
  }
  if (view.rows > 1 && view.stride < view.cols) {
    bad_input("{}: {} has a stride of {}, expected at least its {} columns", operation, name, view.stride,
              view.cols);
  }
  if (!view.empty() && view.data == nullptr) {
    bad_input("{}: {} [{}, {}] has no memory", operation, name, view.rows, view.cols);
  }
  device(operation, name, view, expected);
}

template <class T>
void vector(std::string_view operation, std::string_view name, const VectorView<T>& view, int64_t size,
            Device expected) {
  if (view.size != size) {
    bad_input("{}: {} has {} elements, expected {}", operation, name, view.size, size);
  }
  if (!view.empty() && view.data == nullptr) {
    bad_input("{}: {} [{}] has no memory", operation, name, view.size);
  }
  device(operation, name, view, expected);
}

/// An argument that is left empty or has exactly this size.
template <class T>
void optional_vector(std::string_view operation, std::string_view name, const VectorView<T>& view,
                     int64_t size, Device expected) {
  if (!view.empty()) vector(operation, name, view, size, expected);
}

}  // namespace coppice::check
