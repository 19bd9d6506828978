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

/// The draws of blocks first, first + 1, …, kBlocks of them, in the order of random.hpp, as two registers of
/// their upper 24 bits. The counters live in the lower halves of 64-bit lanes, because the product of two
/// 32-bit words fills the whole.
struct Draws {
  Ints bits[2];
};
inline Draws draw(RandomStream stream, uint64_t first) {
  Words c0;
  for (int i = 0; i < kBlocks; ++i) c0[i] = static_cast<uint64_t>(i);
  c0 += first;
  Words c1 = c0 >> 32;
  Words c2 = Words{} | stream.counter, c3 = Words{} | (stream.counter >> 32);
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
  const Words words01 = (c0 & 0xffff'ffffu) | (c1 << 32), words23 = (c2 & 0xffff'ffffu) | (c3 << 32);
  Words lower, upper;  // which of the 2·kBlocks pairs stands where
  for (uint64_t i = 0; i < kBlocks; ++i) {
    lower[i] = i % 2 * kBlocks + i / 2;
    upper[i] = lower[i] + kBlocks / 2;
  }
  const auto packed = [&](Words order) {
    const Words pairs = __builtin_shuffle(words01, words23, order);
    return reinterpret_cast<Ints>((pairs >> 8) & 0x00ff'ffff'00ff'ffffu);
  };
  return {{packed(lower), packed(upper)}};
}

void dropout(const float* x, float* y, int64_t n, RandomStream stream, uint64_t first, uint32_t threshold,
             float factor) {
  uint64_t block = first / 4;
  const auto limit = static_cast<int32_t>(threshold);
  int64_t skip = static_cast<int64_t>(first % 4);  // a row may begin inside a block
  for (int64_t i = 0; i < n; block += kBlocks) {
    const Draws draws = draw(stream, block);
    if (skip == 0 && i + kDraws <= n) {
      for (int k = 0; k < 2; ++k) {
        const Floats scaled = load(x + i + k * kLanes, AllLanes{}) * factor;
        store(y + i + k * kLanes, draws.bits[k] < limit ? Floats{} : scaled, AllLanes{});
      }
      i += kDraws;
    } else {
      int32_t bits[kDraws];
      store_as(bits, draws);
      const int64_t count = n - i < kDraws - skip ? n - i : kDraws - skip;
      for (int64_t k = 0; k < count; ++k) y[i + k] = bits[skip + k] < limit ? 0.0f : x[i + k] * factor;
      i += count;
      skip = 0;
    }
  }
}

}  // namespace

const SequenceKernels& sequence_kernels() {
  static constexpr SequenceKernels kernels = {add,   add_column_sums, largest, sum_of_exponentials,
                                              scale, dropout};
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
