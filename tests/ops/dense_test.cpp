#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "kernels/cpu/cpu_weight.hpp"
#include "ops_test.hpp"
#include "row_splits.hpp"
#include "weight_reference.hpp"

namespace coppice::test {
namespace {

class DenseTest : public OpsTest {};
class CpuDenseTest : public OpsTest {};

TEST_P(DenseTest, ProductsMatchDouble) {
  for (const auto& [n, out, in] : weight_shapes(random_)) {
    const WeightCase c(random_, n, out, in);
    SCOPED_TRACE(c.name());
    TestMatrix w(backend(), out, in, c.w), x(backend(), n, in, c.x), dy(backend(), n, out, c.dy);
    TestMatrix bias(backend(), 1, out, c.bias);
    const auto weight = backend().dense_weight(w);
    EXPECT_EQ(weight->nonzeros(), out * in);
    EXPECT_EQ(weight->bytes(), out * in * 4);

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
    expect_close(dw.values(), c.gradient(dw_start, false), n);

    for (TestMatrix* output : {&y, &sum, &dx, &dx_sum, &dw}) output->expect_untouched_around();
  }
}

TEST_P(DenseTest, RefreshRenewsBothPackedCopies) {
  const WeightCase before(random_, 5, 40, 24), after(random_, 5, 40, 24);
  TestMatrix w(backend(), 40, 24, before.w), other(backend(), 40, 24, after.w);
  TestMatrix y(backend(), 5, 40), dx(backend(), 5, 24);
  const auto weight = backend().dense_weight(w);
  for (int use = 0; use < 3; ++use) {  // whatever is packed at the first, second or later use
    weight->multiply(TestMatrix(backend(), 5, 24, before.x), {}, y);
    weight->multiply_transposed(TestMatrix(backend(), 5, 40, before.dy), dx);
    expect_close(y.values(), before.multiply(false), 24);
    expect_close(dx.values(), before.multiply_transposed(), 40);
  }
  backend().copy(MatrixView<const float>(other), w.view());
  weight->refresh(w);
  for (int use = 0; use < 3; ++use) {
    weight->multiply(TestMatrix(backend(), 5, 24, after.x), {}, y);
    weight->multiply_transposed(TestMatrix(backend(), 5, 40, after.dy), dx);
    expect_close(y.values(), after.multiply(false), 24);
    expect_close(dx.values(), after.multiply_transposed(), 40);
  }
}

TEST_P(CpuDenseTest, EveryRowHasTheSameBitsHoweverItIsComputed) {
  for (const auto& [n, out, in] :
       std::vector<std::array<int64_t, 3>>{{33, 257, 300}, {16, 128, 33}, {70, 33, 7}, {3, 1030, 255}}) {
    const WeightCase c(random_, n, out, in);
    SCOPED_TRACE(c.name());
    expect_same_bits_however_split(
        c, 4, [&](int threads) { return open(threads); },
        [](Backend& backend, const TestMatrix& w) { return backend.dense_weight(w); });
  }
}

TEST_P(CpuDenseTest, RowsAccumulate) {
  const WeightCase c(random_, 9, 66, 300);
  TestMatrix w(backend(), c.out, c.in, c.w), x(backend(), c.n, c.in, c.x), dy(backend(), c.n, c.out, c.dy);
  const std::vector<float> y_start = random_.normals(c.n * c.out), dx_start = random_.normals(c.n * c.in);
  TestMatrix y(backend(), c.n, c.out, y_start), dx(backend(), c.n, c.in, dx_start);
  const auto weight = backend().dense_weight(w);
  auto* rows = dynamic_cast<cpu::CpuWeight*>(weight.get());
  ASSERT_NE(rows, nullptr);
  rows->prepare_rows(false);
  rows->prepare_rows(true);
  rows->multiply_rows(x.view().data, x.view().stride, c.n, y.view().data, y.view().stride, true);
  rows->multiply_transposed_rows(dy.view().data, dy.view().stride, c.n, dx.view().data, dx.view().stride,
                                 true);
  expect_close(y.values(), c.multiply(false, y_start), c.in);
  expect_close(dx.values(), c.multiply_transposed(dx_start), c.out);
}

TEST_P(DenseTest, RefusesShapesThatDoNotFit) {
  TestMatrix w(backend(), 4, 6, random_.normals(24)), x(backend(), 2, 6), y(backend(), 2, 4),
      wide(backend(), 2, 7);
  TestMatrix three(backend(), 3, 4), bias(backend(), 1, 5);
  const auto weight = backend().dense_weight(w);
  const auto expect_bad = [](const std::string& fragment, auto&& f) {
    expect_error(ErrorKind::bad_input, fragment, f);
  };
  expect_bad("multiply: x is [2, 7], but a weight of [4, 6] needs [n, 6]",
             [&] { weight->multiply(wide, {}, y); });
  expect_bad("multiply: y is [3, 4], but a weight of [4, 6] needs [2, 4]",
             [&] { weight->multiply(x, {}, three); });
  expect_bad("multiply: bias has 5 elements", [&] { weight->multiply(x, bias.vector(), y); });
  expect_bad("multiply_transposed: dy is [2, 6]", [&] { weight->multiply_transposed(x, x); });
  expect_bad("accumulate_gradient: dw is [2, 6]", [&] { weight->accumulate_gradient(y, x, x); });
  expect_bad("accumulate_gradient: x is [2, 7]", [&] { weight->accumulate_gradient(y, wide, w); });
  expect_bad("refresh: values is [2, 6]", [&] { weight->refresh(x); });

  MatrixView<float> overlapping = x.view();
  overlapping.stride = 5;
  expect_bad("stride of 5", [&] { weight->multiply(overlapping, {}, y); });
  MatrixView<float> elsewhere = x.view();
  elsewhere.device = Device{Device::Type::cuda, 1};
  expect_bad("x lies on cuda:1, the weight on " + to_string(backend().device()),
             [&] { weight->multiply(elsewhere, {}, y); });
  MatrixView<float> nothing = x.view();
  nothing.data = nullptr;
  expect_bad("x [2, 6] has no memory", [&] { weight->multiply(nothing, {}, y); });
}

/// The largest |actual − expected| / size of any element.
double worst_error(const std::vector<float>& actual, const std::vector<Reduction>& expected) {
  double worst = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(actual[i]) - expected[i].value) / expected[i].size);
  }
  return worst;
}

// tf32 keeps 11 significant bits of each factor and bf16 8; the sums stay float32.
TEST_P(DenseTest, RoundsFactorsWhereItIsToldTo) {
  const WeightCase c(random_, 40, 64, 96);
  for (const auto& [precision, bits] : {std::pair{MatmulPrecision::tf32, 11}, {MatmulPrecision::bf16, 8}}) {
    if (GetParam().device == "cpu") {
      expect_error(ErrorKind::bad_input,
                   precision == MatmulPrecision::tf32 ? "matmul is tf32" : "matmul is bf16", [&] {
                     open_backend("cpu", BackendOptions{1, precision});
                   });
      continue;
    }
    const auto other = open(BackendOptions{.matmul = precision});
    TestMatrix w(*other, c.out, c.in, c.w), x(*other, c.n, c.in, c.x), dy(*other, c.n, c.out, c.dy);
    const std::vector<float> start(static_cast<size_t>(c.out * c.in), 0.0f);
    TestMatrix y(*other, c.n, c.out), dx(*other, c.n, c.in), dw(*other, c.out, c.in, start);
    const auto weight = other->dense_weight(w);
    weight->multiply(x, {}, y);
    weight->multiply_transposed(dy, dx);
    weight->accumulate_gradient(dy, x, dw);
    // Each factor is off by half a unit in its last place at most (by a whole one where it is cut off).
    const double most = 2.1 * std::ldexp(1.0, -bits + 1), least = std::ldexp(1.0, -bits - 6);
    for (const double error :
         {worst_error(y.values(), c.multiply(false)), worst_error(dx.values(), c.multiply_transposed()),
          worst_error(dw.values(), c.gradient(start, false))}) {
      EXPECT_LE(error, most);
      EXPECT_GE(error, least) << "nothing was rounded";
    }
  }
}

COPPICE_FOR_ALL_BACKENDS(DenseTest);
COPPICE_FOR_CPU_BACKENDS(CpuDenseTest);

}  // namespace
}  // namespace coppice::test
