#include <algorithm>
#include <array>
#include <utility>

#include "kernels/cpu/cpu_weight.hpp"
#include "ops_test.hpp"
#include "weight_reference.hpp"

namespace coppice::test {
namespace {

/// Every layout of a backend that leaves zeros out.
class SparseTest : public OpsTest {
 protected:
  std::vector<std::string> layouts() {
    const std::vector<std::string_view> names = backend().layouts();
    return {names.begin() + 1, names.end()};  // "dense" comes first
  }
  /// Column numbers take two bytes on a GPU where they do, and the order of rows is stored; offsets four.
  int64_t expected_bytes(const std::string& layout, int64_t nonzeros, int64_t out) {
    if (layout == "csr" && backend().device().type == Device::Type::cpu) return nonzeros * 8 + (out + 1) * 8;
    if (layout == "csr") return nonzeros * 6 + (out + 1) * 4 + (out + 31) / 32 * 32 * 4;
    return nonzeros * 8 + (out + 1) * 4;
  }
  /// Uneven on purpose: an empty row, a full row, an empty column.
  void make_uneven(WeightCase& c) {
    for (int64_t i = 0; c.out > 2 && i < c.in; ++i) {
      c.w[static_cast<size_t>(c.in + i)] = 0.0f;
      c.w[static_cast<size_t>(2 * c.in + i)] = 1.0f + random_.uniform();
    }
    for (int64_t o = 0; c.in > 1 && o < c.out; ++o) c.w[static_cast<size_t>(o * c.in + 1)] = -0.0f;
  }
};
class CpuSparseTest : public SparseTest {};

TEST_P(SparseTest, ProductsMatchDouble) {
  std::vector<std::array<int64_t, 3>> shapes = weight_shapes(random_);
  shapes.push_back({1030, 40, 33});  // more rows of x than are transposed at a time
  for (const auto& [n, out, in] : shapes) {
    WeightCase c(random_, n, out, in, random_.one_of<float>({0.0f, 0.5f, 0.9f, 1.0f}));
    make_uneven(c);
    for (const std::string& layout : layouts()) {
      SCOPED_TRACE(layout + ", " + c.name());
      TestMatrix w(backend(), out, in, c.w), x(backend(), n, in, c.x), dy(backend(), n, out, c.dy);
      TestMatrix bias(backend(), 1, out, c.bias);
      const auto weight = backend().make_weight(layout, w);
      EXPECT_EQ(weight->layout(), layout);
      EXPECT_EQ(weight->nonzeros(), std::count_if(c.w.begin(), c.w.end(), [](float v) { return v != 0.0f; }));
      if (layout != "sell") EXPECT_EQ(weight->bytes(), expected_bytes(layout, weight->nonzeros(), out));

      TestMatrix y(backend(), n, out);
      weight->multiply(x, {}, y);
      expect_close(y.values(), c.multiply(false), in);
      weight->multiply(x, bias.vector(), y);
      expect_close(y.values(), c.multiply(true), in);
      const std::vector<float> start = random_.normals(n * out);
      TestMatrix sum(backend(), n, out, start);
      weight->multiply(x, bias.vector(), sum, true);
      expect_close(sum.values(), c.multiply(true, start), in);

      TestMatrix dx(backend(), n, in);
      weight->multiply_transposed(dy, dx);
      expect_close(dx.values(), c.multiply_transposed(), out);
      const std::vector<float> dx_start = random_.normals(n * in);
      TestMatrix dx_sum(backend(), n, in, dx_start);
      weight->multiply_transposed(dy, dx_sum, true);
      expect_close(dx_sum.values(), c.multiply_transposed(dx_start), out);

      const std::vector<float> dw_start = random_.normals(out * in);
      TestMatrix dw(backend(), out, in, dw_start);
      weight->accumulate_gradient(dy, x, dw);
      const std::vector<float> gradient = dw.values();
      expect_close(gradient, c.gradient(dw_start, true), n);
      for (size_t i = 0; i < c.w.size(); ++i) {
        if (c.w[i] != 0.0f) continue;
        ASSERT_EQ(gradient[i], dw_start[i]) << "a place without a value was touched";
      }
      for (TestMatrix* output : {&y, &sum, &dx, &dx_sum, &dw}) output->expect_untouched_around();
    }
  }
}

TEST_P(SparseTest, ProductsAreTheSameBitsEveryTime) {
  WeightCase c(random_, 45, 130, 90, 0.8f);
  make_uneven(c);
  for (const std::string& layout : layouts()) {
    SCOPED_TRACE(layout);
    std::vector<std::vector<uint32_t>> first;
    for (int run = 0; run < 3; ++run) {
      TestMatrix w(backend(), c.out, c.in, c.w), x(backend(), c.n, c.in, c.x),
          dy(backend(), c.n, c.out, c.dy);
      TestMatrix y(backend(), c.n, c.out), dx(backend(), c.n, c.in), dw(backend(), c.out, c.in, c.w);
      const auto weight = backend().make_weight(layout, w);
      weight->multiply(x, {}, y);
      weight->multiply_transposed(dy, dx);
      weight->accumulate_gradient(dy, x, dw);
      const std::vector<std::vector<uint32_t>> now = {bits(y.values()), bits(dx.values()), bits(dw.values())};
      if (run == 0) first = now;
      EXPECT_EQ(now, first);
    }
  }
}

// More numbers of rows, coming back in turn, than a library's preparations are kept for.
TEST_P(SparseTest, AnyNumberOfRowsMayComeBack) {
  WeightCase most(random_, 23, 40, 30, 0.7f);
  TestMatrix w(backend(), most.out, most.in, most.w);
  for (const std::string& layout : layouts()) {
    const auto weight = backend().make_weight(layout, w);
    for (int turn = 0; turn < 2; ++turn) {
      for (int64_t n = 1; n <= most.n; n += 2) {
        WeightCase c = most;
        c.n = n;
        c.x.resize(static_cast<size_t>(n * c.in));
        c.dy.resize(static_cast<size_t>(n * c.out));
        SCOPED_TRACE(layout + ", " + c.name());
        TestMatrix x(backend(), n, c.in, c.x), dy(backend(), n, c.out, c.dy);
        TestMatrix y(backend(), n, c.out), dx(backend(), n, c.in);
        TestMatrix dw(backend(), c.out, c.in, std::vector<float>(c.w.size()));
        weight->multiply(x, {}, y);
        weight->multiply_transposed(dy, dx);
        weight->accumulate_gradient(dy, x, dw);
        expect_close(y.values(), c.multiply(false), c.in);
        expect_close(dx.values(), c.multiply_transposed(), c.out);
        expect_close(dw.values(), c.gradient(std::vector<float>(c.w.size()), true), n);
      }
    }
  }
}

TEST_P(SparseTest, RefreshTakesValuesWithinThePattern) {
  for (const std::string& layout : layouts()) {
    SCOPED_TRACE(layout);
    WeightCase c(random_, 6, 50, 34, 0.7f);
    TestMatrix w(backend(), c.out, c.in, c.w), x(backend(), c.n, c.in, c.x), dy(backend(), c.n, c.out, c.dy);
    TestMatrix y(backend(), c.n, c.out), dx(backend(), c.n, c.in);
    const auto weight = backend().make_weight(layout, w);
    weight->multiply_transposed(dy, dx);
    const int64_t nonzeros = weight->nonzeros();
    bool first = true;
    for (float& v : c.w) {
      if (v == 0.0f) continue;
      v = first ? 0.0f : v * 1.5f + 0.25f;  // a value that happens to become 0 stays in the pattern
      first = false;
    }
    weight->refresh(TestMatrix(backend(), c.out, c.in, c.w));
    EXPECT_EQ(weight->nonzeros(), nonzeros);
    weight->multiply(x, {}, y);
    weight->multiply_transposed(dy, dx);
    expect_close(y.values(), c.multiply(false), c.in);
    expect_close(dx.values(), c.multiply_transposed(), c.out);
  }
}

// Column numbers beyond 16 bits and at their end, either way round.
TEST_P(SparseTest, MatricesMayBeWideOrTall) {
  for (const auto& [out, in] :
       {std::pair<int64_t, int64_t>{2, 65'600}, {65'600, 2}, {2, 65'536}, {65'536, 2}}) {
    WeightCase c(random_, 5, out, in, 0.97f);
    for (const std::string& layout : layouts()) {
      SCOPED_TRACE(layout + ", " + c.name());
      TestMatrix w(backend(), out, in, c.w), x(backend(), c.n, in, c.x), dy(backend(), c.n, out, c.dy);
      TestMatrix y(backend(), c.n, out), dx(backend(), c.n, in);
      const auto weight = backend().make_weight(layout, w);
      weight->multiply(x, {}, y);
      expect_close(y.values(), c.multiply(false), in);
      weight->multiply_transposed(dy, dx);
      expect_close(dx.values(), c.multiply_transposed(), out);
    }
  }
}

TEST_P(CpuSparseTest, EveryRowHasTheSameBitsHoweverItIsComputed) {
  for (const auto& [n, out, in] :
       std::vector<std::array<int64_t, 3>>{{70, 257, 300}, {33, 200, 33}, {3, 900, 255}}) {
    for (const std::string& layout : layouts()) {
      WeightCase c(random_, n, out, in, 0.6f);
      make_uneven(c);
      SCOPED_TRACE(layout + ", " + c.name());
      std::vector<std::vector<uint32_t>> y_bits, dx_bits, dw_bits;
      for (const int threads : {1, 2, 3, 8}) {
        const auto other = open(threads);
        TestMatrix w(*other, out, in, c.w), x(*other, n, in, c.x), dy(*other, n, out, c.dy);
        TestMatrix y(*other, n, out), dx(*other, n, in), dw(*other, out, in, c.w);
        const auto weight = other->make_weight(layout, w);
        weight->multiply(x, {}, y);
        weight->multiply_transposed(dy, dx);
        weight->accumulate_gradient(dy, x, dw);
        y_bits.push_back(bits(y.values()));
        dx_bits.push_back(bits(dx.values()));
        dw_bits.push_back(bits(dw.values()));
        EXPECT_EQ(y_bits.back(), y_bits.front()) << threads << " threads";
        EXPECT_EQ(dx_bits.back(), dx_bits.front()) << threads << " threads";
        EXPECT_EQ(dw_bits.back(), dw_bits.front()) << threads << " threads";

        auto* rows = dynamic_cast<cpu::CpuWeight*>(weight.get());
        ASSERT_NE(rows, nullptr);
        rows->prepare_rows(false);
        rows->prepare_rows(true);
        for (int64_t count = 1; count <= n; count += 6) {
          TestMatrix some(*other, n, out), some_dx(*other, n, in);
          for (int64_t r = 0; r < n; r += count) {
            const int64_t now = std::min(count, n - r);
            rows->multiply_rows(x.view().row(r), x.view().stride, now, some.view().row(r), some.view().stride,
                                false);
            rows->multiply_transposed_rows(dy.view().row(r), dy.view().stride, now, some_dx.view().row(r),
                                           some_dx.view().stride, false);
          }
          ASSERT_EQ(bits(some.values()), y_bits.front()) << count << " rows at a time";
          ASSERT_EQ(bits(some_dx.values()), dx_bits.front()) << count << " rows at a time";
          some.expect_untouched_around();
          some_dx.expect_untouched_around();
        }
      }
    }
  }
}

TEST_P(SparseTest, UnknownLayoutsAreRefusedByName) {
  TestMatrix w(backend(), 4, 6, random_.normals(24));
  const std::string known =
      GetParam().device == "cpu" ? "cpu; known: dense, csr, sell" : "cuda:0; known: dense, csr, cusparse";
  expect_error(ErrorKind::bad_input, "no weight layout \"ellpack\" on " + known,
               [&] { backend().make_weight("ellpack", w); });
}

COPPICE_FOR_ALL_BACKENDS(SparseTest);
COPPICE_FOR_CPU_BACKENDS(CpuSparseTest);

}  // namespace
}  // namespace coppice::test
