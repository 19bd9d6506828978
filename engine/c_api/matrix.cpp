#include <fmt/ranges.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/c_api/guard.hpp"
#include "engine/c_api/options.hpp"
#include "engine/pipeline.hpp"
#include "engine/sparse/layout_policy.hpp"
#include "kernels/backend.hpp"

using namespace coppice::c_api;

struct coppice_matrix {
  std::unique_ptr<coppice::Backend> backend;
  coppice::Buffer values;  // what a weight that refers to its values needs
  std::unique_ptr<coppice::Weight> weight;
  std::string layout;
  coppice::Buffer in, out, bias;  // on a device that is not the host's

  bool on_host() const { return backend->device().type == coppice::Device::Type::cpu; }
};

namespace {

using coppice::Buffer;
using coppice::MatrixView;
using coppice::VectorView;

constexpr int64_t kFloat = sizeof(float);

/// n rows of the caller's where the kernels can read them.
const float* staged(coppice_matrix& matrix, Buffer& buffer, const float* host, int64_t size) {
  if (matrix.on_host()) return host;
  if (buffer.bytes() < size * kFloat) buffer = Buffer(*matrix.backend, size * kFloat, "a product's factor");
  matrix.backend->upload(host, buffer.data(), size * kFloat);
  return static_cast<const float*>(buffer.data());
}

/// Calls product(in, out) with [n, in_width] and [n, out_width] on the device.
template <class Product>
void multiply(coppice_matrix& matrix, int64_t n, const float* in, int64_t in_width, float* out,
              int64_t out_width, Product product) {
  if (n < 0) coppice::bad_input("a product of {} rows; expected 0 or more", n);
  if (n == 0) return;
  if (in_width > 0) required(in, "a product's input");
  if (out_width > 0) required(out, "a product's output");
  const coppice::Device device = matrix.backend->device();
  float* to = out;
  if (!matrix.on_host()) {
    if (matrix.out.bytes() < n * out_width * kFloat) {
      matrix.out = Buffer(*matrix.backend, n * out_width * kFloat, "a product");
    }
    to = static_cast<float*>(matrix.out.data());
  }
  product(MatrixView<const float>{staged(matrix, matrix.in, in, n * in_width), n, in_width, in_width, device},
          MatrixView<float>{to, n, out_width, out_width, device});
  if (matrix.on_host()) {
    matrix.backend->synchronize();
  } else {
    matrix.backend->download(to, out, n * out_width * kFloat);
  }
}

std::vector<float> masked_values(int64_t rows, int64_t cols, const float* values, int64_t stride,
                                 const uint8_t* mask) {
  std::vector<float> copy(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const size_t at = static_cast<size_t>(r * cols + c);
      copy[at] = mask == nullptr || mask[at] != 0 ? values[r * stride + c] : 0.0f;
    }
  }
  return copy;
}

}  // namespace

extern "C" {

coppice_status coppice_matrix_create(int64_t rows, int64_t cols, const float* values, int64_t stride,
                                     const uint8_t* mask, const char* const* options, size_t option_count,
                                     coppice_matrix** matrix) {
  return guarded([&] {
    required(matrix, "matrix");
    int64_t size = 0;
    if (rows < 0 || cols < 0 || __builtin_mul_overflow(rows, cols, &size) || size > INT64_MAX / kFloat) {
      coppice::bad_input("a matrix of {} rows and {} columns has no size", rows, cols);
    }
    if (stride == 0) stride = cols;
    if (stride < cols) coppice::bad_input("a stride of {} between rows of {}", stride, cols);
    if (size != 0) required(values, "values");
    Options given(options, option_count);
    const std::string layout = given.take_or("layout", "auto");
    const coppice::DType type = coppice::find_value_type("option values", given.take_or("values", "fp32"));
    if (!given.has("device")) given.put("device", "cpu");
    const coppice::Recipe recipe = given.recipe("");
    auto made = std::make_unique<coppice_matrix>();
    made->backend = coppice::open_backend(recipe.device, coppice::backend_options(recipe));
    const std::vector<float> copy = masked_values(rows, cols, values, stride, mask);
    made->values = Buffer(*made->backend, size * kFloat, "a matrix");
    made->backend->upload(copy.data(), made->values.data(), size * kFloat);
    const auto dense = made->values.matrix<const float>(rows, cols);
    made->weight = made->backend->make_weight(made->backend->layout_of(layout), dense, type);
    if (layout == "auto" && made->weight->bytes() >= size * coppice::size_of(type)) {
      made->weight = made->backend->make_weight("dense", dense, type);
    }
    made->layout = made->weight->layout();
    if (!made->weight->refers_to_values()) made->values = Buffer();
    *matrix = made.release();
  });
}

coppice_status coppice_matrix_layouts(const char* device, char** layouts) {
  return guarded([&] {
    required(layouts, "layouts");
    const auto backend = coppice::open_backend(required(device, "device"));
    *layouts = copy_text(fmt::format("{}", fmt::join(backend->layouts(), " ")));
  });
}

coppice_status coppice_matrix_describe(const coppice_matrix* matrix, coppice_matrix_info* info) {
  return guarded([&] {
    const coppice::Weight& weight = *required(matrix, "matrix")->weight;
    fill(info, {0, weight.out(), weight.in(), weight.nonzeros(), weight.bytes(), matrix->layout.c_str()},
         "info");
  });
}

coppice_status coppice_matrix_multiply(coppice_matrix* matrix, int64_t n, const float* x, const float* bias,
                                       float* y) {
  return guarded([&] {
    coppice::Weight& weight = *required(matrix, "matrix")->weight;
    multiply(*matrix, n, x, weight.in(), y, weight.out(), [&](auto in, auto out) {
      VectorView<const float> added{nullptr, 0, in.device};
      if (bias != nullptr) {
        added = {staged(*matrix, matrix->bias, bias, weight.out()), weight.out(), in.device};
      }
      weight.multiply(in, added, out);
    });
  });
}

coppice_status coppice_matrix_multiply_transposed(coppice_matrix* matrix, int64_t n, const float* y,
                                                  float* x) {
  return guarded([&] {
    coppice::Weight& weight = *required(matrix, "matrix")->weight;
    multiply(*matrix, n, y, weight.out(), x, weight.in(),
             [&](auto in, auto out) { weight.multiply_transposed(in, out); });
  });
}

void coppice_matrix_free(coppice_matrix* matrix) {
  delete matrix;
}

}  // extern "C"
