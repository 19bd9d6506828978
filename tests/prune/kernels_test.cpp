#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/ordered_key.hpp"
#include "kernels/selection.hpp"
#include "tests/prune/harness.hpp"

namespace coppice::test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(OrderedKey, FollowsTheOrderOfFloats) {
  const float ordered[] = {-kInf,  -3e38f, -1.0f, -1e-38f, -1e-45f, 0.0f, 1e-45f,
                           3e-45f, 1e-38f, 0.5f,  1.0f,    3e38f,   kInf};
  for (size_t i = 1; i < std::size(ordered); ++i) {
    EXPECT_LT(ordered_key(ordered[i - 1]), ordered_key(ordered[i])) << ordered[i];
    EXPECT_LT(ordered_key(double{ordered[i - 1]}), ordered_key(double{ordered[i]})) << ordered[i];
  }
  EXPECT_EQ(ordered_key(-0.0f), ordered_key(0.0f));
  EXPECT_EQ(ordered_key(-0.0), ordered_key(0.0));
  for (float x : ordered) {
    EXPECT_EQ(value_of_key(ordered_key(x)), x);
    EXPECT_EQ(value_of_key(ordered_key(double{x})), double{x});
    EXPECT_GT(ordered_key(x), kCutAlready);
    EXPECT_EQ(widened(ordered_key(x)), ordered_key(double{x}));
    EXPECT_EQ(narrow_at_least(ordered_key(double{x})), ordered_key(x));
  }
  // Between two floats: the upper one; beyond the last: none.
  EXPECT_EQ(narrow_at_least(ordered_key(std::nextafter(1.0, 2.0))), ordered_key(std::nextafter(1.0f, 2.0f)));
  EXPECT_EQ(narrow_at_least(0), 0u);
  EXPECT_EQ(narrow_at_least(1), 1u);
  EXPECT_GT(narrow_at_least(ordered_key(double{kInf}) + 1), uint64_t{ordered_key(kInf)});
}

TEST(UnitScores, ProductsLeaveTheRangeOfDouble) {
  UnitScore tiny = start_unit(Reduce::product), tinier = start_unit(Reduce::product);
  for (int i = 0; i < 1000; ++i) {
    multiply(tiny, 1e-300), ++tiny.kept;
    multiply(tinier, i == 0 ? 0.5e-300 : 1e-300), ++tinier.kept;
  }
  finish_unit(Reduce::product, tiny), finish_unit(Reduce::product, tinier);
  EXPECT_TRUE(less(tinier, tiny));
  EXPECT_FALSE(less(tiny, tinier));
  EXPECT_EQ(tiny.exponent, tinier.exponent + 1);
  EXPECT_EQ(tiny.mantissa, tinier.mantissa);
  EXPECT_NEAR(static_cast<double>(tiny.exponent) * std::log10(2.0), -300'000.0, 1.0);
  const UnitScore zero{0.0, 0, 1}, negative{-0.5, 7, 1}, more_negative{-0.5, 8, 1}, infinite{kInf, 0, 1};
  EXPECT_TRUE(less(zero, tinier));
  EXPECT_TRUE(less(negative, zero));
  EXPECT_TRUE(less(more_negative, negative));
  EXPECT_TRUE(less(tiny, infinite));
  EXPECT_FALSE(less(zero, zero));
}

struct Case {
  DType dtype;
  bool wide;
};

/// A block with its weights, statistic and mask at odd places, and the keys that it should have.
struct TestBlock {
  std::vector<uint8_t> weights, statistic;
  std::vector<uint64_t> kept;
  ScoreBlock block;
  std::vector<Key> keys;

  TestBlock(const Scoring& scoring, DType dtype, int64_t count, int bit, bool masked, Input input,
            std::mt19937_64& random) {
    const size_t width = static_cast<size_t>(size_of(dtype));
    // One element in: the arrays are not aligned to vectors.
    weights.resize((static_cast<size_t>(count) + 1) * width);
    statistic.resize(weights.size());
    kept.assign(static_cast<size_t>(bit + count + 63) / 64 + 1, ~uint64_t{0});
    if (masked) {
      for (uint64_t& word : kept) word = random() | random();
    }
    block = {dtype,
             weights.data() + width,
             statistic.data() + width,
             masked ? kept.data() : nullptr,
             bit,
             count,
             1'000'003};
    for (int64_t i = 0; i < count; ++i) {
      const double w = draw(input, random), s = draw(input, random);
      put(weights, dtype, i + 1, w);
      put(statistic, dtype, i + 1, s);
      keys.push_back(is_kept(i) ? key(scoring, i,
                                      dtype == DType::f64 ? score<double>(scoring.criterion, w, s, i)
                                                          : score<float>(scoring.criterion, w, s, i))
                                : kCutAlready);
    }
  }

  bool is_kept(int64_t i) const {
    const int64_t at = block.mask_bit + i;
    return block.kept == nullptr || (kept[static_cast<size_t>(at / 64)] >> (at % 64) & 1) != 0;
  }

 private:
  static void put(std::vector<uint8_t>& bytes, DType dtype, int64_t i, double value) {
    const float narrow = static_cast<float>(value);
    if (dtype == DType::f64) {
      std::memcpy(&bytes[static_cast<size_t>(i) * 8], &value, 8);
    } else {
      std::memcpy(&bytes[static_cast<size_t>(i) * 4], &narrow, 4);
    }
  }
  static Key key(const Scoring& scoring, int64_t, double value) {
    return scoring.wide ? ordered_key(value) : Key{ordered_key(static_cast<float>(value))} << 32;
  }
  template <class T>
  double score(Criterion criterion, double w, double s, int64_t i) const {
    const T a = static_cast<T>(w), b = static_cast<T>(s);
    volatile T t = 0;
    switch (criterion) {
      case Criterion::magnitude:
        return std::fabs(a);
      case Criterion::gradient:
      case Criterion::gradient_absolute:
      case Criterion::gradient_squared:
        return std::fabs(b);
      case Criterion::taylor:
      case Criterion::taylor_absolute:
        t = a * b;
        return std::fabs(t);
      case Criterion::fisher:
        t = a * a;
        t = t * b;
        return t;
      case Criterion::random:
        break;
    }
    return criteria::Random::score(a, b, block.position + static_cast<uint64_t>(i), 5);
  }
};

class Kernels : public ::testing::TestWithParam<std::tuple<std::string, int>> {
 protected:
  std::unique_ptr<Backend> backend_ = cpu_backend(std::get<1>(GetParam()), std::get<0>(GetParam()).c_str());
  SelectionOps& ops_ = backend_->selection();
};

TEST_P(Kernels, TheForcedInstructionSetRuns) {
  EXPECT_NE(backend_->info().detail.find(std::get<0>(GetParam())), std::string::npos)
      << backend_->info().detail;
}

TEST_P(Kernels, CountLogAndCutAsScalarLoops) {
  const uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  const Case cases[] = {{DType::f32, false}, {DType::f32, true}, {DType::f64, true}};
  int turn = 0;
  for (int64_t count : {0, 1, 31, 33, 63, 64, 65, 257, 1500, 65'537, 140'001}) {
    for (Criterion criterion : kCriteria) {
      if (count > 2000 && criterion != Criterion::taylor && criterion != Criterion::fisher) continue;
      for (const Case& c : cases) {
        for (Input input : kInputs) {
          if (count > 2000 && (++turn % 7) != 0) continue;
          if (input == Input::infinite && criterion != Criterion::magnitude &&
              criterion != Criterion::gradient)
            continue;
          const int bit = static_cast<int>(random() % 3) * 31;
          const bool masked = random() % 2 == 0;
          SCOPED_TRACE(fmt::format("{} of {} wide {} count {} input {} bit {} masked {} seed {}",
                                   to_string(criterion), to_string(c.dtype), c.wide, count,
                                   static_cast<int>(input), bit, masked, seed));
          const Scoring scoring{criterion, 5, c.wide};
          TestBlock test(scoring, c.dtype, count, bit, masked, input, random);

          // A bracket between two of the keys.
          std::vector<Key> sorted = test.keys;
          std::sort(sorted.begin(), sorted.end());
          Key low = 0, high = ~Key{0};
          if (count > 1) {
            low = sorted[random() % sorted.size()];
            high = std::max(low, sorted[random() % sorted.size()]);
          }
          std::vector<Place> expected, found;
          uint64_t below = 0;
          for (int64_t i = 0; i < count; ++i) {
            const Key key = test.keys[static_cast<size_t>(i)];
            if (key < low) ++below;
            if (key >= low && key <= high)
              expected.push_back({key, test.block.position + static_cast<uint64_t>(i)});
          }
          const BlockCount counted = ops_.bracket(scoring, test.block, low, high, 1'000'000, found);
          EXPECT_EQ(counted.below, below);
          EXPECT_EQ(counted.inside, expected.size());
          EXPECT_EQ(counted.nan_count, 0u);
          std::sort(expected.begin(), expected.end(),
                    [](auto& a, auto& b) { return a.position < b.position; });
          std::sort(found.begin(), found.end(), [](auto& a, auto& b) { return a.position < b.position; });
          ASSERT_TRUE(found == expected);

          if (!expected.empty()) {
            const Place& one = expected[random() % expected.size()];
            uint64_t index = 0;
            for (const Place& place : expected)
              index += place.key == one.key && place.position < one.position ? 1 : 0;
            EXPECT_EQ(ops_.find_equal(scoring, test.block, one.key, index), one.position);

            // Histograms of two digits, on the path to that key.
            for (const KeyWindow& window : {KeyWindow{0, 0, 11}, KeyWindow{one.key >> 53 << 53, 11, 10}}) {
              std::vector<uint64_t> bins(static_cast<size_t>(window.bins()), 0), want(bins);
              for (Key key : test.keys) {
                const bool inside = window.prefix_bits == 0 || (key >> 53) == (window.prefix >> 53);
                if (inside)
                  ++want[(key >> (64 - window.prefix_bits - window.digit_bits)) & (bins.size() - 1)];
              }
              ops_.histogram(scoring, test.block, window, bins.data());
              ASSERT_EQ(bins, want);
            }
          }

          // Cut at a unit, in place or apart, with or without a mask.
          const Place cut = expected.empty() ? Place{0, 0} : expected[random() % expected.size()];
          const size_t width = static_cast<size_t>(size_of(c.dtype)),
                       bytes = static_cast<size_t>(count) * width;
          std::vector<uint8_t> output(bytes + 64, 0xa5);
          std::vector<uint64_t> mask(static_cast<size_t>(bit + count + 63) / 64 + 1,
                                     0x5a5a'5a5a'5a5a'5a5aull);
          const uint64_t cut_count = ops_.apply(scoring, test.block, cut, output.data(), mask.data());
          uint64_t want = 0;
          for (int64_t i = 0; i < count; ++i) {
            const Place place{test.keys[static_cast<size_t>(i)],
                              test.block.position + static_cast<uint64_t>(i)};
            const bool kept = !(place < cut) && test.is_kept(i);
            if (!kept) ++want;
            const int64_t at = bit + i;
            ASSERT_EQ((mask[static_cast<size_t>(at / 64)] >> (at % 64) & 1) != 0, kept) << i;
            const std::vector<uint8_t> zero(width, 0);
            const uint8_t* value =
                kept ? static_cast<const uint8_t*>(test.block.weights) + static_cast<size_t>(i) * width
                     : zero.data();
            ASSERT_EQ(std::memcmp(&output[static_cast<size_t>(i) * width], value, width), 0) << i;
          }
          EXPECT_EQ(cut_count, want);
          for (size_t i = bytes; i < output.size(); ++i) ASSERT_EQ(output[i], 0xa5);
          for (int64_t at = 0; at < static_cast<int64_t>(64 * mask.size()); ++at) {
            if (at >= bit && at < bit + count) continue;
            ASSERT_EQ(mask[static_cast<size_t>(at / 64)] >> (at % 64) & 1,
                      uint64_t{0x5a5a'5a5a'5a5a'5a5aull} >> (at % 64) & 1);
          }
          EXPECT_EQ(ops_.count_kept(test.block),
                    static_cast<uint64_t>(std::count_if(test.keys.begin(), test.keys.end(),
                                                        [](Key k) { return k != kCutAlready; })));
          std::vector<uint8_t> in_place(static_cast<const uint8_t*>(test.block.weights),
                                        static_cast<const uint8_t*>(test.block.weights) + bytes);
          ScoreBlock self = test.block;
          self.weights = in_place.data();
          EXPECT_EQ(ops_.apply(scoring, self, cut, in_place.data(), nullptr), want);
          ASSERT_TRUE(std::equal(in_place.begin(), in_place.end(), output.begin()));
        }
      }
    }
  }
}

TEST_P(Kernels, NanIsCountedWhereItCounts) {
  for (DType dtype : {DType::f32, DType::f64}) {
    for (int64_t count : {1, 40, 64, 300, 140'001}) {
      std::mt19937_64 random(3);
      const Scoring scoring{Criterion::taylor, 0, true};
      TestBlock test(scoring, dtype, count, 5, false, Input::normal, random);
      // NaNs of both signs.
      std::vector<int64_t> nans = {count - 1, count / 2, count / 3};
      std::sort(nans.begin(), nans.end());
      nans.erase(std::unique(nans.begin(), nans.end()), nans.end());
      const double nan = std::numeric_limits<double>::quiet_NaN();
      for (size_t n = 0; n < nans.size(); ++n) {
        const double value = n % 2 == 0 ? nan : -nan;
        const float narrow = static_cast<float>(value);
        const size_t at = static_cast<size_t>(nans[n] + 1);
        if (dtype == DType::f64) std::memcpy(&test.weights[at * 8], &value, 8);
        if (dtype == DType::f32) std::memcpy(&test.weights[at * 4], &narrow, 4);
      }
      std::vector<Place> none;
      std::vector<uint64_t> bins(2048);
      for (const BlockCount& found : {ops_.bracket(scoring, test.block, 0, 0, 0, none),
                                      ops_.histogram(scoring, test.block, {0, 0, 11}, bins.data())}) {
        EXPECT_EQ(found.nan_count, nans.size()) << count;
        EXPECT_EQ(found.first_nan, test.block.position + static_cast<uint64_t>(nans.front())) << count;
      }
      // What is cut already is never NaN.
      for (int64_t i : nans) test.kept[static_cast<size_t>((5 + i) / 64)] &= ~(uint64_t{1} << ((5 + i) % 64));
      test.block.kept = test.kept.data();
      EXPECT_EQ(ops_.bracket(scoring, test.block, 0, 0, 0, none).nan_count, 0u);
    }
  }
}

TEST_P(Kernels, UnitsAreReducedInIndexOrder) {
  std::mt19937_64 random(std::random_device{}());
  for (DType dtype : {DType::f32, DType::f64}) {
    for (const auto& [rows, cols] :
         {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {65, 33}, {2, 1500}, {1500, 2}, {301, 257}}) {
      for (Reduce reduce : {Reduce::sum, Reduce::mean, Reduce::max, Reduce::l2, Reduce::product}) {
        for (UnitAxis axis : {UnitAxis::row, UnitAxis::column}) {
          const Scoring scoring{Criterion::taylor, 0, true};
          TestBlock test(scoring, dtype, rows * cols, 7, (rows + cols) % 2 == 0, Input::normal, random);
          const size_t units = static_cast<size_t>(axis == UnitAxis::row ? rows : cols);
          std::vector<UnitScore> expected(units, start_unit(reduce)), found(expected);
          for (int64_t i = 0; i < rows * cols; ++i) {
            const Key key = test.keys[static_cast<size_t>(i)];
            if (key == kCutAlready) continue;
            UnitScore& unit = expected[static_cast<size_t>(axis == UnitAxis::row ? i / cols : i % cols)];
            const double score = value_of_key(key);
            if (reduce == Reduce::product) {
              multiply(unit, score);
            } else if (reduce == Reduce::max) {
              unit.mantissa = std::max(unit.mantissa, score);
            } else {
              unit.mantissa += reduce == Reduce::l2 ? score * score : score;
            }
            ++unit.kept;
          }
          // In one block, or in two that meet inside a row.
          for (int64_t split : {rows * cols, rows * cols / 3}) {
            std::fill(found.begin(), found.end(), start_unit(reduce));
            for (const auto& [begin, count] :
                 {std::pair<int64_t, int64_t>{0, split}, {split, rows * cols - split}}) {
              ScoreBlock part = test.block;
              part.weights = static_cast<const uint8_t*>(test.block.weights) + begin * size_of(dtype);
              part.statistic = static_cast<const uint8_t*>(test.block.statistic) + begin * size_of(dtype);
              part.mask_bit = static_cast<int>((7 + begin) % 64);
              if (part.kept != nullptr) part.kept += (7 + begin) / 64;
              part.count = count;
              ops_.accumulate(scoring, part, reduce, axis, cols, begin, found.data());
            }
            for (size_t u = 0; u < units; ++u) {
              ASSERT_EQ(found[u].mantissa, expected[u].mantissa) << u;
              ASSERT_EQ(found[u].exponent, expected[u].exponent) << u;
              ASSERT_EQ(found[u].kept, expected[u].kept) << u;
            }
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryPath, Kernels,
                         ::testing::Combine(::testing::ValuesIn(instruction_sets()), ::testing::Values(1, 2)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::to_string(std::get<1>(info.param)) +
                                  "_threads";
                         });

}  // namespace
}  // namespace coppice::test
