#pragma once

#include <array>
#include <string>
#include <vector>

#include "ops_test.hpp"

namespace coppice::test {

/// The three products of a weight W [out, in] with x [n, in] and dy [n, out], in double.
struct WeightCase {
  int64_t n, out, in;
  std::vector<float> w, x, dy, bias;

  WeightCase(Random& random, int64_t n_, int64_t out_, int64_t in_, float sparsity = 0.0f)
      : n(n_),
        out(out_),
        in(in_),
        w(random.sparse_normals(out_ * in_, sparsity)),
        x(random.normals(n_ * in_)),
        dy(random.normals(n_ * out_)),
        bias(random.normals(out_)) {}

  std::string name() const {
    return "n " + std::to_string(n) + ", out " + std::to_string(out) + ", in " + std::to_string(in);
  }

  /// y = x·Wᵀ (+ bias) (+ start)
  std::vector<Reduction> multiply(bool with_bias, const std::vector<float>& start = {}) const {
    std::vector<Reduction> y(static_cast<size_t>(n * out));
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t o = 0; o < out; ++o) {
        Reduction& sum = y[static_cast<size_t>(r * out + o)];
        if (!start.empty()) sum.add(start[static_cast<size_t>(r * out + o)]);
        if (with_bias) sum.add(bias[static_cast<size_t>(o)]);
        for (int64_t i = 0; i < in; ++i) sum.add(term(x, r * in + i, w, o * in + i));
      }
    }
    return y;
  }
  /// dx = dy·W (+ start)
  std::vector<Reduction> multiply_transposed(const std::vector<float>& start = {}) const {
    std::vector<Reduction> dx(static_cast<size_t>(n * in));
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t i = 0; i < in; ++i) {
        Reduction& sum = dx[static_cast<size_t>(r * in + i)];
        if (!start.empty()) sum.add(start[static_cast<size_t>(r * in + i)]);
        for (int64_t o = 0; o < out; ++o) sum.add(term(dy, r * out + o, w, o * in + i));
      }
    }
    return dx;
  }
  /// dw = start + dyᵀ·x; where `only_nonzeros`, start alone at W's zeros.
  std::vector<Reduction> gradient(const std::vector<float>& start, bool only_nonzeros) const {
    std::vector<Reduction> dw(static_cast<size_t>(out * in));
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) {
        Reduction& sum = dw[static_cast<size_t>(o * in + i)];
        sum.add(start[static_cast<size_t>(o * in + i)]);
        if (only_nonzeros && w[static_cast<size_t>(o * in + i)] == 0.0f) continue;
        for (int64_t r = 0; r < n; ++r) sum.add(term(dy, r * out + o, x, r * in + i));
      }
    }
    return dw;
  }

 private:
  static double term(const std::vector<float>& a, int64_t i, const std::vector<float>& b, int64_t j) {
    return static_cast<double>(a[static_cast<size_t>(i)]) * static_cast<double>(b[static_cast<size_t>(j)]);
  }
};

/// (n, out, in): every combination of a few small sizes, a fresh draw from all odd sizes, and real layers'.
inline std::vector<std::array<int64_t, 3>> weight_shapes(Random& random) {
  std::vector<std::array<int64_t, 3>> shapes;
  for (const int64_t n : {0, 1, 3, 33}) {
    for (const int64_t out : {0, 1, 7, 33}) {
      for (const int64_t in : {0, 1, 3, 32}) shapes.push_back({n, out, in});
    }
  }
  for (int i = 0; i < 24; ++i) {
    shapes.push_back({random.one_of(kOddSizes), random.one_of(kOddSizes), random.one_of(kOddSizes)});
  }
  for (const int64_t batch : {1, 8, 32}) {
    shapes.push_back({batch, 4 * 80, 80});
    shapes.push_back({batch, 3 * 64, 64});
  }
  shapes.push_back({20, 130, 600});  // more than one block of the depth in each of the three products
  shapes.push_back({20, 600, 130});
  shapes.push_back({600, 20, 40});
  return shapes;
}

}  // namespace coppice::test
