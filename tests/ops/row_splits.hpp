#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/cpu_weight.hpp"
#include "ops_test.hpp"
#include "weight_reference.hpp"

namespace coppice::test {

/// The bits of a row depend neither on the rows beside it nor on the threads: all three products with several
/// numbers of threads, and both products of rows in shares of 1, 1 + step, ... of them. `open(threads)` gives
/// a CPU backend, `make(backend, values)` the weight.
template <class Open, class Make>
void expect_same_bits_however_split(const WeightCase& c, int64_t step, Open open, Make make) {
  std::vector<std::vector<uint32_t>> y_bits, dx_bits, dw_bits;
  for (const int threads : {1, 2, 3, 8}) {
    const auto backend = open(threads);
    TestMatrix w(*backend, c.out, c.in, c.w), x(*backend, c.n, c.in, c.x), dy(*backend, c.n, c.out, c.dy);
    TestMatrix y(*backend, c.n, c.out), dx(*backend, c.n, c.in), dw(*backend, c.out, c.in, c.w);
    const std::unique_ptr<Weight> weight = make(*backend, w);
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
    for (int64_t count = 1; count <= c.n; count += step) {
      TestMatrix some(*backend, c.n, c.out), some_dx(*backend, c.n, c.in);
      for (int64_t r = 0; r < c.n; r += count) {
        const int64_t now = std::min(count, c.n - r);
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

}  // namespace coppice::test
