#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <utility>

#include "kernels/cpu/cpu_weight.hpp"
#include "kernels/half_precision.hpp"
#include "ops_test.hpp"
#include "row_splits.hpp"
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
  /// Column numbers take two bytes on a GPU where they do, and the order of rows is stored; offsets four. The
  /// sliced forms of a processor are made when they are wanted: theirs is a test of its own.
  bool bytes_are_told(const std::string& layout) { return layout == "csr" || layout == "cusparse"; }
  int64_t expected_bytes(const std::string& layout, int64_t nonzeros, int64_t out) {
    if (backend().device().type == Device::Type::cpu) return nonzeros * 8 + (out + 1) * 8;
    if (layout == "csr") return nonzeros * 6 + (out + 1) * 4 + (out + 31) / 32 * 32 * 4;
    return nonzeros * 8 + (out + 1) * 4;
  }
  /// Cuts the pattern that the layout is for.
  void cut(const std::string& layout, WeightCase& c) {
    if (layout == "bsr") {
      cut_blocks(c, random_.one_of<int64_t>({4, 8, 16}), random_.one_of<float>({0.0f, 0.6f, 0.9f, 1.0f}));
    } else if (layout == "balanced") {
      cut_balanced(c, random_.below(20));
    } else {
      make_uneven(c);
    }
  }
  std::vector<float> nonzeros(int64_t count) {
    std::vector<float> values = random_.normals(count);
    std::replace(values.begin(), values.end(), 0.0f, 1.0f);
    return values;
  }
  /// Zeros in blocks of `height` rows by one column.
  void cut_blocks(WeightCase& c, int64_t height, float sparsity) {
    c.w = nonzeros(c.out * c.in);
    for (int64_t o = 0; o < c.out; o += height) {
      for (int64_t i = 0; i < c.in; ++i) {
        if (random_.uniform() >= sparsity) continue;
        for (int64_t r = o; r < std::min(o + height, c.out); ++r)
          c.w[static_cast<size_t>(r * c.in + i)] = 0.0f;
      }
    }
  }
  /// `kept` values of every 64 columns, in each row others.
  void cut_balanced(WeightCase& c, int64_t kept) {
    c.w = nonzeros(c.out * c.in);
    for (int64_t o = 0; o < c.out; ++o) {
      for (int64_t begin = 0; begin < c.in; begin += 64) {
        const int64_t columns = std::min<int64_t>(64, c.in - begin);
        for (int64_t left = columns, to_cut = std::max<int64_t>(0, columns - kept); left > 0; --left) {
          if (random_.below(left) >= to_cut) continue;
          c.w[static_cast<size_t>(o * c.in + begin + left - 1)] = 0.0f;
          --to_cut;
        }
      }
    }
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
    for (const std::string& layout : layouts()) {
      WeightCase c(random_, n, out, in, random_.one_of<float>({0.0f, 0.5f, 0.9f, 1.0f}));
      cut(layout, c);
      SCOPED_TRACE(layout + ", " + c.name());
      TestMatrix w(backend(), out, in, c.w), x(backend(), n, in, c.x), dy(backend(), n, out, c.dy);
      TestMatrix bias(backend(), 1, out, c.bias);
      const auto weight = backend().make_weight(layout, w);
      EXPECT_EQ(weight->layout(), layout);
      EXPECT_EQ(weight->nonzeros(), std::count_if(c.w.begin(), c.w.end(), [](float v) { return v != 0.0f; }));
      if (bytes_are_told(layout)) {
        EXPECT_EQ(weight->bytes(), expected_bytes(layout, weight->nonzeros(), out));
      }

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
  for (const std::string& layout : layouts()) {
    SCOPED_TRACE(layout);
    WeightCase c(random_, 45, 130, 90, 0.8f);
    cut(layout, c);
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
  for (const std::string& layout : layouts()) {
    WeightCase most(random_, 23, 40, 30, 0.7f);
    cut(layout, most);
    TestMatrix w(backend(), most.out, most.in, most.w);
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
    WeightCase c(random_, random_.one_of<int64_t>({1, 6}), 50, 34, 0.7f);
    cut(layout, c);
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
    for (const std::string& layout : layouts()) {
      WeightCase c(random_, random_.one_of<int64_t>({1, 5}), out, in, 0.97f);
      cut(layout, c);
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
       std::vector<std::array<int64_t, 3>>{{70, 257, 300}, {33, 200, 33}, {3, 900, 255}, {1, 1900, 255}}) {
    for (const std::string& layout : layouts()) {
      WeightCase c(random_, n, out, in, 0.6f);
      cut(layout, c);
      SCOPED_TRACE(layout + ", " + c.name());
      expect_same_bits_however_split(
          c, 6, [&](int threads) { return open(threads); },
          [&](Backend& backend, const TestMatrix& w) { return backend.make_weight(layout, w); });
    }
  }
}

// The order of additions is the dense product's, so that what a masked model was tested to give is what the
// sparse one gives. Every form of every layout, whatever the number of rows.
TEST_P(CpuSparseTest, TheBitsAreThoseOfTheDenseProduct) {
  for (const std::string layout : {"sell", "bsr", "balanced"}) {
    std::vector<std::array<int64_t, 2>> sizes = {{1, 1}, {4, 64}, {33, 65}, {600, 300}, {70, 1200}};
    sizes.push_back({random_.one_of(kOddSizes), random_.one_of(kOddSizes)});
    for (const auto& [out, in] : sizes) {
      for (const int64_t n : {1, 2, 3, 4, 16, 17, 33, 70}) {
        WeightCase c(random_, n, out, in, random_.one_of<float>({0.0f, 0.5f, 0.9f, 0.99f}));
        cut(layout, c);
        SCOPED_TRACE(layout + ", " + c.name());
        TestMatrix w(backend(), out, in, c.w), x(backend(), n, in, c.x), dy(backend(), n, out, c.dy);
        TestMatrix bias(backend(), 1, out, c.bias);
        const auto dense = backend().dense_weight(w), sparse = backend().make_weight(layout, w);
        const bool accumulate = random_.below(2) == 1, with_bias = random_.below(2) == 1;
        const std::vector<float> y_start = random_.normals(n * out), dx_start = random_.normals(n * in);
        std::vector<std::vector<uint32_t>> y_bits, dx_bits;
        for (Weight* weight : {dense.get(), sparse.get()}) {
          TestMatrix y(backend(), n, out, y_start), dx(backend(), n, in, dx_start);
          weight->multiply(x, with_bias ? bias.vector() : VectorView<float>{}, y, accumulate);
          weight->multiply_transposed(dy, dx, accumulate);
          y_bits.push_back(bits(y.values()));
          dx_bits.push_back(bits(dx.values()));
          y.expect_untouched_around();
          dx.expect_untouched_around();
        }
        ASSERT_EQ(y_bits[1], y_bits[0]);
        ASSERT_EQ(dx_bits[1], dx_bits[0]);
      }
    }
  }
}

// So that a model retrained sparse is the one retrained masked. At places that aren't kept nothing is
// written; rows and columns beyond a strip and a block, and depths that fill no tile.
TEST_P(CpuSparseTest, GradientsHaveTheBitsOfTheDenseGradient) {
  for (const std::string& layout : layouts()) {
    std::vector<std::array<int64_t, 2>> sizes = {{1, 1}, {4, 64}, {33, 65}, {300, 513}, {129, 257}};
    sizes.push_back({random_.one_of(kOddSizes), random_.one_of(kOddSizes)});
    for (const auto& [out, in] : sizes) {
      for (const int64_t n : {1, 2, 3, 4, 31, 33, 64, 70, 257}) {
        WeightCase c(random_, n, out, in, random_.one_of<float>({0.0f, 0.5f, 0.9f, 0.99f}));
        cut(layout, c);
        SCOPED_TRACE(layout + ", " + c.name());
        TestMatrix w(backend(), out, in, c.w), x(backend(), n, in, c.x), dy(backend(), n, out, c.dy);
        std::vector<float> start = random_.normals(out * in);
        for (float& v : start) v = random_.below(4) == 0 ? -0.0f : v;
        TestMatrix dense_dw(backend(), out, in, start), dw(backend(), out, in, start);
        backend().dense_weight(w)->accumulate_gradient(dy, x, dense_dw);
        backend().make_weight(layout, w)->accumulate_gradient(dy, x, dw);
        dw.expect_untouched_around();
        const std::vector<uint32_t> found = bits(dw.values()), dense = bits(dense_dw.values()),
                                    before = bits(start);
        for (size_t i = 0; i < found.size(); ++i) {
          ASSERT_EQ(found[i], c.w[i] != 0.0f ? dense[i] : before[i]) << "place " << i;
        }
      }
    }
  }
}

std::vector<float> rounded(std::vector<float> values) {
  for (float& v : values) v = bfloat16_to_float(float_to_bfloat16(v));
  return values;
}

// bf16 values give the float products of the rounded values, to the bit, whichever form and tile computes
// them; against double it is the ordinary bound.
TEST_P(CpuSparseTest, Bfloat16ValuesGiveTheBitsOfTheRoundedOnes) {
  for (const std::string layout : {"dense", "sell", "bsr", "balanced"}) {
    std::vector<std::array<int64_t, 2>> sizes = {{0, 3},   {3, 0},     {1, 1},     {4, 64},   {7, 31},
                                                 {33, 65}, {257, 255}, {600, 300}, {70, 1200}};
    sizes.push_back({random_.one_of(kOddSizes), random_.one_of(kOddSizes)});
    for (const auto& [out, in] : sizes) {
      for (const int64_t n : {0, 1, 2, 4, 17, 33, 70}) {
        if (n * out * in > 3'000'000) continue;
        WeightCase c(random_, n, out, in, random_.one_of<float>({0.0f, 0.5f, 0.9f, 0.99f}));
        cut(layout == "dense" ? "sell" : layout, c);
        SCOPED_TRACE(layout + ", " + c.name());
        WeightCase of_rounded = c;
        of_rounded.w = rounded(c.w);
        TestMatrix w(backend(), out, in, c.w), w_rounded(backend(), out, in, of_rounded.w);
        TestMatrix x(backend(), n, in, c.x), bias(backend(), 1, out, c.bias);
        const auto weight = backend().make_weight(layout, w, DType::bf16);
        EXPECT_EQ(weight->value_type(), DType::bf16);
        const std::vector<float> start = random_.normals(n * out);
        TestMatrix y(backend(), n, out, start), expected(backend(), n, out, start);
        const bool accumulate = random_.below(2) == 1;
        weight->multiply(x, bias.vector(), y, accumulate);
        backend().make_weight(layout, w_rounded)->multiply(x, bias.vector(), expected, accumulate);
        ASSERT_EQ(bits(y.values()), bits(expected.values()));
        expect_close(y.values(), of_rounded.multiply(true, accumulate ? start : std::vector<float>()), in);
        y.expect_untouched_around();

        // The float values may change and go: they are rounded again when they are taken over again.
        for (float& v : c.w) v *= 1.37f;
        weight->refresh(TestMatrix(backend(), out, in, c.w));
        of_rounded.w = rounded(c.w);
        weight->multiply(x, {}, y);
        expect_close(y.values(), of_rounded.multiply(false), in);
      }
    }
  }
}

TEST_P(CpuSparseTest, RowsOfBfloat16ValuesAreTheSameHoweverTheyAreComputed) {
  for (const std::string layout : {"dense", "sell", "bsr", "balanced"}) {
    WeightCase c(random_, 33, 257, 300, 0.6f);
    cut(layout == "dense" ? "sell" : layout, c);
    SCOPED_TRACE(layout);
    TestMatrix w(backend(), c.out, c.in, c.w), x(backend(), c.n, c.in, c.x), y(backend(), c.n, c.out);
    backend().make_weight(layout, w, DType::bf16)->multiply(x, {}, y);
    const std::vector<uint32_t> all = bits(y.values());
    const auto other = open(1);
    const auto weight = other->make_weight(layout, w, DType::bf16);
    auto* rows = dynamic_cast<cpu::CpuWeight*>(weight.get());
    ASSERT_NE(rows, nullptr);
    rows->prepare_rows(false);
    for (const int64_t step : {1, 5, 33}) {
      TestMatrix parts(backend(), c.n, c.out);
      for (int64_t r = 0; r < c.n; r += step) {
        rows->multiply_rows(x.view().row(r), x.view().stride, std::min(step, c.n - r), parts.view().row(r),
                            parts.view().stride, false);
      }
      EXPECT_EQ(bits(parts.values()), all);
    }
  }
}

TEST_P(CpuSparseTest, Bfloat16ValuesTakeHalfTheBytesAndAreForInference) {
  WeightCase c(random_, 1, 512, 700, 0.5f);
  cut_blocks(c, 16, 0.5f);
  TestMatrix w(backend(), c.out, c.in, c.w), x(backend(), 1, c.in, c.x), dy(backend(), 1, c.out, c.dy);
  TestMatrix y(backend(), 1, c.out), dx(backend(), 1, c.in), dw(backend(), c.out, c.in);
  for (const std::string layout : {"dense", "sell", "bsr"}) {
    const auto weight = backend().make_weight(layout, w, DType::bf16),
               floats = backend().make_weight(layout, w);
    weight->multiply(x, {}, y);
    floats->multiply(x, {}, y);
    EXPECT_GE(floats->bytes() - weight->bytes(), 2 * weight->nonzeros()) << layout;
    EXPECT_LE(2 * weight->bytes(), floats->bytes() * (layout == "sell" ? 1.25 : 1.15)) << layout;
    for (const auto& refused : std::vector<std::function<void()>>{
             [&] { weight->multiply_transposed(dy, dx); }, [&] { weight->accumulate_gradient(dy, x, dw); }}) {
      expect_error(ErrorKind::bad_input, "a weight of bf16 values is for inference alone", refused);
    }
  }
  for (const std::string_view layout : backend().layouts()) {
    EXPECT_TRUE(backend().stores(layout, DType::f32));
    EXPECT_EQ(backend().stores(layout, DType::bf16), layout != "csr");
    EXPECT_FALSE(backend().stores(layout, DType::f16));
  }
  EXPECT_FALSE(backend().stores("origami", DType::f32));
  expect_error(ErrorKind::bad_input, "layout csr: it stores f32 values, not bf16",
               [&] { backend().make_weight("csr", w, DType::bf16); });
  expect_error(ErrorKind::bad_input, "layout sell: it stores f32 and bf16 values, not f16",
               [&] { backend().make_weight("sell", w, DType::f16); });
}

TEST(Bfloat16, RoundsToTheNearestOfTwoTheEven) {
  const auto round = [](uint32_t bits) { return float_to_bfloat16(std::bit_cast<float>(bits)); };
  EXPECT_EQ(round(0x3f80'8000u), 0x3f80);  // halfway: to the even one
  EXPECT_EQ(round(0x3f81'8000u), 0x3f82);
  EXPECT_EQ(round(0x3f80'8001u), 0x3f81);
  EXPECT_EQ(round(0x3f80'7fffu), 0x3f80);
  EXPECT_EQ(round(0xbf81'8000u), 0xbf82);
  EXPECT_EQ(round(0x8000'0000u), 0x8000);
  EXPECT_EQ(round(0x0000'8001u), 0x0001);
  EXPECT_EQ(round(0x7f7f'ffffu), 0x7f80);  // beyond the largest
  EXPECT_EQ(round(0xff80'0000u), 0xff80);
  EXPECT_TRUE(std::isnan(bfloat16_to_float(round(0x7f80'0001u))));
}

// What isn't stored is not multiplied: padding must not meet an infinity of x, nor a NaN.
TEST_P(CpuSparseTest, InfinitiesReachTheRowsThatWeighThemAlone) {
  for (const std::string layout : {"sell", "bsr", "balanced"}) {
    for (const int64_t n : {1, 5, 40}) {
      WeightCase c(random_, n, 75, 130, 0.8f);
      cut(layout, c);
      const int64_t bad = random_.below(c.in);
      for (int64_t b = 0; b < n; ++b) {
        c.x[static_cast<size_t>(b * c.in + bad)] = random_.below(2) == 1 ? kPoison : -INFINITY;
      }
      SCOPED_TRACE(layout + ", " + c.name());
      TestMatrix w(backend(), c.out, c.in, c.w), x(backend(), n, c.in, c.x), y(backend(), n, c.out);
      backend().make_weight(layout, w)->multiply(x, {}, y);
      const std::vector<float> values = y.values();
      for (size_t i = 0; i < values.size(); ++i) {
        const size_t row = i % static_cast<size_t>(c.out);
        const bool weighed = c.w[row * static_cast<size_t>(c.in) + static_cast<size_t>(bad)] != 0.0f;
        ASSERT_EQ(std::isfinite(values[i]), !weighed) << "row " << row;
      }
    }
  }
}

// Memory is what products asked for: one form, or both.
TEST_P(CpuSparseTest, SlicedFormsAreSmallAndMadeWhenTheyAreWanted) {
  WeightCase c(random_, 33, 512, 700, 0.9f);
  TestMatrix w(backend(), c.out, c.in, c.w), x(backend(), c.n, c.in, c.x), y(backend(), c.n, c.out);
  const auto weight = backend().make_weight("sell", w);
  const int64_t most_of_single = weight->nonzeros() * 9;
  weight->multiply(x, {}, y);
  const int64_t batch = weight->bytes();
  EXPECT_GE(batch, weight->nonzeros() * 6);
  EXPECT_LE(batch, weight->nonzeros() * 7);
  const std::vector<uint32_t> expected = bits(y.values());
  const TestMatrix one(backend(), 1, c.in, std::vector<float>(c.x.begin(), c.x.begin() + c.in));
  TestMatrix row(backend(), 1, c.out);
  weight->multiply(one, {}, row);
  EXPECT_LE(weight->bytes() - batch, most_of_single);
  EXPECT_GE(weight->bytes() - batch, weight->nonzeros() * 5);
  EXPECT_EQ(bits(row.values()), std::vector<uint32_t>(expected.begin(), expected.begin() + c.out));

  // And one form can be made from the other.
  const auto other = backend().make_weight("sell", w);
  other->multiply(one, {}, row);
  EXPECT_LE(other->bytes(), most_of_single);
  other->multiply(x, {}, y);
  EXPECT_EQ(bits(y.values()), expected);
}

TEST_P(CpuSparseTest, PatternsAreVerified) {
  WeightCase c(random_, 1, 32, 128, 0.0f);
  cut_blocks(c, 16, 0.5f);
  for (size_t column = 0; column < 7; ++column) {
    for (size_t r = 0; r < 32; ++r) c.w[r * 128 + column] = r == 5 ? 0.0f : 1.0f;
  }
  expect_error(ErrorKind::bad_input, "rows 4 to 7 of column 6 hold both zeros and nonzeros",
               [&] { backend().make_weight("bsr", TestMatrix(backend(), 32, 128, c.w)); });
  cut_balanced(c, 6);
  for (size_t i = 64; i < 128; ++i) c.w[9 * 128 + i] = 0.0f;
  expect_error(ErrorKind::bad_input,
               "row 9 of a matrix of [32, 128] has 0 nonzeros in columns 64 to 127, where another row has 6",
               [&] { backend().make_weight("balanced", TestMatrix(backend(), 32, 128, c.w)); });
}

// A weight that was kept may be zero, by chance or until it is trained.
TEST_P(CpuSparseTest, AKeptZeroIsNoOtherPattern) {
  for (const std::string layout : {"bsr", "balanced"}) {
    SCOPED_TRACE(layout);
    WeightCase c(random_, 3, 80, 130, 0.0f);
    layout == "bsr" ? cut_blocks(c, 8, 0.5f) : cut_balanced(c, 33);
    *std::find_if(c.w.begin() + 2000, c.w.end(), [](float v) { return v != 0.0f; }) = 0.0f;
    TestMatrix w(backend(), c.out, c.in, c.w), x(backend(), c.n, c.in, c.x), y(backend(), c.n, c.out);
    backend().make_weight(layout, w)->multiply(x, {}, y);
    expect_close(y.values(), c.multiply(false), c.in);
  }
}

TEST_P(SparseTest, AGpuRefusesBfloat16Values) {
  if (backend().device().type == Device::Type::cpu) return;
  TestMatrix w(backend(), 4, 6, random_.normals(24));
  expect_error(ErrorKind::bad_input, "a weight of bf16 values on cuda:0, which stores f32 alone",
               [&] { backend().make_weight("dense", w, DType::bf16); });
}

TEST_P(SparseTest, UnknownLayoutsAreRefusedByName) {
  TestMatrix w(backend(), 4, 6, random_.normals(24));
  const std::string known = GetParam().device == "cpu" ? "cpu; known: dense, csr, sell, bsr, balanced"
                                                       : "cuda:0; known: dense, csr, cusparse";
  expect_error(ErrorKind::bad_input, "no weight layout \"ellpack\" on " + known,
               [&] { backend().make_weight("ellpack", w); });
}

COPPICE_FOR_ALL_BACKENDS(SparseTest);
COPPICE_FOR_CPU_BACKENDS(CpuSparseTest);

}  // namespace
}  // namespace coppice::test
