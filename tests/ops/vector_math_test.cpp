#include <cmath>
#include <cstring>

#include "kernels/cpu/dispatch.hpp"
#include "kernels/cpu/isa/cells.hpp"
#include "recurrence_reference.hpp"

namespace coppice::test {
namespace {

// The functions under the gates, over all magnitudes: at most 2 ulp, and the right limits.
class VectorMathTest : public OpsTest {
 protected:
  using Function = void (*)(const float*, float*, int64_t);

  const cpu::CellKernels& kernels() {
    using namespace cpu;
    const Isa isa = GetParam().isa == "avx512" ? Isa::avx512
                    : GetParam().isa == "avx2" ? Isa::avx2
                                               : Isa::baseline;
    return COPPICE_KERNELS(isa, cell_kernels);
  }

  static double ulps(float value, double expected) {
    if (std::isnan(expected)) return std::isnan(value) ? 0 : HUGE_VAL;
    if (std::isinf(static_cast<float>(expected))) return std::isinf(value) ? 0 : HUGE_VAL;
    const int exponent = expected == 0.0 ? -126 : std::max(-126, std::ilogb(expected));
    return std::abs(value - expected) / std::ldexp(1.0, exponent - 23);
  }

  template <class Expected>
  void expect_accurate(Function function, Expected expected) {
    // Every 4099th float, from a random one on; then the numbers where something happens.
    std::vector<float> x;
    for (uint64_t b = static_cast<uint64_t>(random_.below(4099)); b <= 0xffff'ffffu; b += 4099) {
      x.push_back(std::bit_cast<float>(static_cast<uint32_t>(b)));
    }
    for (const float v : {0.0f, 1e-45f, 1e-38f, 0.5625f, 1.0f, 9.0f, 10.0f, 17.0f, 87.0f, 87.4f, 88.72f,
                          88.73f, 89.0f, 103.9f, 104.0f, 3e38f, HUGE_VALF, NAN}) {
      x.push_back(v);
      x.push_back(-v);
    }
    std::vector<float> y(x.size(), kPoison);
    function(x.data(), y.data(), static_cast<int64_t>(x.size()));
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double error = ulps(y[i], expected(static_cast<double>(x[i])));
      ASSERT_LE(error, 2.0) << "at " << x[i] << ": " << y[i];
      worst = std::max(worst, error);
    }
    RecordProperty("worst_ulp", std::to_string(worst));
    for (int64_t n = 0; n < 40; ++n) {  // tails: the same values, and nothing past the end
      std::vector<float> part(static_cast<size_t>(n) + 1, kSentinel);
      function(x.data(), part.data(), n);
      EXPECT_EQ(0, std::memcmp(part.data(), y.data(), static_cast<size_t>(n) * 4));
      EXPECT_EQ(bits({part.back()}), bits({kSentinel}));
    }
  }
};

TEST_P(VectorMathTest, Exponential) {
  expect_accurate(kernels().exponential, [](double x) { return std::exp(x); });
}
TEST_P(VectorMathTest, HyperbolicTangent) {
  expect_accurate(kernels().hyperbolic_tangent, [](double x) { return std::tanh(x); });
}
TEST_P(VectorMathTest, Logistic) {
  expect_accurate(kernels().logistic, [](double x) { return logistic(x); });
}

COPPICE_FOR_CPU_BACKENDS(VectorMathTest);

}  // namespace
}  // namespace coppice::test
