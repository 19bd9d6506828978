#include "kernels/cpu/isa/sequence.hpp"

#include "kernels/cpu/isa/vector_math.hpp"

namespace coppice::cpu::COPPICE_ISA {
namespace {

void add(const float* x, float* y, int64_t n) {
  for_each_register(
      n, [=](int64_t i, auto lanes) { store(y + i, load(y + i, lanes) + load(x + i, lanes), lanes); });
}

// Eight rows at a time: the rows stream through in storage order, and the running sums are loaded and stored
// once for eight additions. The tree of eight keeps the error of thousands of rows small.
void add_column_sums(const float* x, int64_t stride, int64_t rows, int64_t cols, float* sums) {
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) {
    const float* row = x + r * stride;
    for_each_register(cols, [=](int64_t c, auto lanes) {
      const float* at = row + c;
      const Floats a = load(at, lanes) + load(at + stride, lanes);
      const Floats b = load(at + 2 * stride, lanes) + load(at + 3 * stride, lanes);
      const Floats d = load(at + 4 * stride, lanes) + load(at + 5 * stride, lanes);
      const Floats e = load(at + 6 * stride, lanes) + load(at + 7 * stride, lanes);
      store(sums + c, load(sums + c, lanes) + ((a + b) + (d + e)), lanes);
    });
  }
  for (; r < rows; ++r) add(x + r * stride, sums, cols);
}

float largest(const float* x, int64_t n) {
  const Floats lowest = broadcast(-__builtin_inff());
  Floats best[4] = {lowest, lowest, lowest, lowest};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) best[k] = larger(load(x + i + k * kLanes, AllLanes{}), best[k]);
  }
  float result = -__builtin_inff();
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  const Floats all = larger(larger(best[0], best[1]), larger(best[2], best[3]));
  for (int k = 0; k < kLanes; ++k) result = all[k] > result ? all[k] : result;
  return result;
}

// Four running sums a lane: the additions of one don't wait for another's, and each adds few enough terms
// that float is exact to a few ulp; the lanes are added in double.
double sum_of_exponentials(const float* x, int64_t n, float shift, float* terms) {
  Floats sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) {
      const int64_t at = i + k * kLanes;
      const Floats e = exponential_up_to_89(load(x + at, AllLanes{}) - shift);
      if (terms) store(terms + at, e, AllLanes{});
      sums[k] += e;
    }
  }
  double total = 0.0;
  for (; i < n; i += kLanes) {
    const FirstLanes lanes{n - i < kLanes ? n - i : kLanes};
    const Floats e = exponential_up_to_89(load(x + i, lanes) - shift);
    if (terms) store(terms + i, e, lanes);
    for (int64_t k = 0; k < lanes.count; ++k) total += static_cast<double>(e[k]);
  }
  for (const Floats& sum : sums) {
    for (int k = 0; k < kLanes; ++k) total += static_cast<double>(sum[k]);
  }
  return total;
}

void scale(float* x, int64_t n, float factor) {
  for_each_register(n, [=](int64_t i, auto lanes) { store(x + i, load(x + i, lanes) * factor, lanes); });
}

constexpr int kBlocks = kLanes / 2;  // Philox blocks at once: one a 64-bit lane
constexpr int kDraws = 4 * kBlocks;  // two registers of floats

/// The upper 24 bits of the draws of blocks first, first + 1, …, kBlocks of them, in the order of random.hpp.
/// The counters live in the lower halves of 64-bit lanes, because the product of two 32-bit words fills the
/// whole.
inline void draw(RandomStream stream, uint64_t first, uint32_t* bits) {
  Words block;
  for (int i = 0; i < kBlocks; ++i) block[i] = first + static_cast<uint64_t>(i);
  Words c0 = block, c1 = block >> 32;
  Words c2 = (Words{} | (stream.counter & 0xffff'ffffu)), c3 = (Words{} | (stream.counter >> 32));
  uint32_t key0 = static_cast<uint32_t>(stream.key), key1 = static_cast<uint32_t>(stream.key >> 32);
  const Words multiplier0 = Words{} | uint64_t{0xd251'1f53u}, multiplier1 = Words{} | uint64_t{0xcd9e'8d57u};
  for (int round = 0; round < 10; ++round) {
    // Upper halves hold leftovers; products and the final packing only read the lower ones.
    const Words product0 = multiply_low(multiplier0, c0);
    const Words product1 = multiply_low(multiplier1, c2);
    c0 = (product1 >> 32) ^ c1 ^ uint64_t { key0 };
    c2 = (product0 >> 32) ^ c3 ^ uint64_t { key1 };
    c1 = product1;
    c3 = product0;
    key0 += 0x9e37'79b9u;
    key1 += 0xbb67'ae85u;
  }
  for (int i = 0; i < kBlocks; ++i) {
    bits[4 * i + 0] = static_cast<uint32_t>(c0[i]) >> 8;
    bits[4 * i + 1] = static_cast<uint32_t>(c1[i]) >> 8;
    bits[4 * i + 2] = static_cast<uint32_t>(c2[i]) >> 8;
    bits[4 * i + 3] = static_cast<uint32_t>(c3[i]) >> 8;
  }
}

void dropout(const float* x, float* y, int64_t n, RandomStream stream, uint64_t first, uint32_t threshold,
             float factor) {
  uint32_t bits[kDraws];
  uint64_t block = first / 4;
  int64_t skip = static_cast<int64_t>(first % 4);  // a row may begin inside a block
  for (int64_t i = 0; i < n;) {
    draw(stream, block, bits);
    const int64_t count = n - i < kDraws - skip ? n - i : kDraws - skip;
    for (int64_t k = 0; k < count; ++k) y[i + k] = bits[skip + k] < threshold ? 0.0f : x[i + k] * factor;
    i += count;
    block += kBlocks;
    skip = 0;
  }
}

}  // namespace

const SequenceKernels& sequence_kernels() {
  static constexpr SequenceKernels kernels = {add,   add_column_sums, largest, sum_of_exponentials,
                                              scale, dropout};
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
