#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <vector>

#include "kernels/half_precision.hpp"
#include "kernels/marking.hpp"
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

/// What masks hold before anything is written.
constexpr uint64_t kMaskBefore = 0x5a5a'5a5a'5a5a'5a5aull;

struct Case {
  DType dtype;
  bool wide;
  DType statistic = dtype;
  StatisticForm form = StatisticForm::as_is;
};

/// The nearest f16, of finite numbers a finite one.
uint16_t to_f16(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::abs(value);
  if (std::isnan(value)) return sign | 0x7e00;
  if (std::isinf(value)) return sign | 0x7c00;
  if (magnitude >= 65'504) return sign | 0x7bff;
  const int exponent = magnitude == 0.0 ? -14 : std::max(std::ilogb(magnitude), -14);
  const double steps = std::nearbyint(std::ldexp(magnitude, 10 - exponent));
  return static_cast<uint16_t>(sign | (((exponent + 14) << 10) + static_cast<int>(steps)));
}

/// Stores element i and returns what is there then.
double store(std::vector<uint8_t>& bytes, DType dtype, int64_t i, double value) {
  const auto put = [&](auto number) {
    std::memcpy(&bytes[static_cast<size_t>(i) * sizeof(number)], &number, sizeof(number));
  };
  const float narrow = static_cast<float>(value);
  switch (dtype) {
    case DType::f64:
      put(value);
      return value;
    case DType::f16:
      put(to_f16(value));
      return half_to_float(to_f16(value));
    case DType::bf16: {
      const auto upper = static_cast<uint16_t>(std::bit_cast<uint32_t>(narrow) >> 16);
      put(upper);
      return bfloat16_to_float(upper);
    }
    default:
      put(narrow);
      return narrow;
  }
}

/// A block with its weights, statistic and mask at odd places, and the keys that it should have.
struct TestBlock {
  DeviceArray<uint8_t> weights, statistic;
  DeviceArray<uint64_t> kept;
  ScoreBlock block;
  std::vector<Key> keys;
  std::vector<uint8_t> original;  // the block's weights

  /// The arrays begin `offset` elements behind an aligned address.
  TestBlock(Backend& backend, const Scoring& scoring, DType dtype, int64_t count, int bit, bool masked,
            Input input, std::mt19937_64& random, int64_t offset = 1,
            std::optional<DType> other_statistic = {}, StatisticForm form = StatisticForm::as_is)
      : offset_(offset) {
    const DType statistic_dtype = other_statistic.value_or(dtype);
    const size_t width = static_cast<size_t>(size_of(dtype)),
                 statistic_width = static_cast<size_t>(size_of(statistic_dtype));
    std::vector<uint8_t> w(static_cast<size_t>(count + offset) * width),
        s(static_cast<size_t>(count + offset) * statistic_width);
    std::vector<uint64_t> bits(static_cast<size_t>(bit + count + 63) / 64 + 1, ~uint64_t{0});
    if (masked) {
      for (uint64_t& word : bits) word = random() | random();
    }
    block = {dtype, statistic_dtype, form, nullptr, nullptr, nullptr, bit, count, 1'000'003};
    for (int64_t i = 0; i < count; ++i) {
      const double weight = store(w, dtype, i + offset, draw(input, random));
      double value = store(s, statistic_dtype, i + offset, draw(input, random));
      if (form == StatisticForm::absolute) value = std::fabs(value);
      if (form == StatisticForm::squared)
        value = static_cast<float>(value * value);  // exact, then once rounded
      const int64_t at = bit + i;
      if ((bits[static_cast<size_t>(at / 64)] >> (at % 64) & 1) == 0) {
        keys.push_back(kCutAlready);
      } else if (dtype == DType::f64) {
        keys.push_back(key(scoring, score<double>(scoring.criterion, weight, value, i)));
      } else {
        keys.push_back(key(scoring, score<float>(scoring.criterion, weight, value, i)));
      }
    }
    original.assign(w.begin() + offset * static_cast<int64_t>(width), w.end());
    weights = {backend, std::move(w)};
    statistic = {backend, std::move(s)};
    kept = {backend, std::move(bits)};
    block.weights = weights.data() + static_cast<size_t>(offset) * width;
    block.statistic = statistic.data() + static_cast<size_t>(offset) * statistic_width;
    if (masked) block.kept = kept.data();
  }

  bool is_kept(int64_t i) const { return keys[static_cast<size_t>(i)] != kCutAlready; }
  void set_weight(int64_t i, double value) {
    weights.edit([&](std::vector<uint8_t>& bytes) { store(bytes, block.dtype, offset_ + i, value); });
  }

 private:
  static Key key(const Scoring& scoring, double value) {
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

  int64_t offset_;
};

/// On the processor `ops()` has one thread or two, in turn.
class Kernels : public OpsTest {
 protected:
  void SetUp() override {
    OpsTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure() && GetParam().device == "cpu") one_thread_ = open(1);
  }
  SelectionOps& ops() {
    const bool other = ++turn_ % 2 != 0 && one_thread_ != nullptr;
    return (other ? *one_thread_ : backend()).selection();
  }

 private:
  std::unique_ptr<Backend> one_thread_;
  int turn_ = 0;
};

TEST_P(Kernels, CountLogAndCutAsScalarLoops) {
  const uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  const Case cases[] = {{DType::f32, false},
                        {DType::f32, true},
                        {DType::f64, true},
                        {DType::bf16, false},
                        {DType::f16, true},
                        {DType::f16, false, DType::f32},
                        {DType::f32, false, DType::bf16},
                        {DType::bf16, true, DType::f16},
                        {DType::bf16, false, DType::bf16, StatisticForm::squared},
                        {DType::f32, true, DType::f32, StatisticForm::absolute},
                        {DType::f32, false, DType::f32, StatisticForm::squared}};
  int turn = 0, made_turn = 0;
  for (int64_t count : {0, 1, 31, 33, 63, 64, 65, 127, 129, 257, 1023, 1025, 1500, 65'537, 140'001}) {
    for (Criterion criterion : kCriteria) {
      if (count > 2000 && criterion != Criterion::taylor && criterion != Criterion::fisher) continue;
      for (const Case& c : cases) {
        for (Input input : kInputs) {
          if (count > 2000 && (++turn % 7) != 0) continue;
          // One in three of what is made before it is scored: all of it in the same pieces.
          const bool made = is_half(c.dtype) || is_half(c.statistic) || c.form != StatisticForm::as_is;
          if (made && count <= 2000 && (++made_turn % 3) != 0) continue;
          if (input == Input::infinite && criterion != Criterion::magnitude &&
              criterion != Criterion::gradient)
            continue;
          const int bit = static_cast<int>(random() % 3) * 31;
          const bool masked = random() % 2 == 0;
          // Words of mask bits begin at aligned elements, or don't.
          const int64_t offset = random() % 2 == 0 ? bit % 4 : 1;
          SCOPED_TRACE(
              fmt::format("{} of {} and {} wide {} count {} input {} bit {} offset {} masked {} seed {}",
                          to_string(criterion), to_string(c.dtype), to_string(c.statistic), c.wide, count,
                          static_cast<int>(input), bit, offset, masked, seed));
          const Scoring scoring{criterion, 5, c.wide};
          TestBlock test(backend(), scoring, c.dtype, count, bit, masked, input, random, offset, c.statistic,
                         c.form);

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
          const BlockCount counted = ops().bracket(scoring, test.block, low, high, 1'000'000, found);
          EXPECT_EQ(counted.below, below);
          EXPECT_EQ(counted.inside, expected.size());
          EXPECT_EQ(counted.nan_count, 0u);
          std::sort(expected.begin(), expected.end(),
                    [](auto& a, auto& b) { return a.position < b.position; });
          std::sort(found.begin(), found.end(), [](auto& a, auto& b) { return a.position < b.position; });
          ASSERT_TRUE(found == expected);
          if (MarkingOps* const marker = marking(ops())) {
            std::vector<Place> logged;
            DeviceArray<uint64_t> bits(
                backend(),
                std::vector<uint64_t>(static_cast<size_t>(bit + count + 63) / 64 + 1, kMaskBefore));
            const BlockCount marked =
                marker->mark(scoring, test.block, low, high, 1'000'000, logged, bits.data());
            EXPECT_EQ(marked.below, below);
            EXPECT_EQ(marked.inside, expected.size());
            std::sort(logged.begin(), logged.end(), [](auto& a, auto& b) { return a.position < b.position; });
            ASSERT_TRUE(logged == expected);
            for (int64_t at = 0; at < static_cast<int64_t>(64 * bits.values().size()); ++at) {
              const bool mine = at >= bit && at < bit + count;
              const bool want = mine ? test.keys[static_cast<size_t>(at - bit)] >= std::max(low, Key{1})
                                     : (kMaskBefore >> (at % 64) & 1) != 0;
              ASSERT_EQ((bits.values()[static_cast<size_t>(at / 64)] >> (at % 64) & 1) != 0, want) << at;
            }
          }

          // Keys of all of them, and nothing behind.
          constexpr uint8_t kPoison = 0xc3;
          const size_t key_bytes = static_cast<size_t>(size_of(score_type(c.dtype)));
          std::vector<uint8_t> keys((static_cast<size_t>(count) + 1) * key_bytes, kPoison);
          EXPECT_EQ(ops().keys(scoring, test.block, keys.data()).nan_count, 0u);
          for (size_t i = 0; i <= static_cast<size_t>(count); ++i) {
            Key key = 0;
            std::memcpy(&key, &keys[i * key_bytes], key_bytes);
            if (i == static_cast<size_t>(count)) {
              ASSERT_EQ(key, key_bytes == 8 ? 0xc3c3c3c3c3c3c3c3u : 0xc3c3c3c3u);
            } else if (c.dtype == DType::f64) {
              ASSERT_EQ(key, test.keys[i]) << i;
            } else {
              ASSERT_EQ(c.wide && key != 0 ? widened(static_cast<uint32_t>(key)) : key << (c.wide ? 0 : 32),
                        test.keys[i])
                  << i;
            }
          }

          if (!expected.empty()) {
            const Place& one = expected[random() % expected.size()];
            uint64_t index = 0;
            for (const Place& place : expected)
              index += place.key == one.key && place.position < one.position ? 1 : 0;
            EXPECT_EQ(ops().find_equal(scoring, test.block, one.key, index), one.position);

            // Histograms of two digits, on the path to that key.
            for (const KeyWindow& window : {KeyWindow{0, 0, 11}, KeyWindow{one.key >> 53 << 53, 11, 10}}) {
              std::vector<uint64_t> bins(static_cast<size_t>(window.bins()), 0), want(bins);
              for (Key key : test.keys) {
                const bool inside = window.prefix_bits == 0 || (key >> 53) == (window.prefix >> 53);
                if (inside)
                  ++want[(key >> (64 - window.prefix_bits - window.digit_bits)) & (bins.size() - 1)];
              }
              ops().histogram(scoring, test.block, window, bins.data());
              ASSERT_EQ(bins, want);
            }
          }

          // Cut at a unit, in place or apart, with or without a mask.
          // One time in four by the bits of what is cut already alone.
          const bool by_bits = expected.empty() || random() % 4 == 0;
          const Place cut = by_bits ? Place{0, 0} : expected[random() % expected.size()];
          const size_t width = static_cast<size_t>(size_of(c.dtype)),
                       bytes = static_cast<size_t>(count) * width;
          DeviceArray<uint8_t> device_output(
              backend(), std::vector<uint8_t>(bytes + static_cast<size_t>(offset) * width + 64, 0xa5));
          DeviceArray<uint64_t> device_mask(
              backend(), std::vector<uint64_t>(static_cast<size_t>(bit + count + 63) / 64 + 1, kMaskBefore));
          const size_t skipped = static_cast<size_t>(offset) * width;
          const uint64_t cut_count =
              ops().apply(scoring, test.block, cut, device_output.data() + skipped, device_mask.data());
          const std::vector<uint8_t> output(device_output.values().begin() + static_cast<ptrdiff_t>(skipped),
                                            device_output.values().end());
          const std::vector<uint64_t>& mask = device_mask.values();
          uint64_t want = 0;
          for (int64_t i = 0; i < count; ++i) {
            const Place place{test.keys[static_cast<size_t>(i)],
                              test.block.position + static_cast<uint64_t>(i)};
            const bool kept = !(place < cut) && test.is_kept(i);
            if (!kept) ++want;
            const int64_t at = bit + i;
            ASSERT_EQ((mask[static_cast<size_t>(at / 64)] >> (at % 64) & 1) != 0, kept) << i;
            const std::vector<uint8_t> zero(width, 0);
            const uint8_t* value = kept ? &test.original[static_cast<size_t>(i) * width] : zero.data();
            ASSERT_EQ(std::memcmp(&output[static_cast<size_t>(i) * width], value, width), 0) << i;
          }
          EXPECT_EQ(cut_count, want);
          for (size_t i = bytes; i < output.size(); ++i) ASSERT_EQ(output[i], 0xa5);
          for (int64_t at = 0; at < static_cast<int64_t>(64 * mask.size()); ++at) {
            if (at >= bit && at < bit + count) continue;
            ASSERT_EQ(mask[static_cast<size_t>(at / 64)] >> (at % 64) & 1, kMaskBefore >> (at % 64) & 1);
          }
          EXPECT_EQ(ops().count_kept(test.block),
                    static_cast<uint64_t>(std::count_if(test.keys.begin(), test.keys.end(),
                                                        [](Key k) { return k != kCutAlready; })));
          // In place, and without a mask: tiles may begin elsewhere then.
          EXPECT_EQ(ops().apply(scoring, test.block, cut, const_cast<void*>(test.block.weights), nullptr),
                    want);
          const std::vector<uint8_t>& in_place = test.weights.values();
          ASSERT_TRUE(
              std::equal(in_place.begin() + static_cast<ptrdiff_t>(skipped), in_place.end(), output.begin()));
        }
      }
    }
  }
}

/// Where not all candidates fit, those that are there are some of them.
TEST_P(Kernels, LogsAreFilledUpToTheirCapacity) {
  std::mt19937_64 random(std::random_device{}());
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    for (int64_t count : {100, 5000, 140'001}) {
      const Scoring scoring{Criterion::gradient, 0, dtype == DType::f64};
      TestBlock test(backend(), scoring, dtype, count, 3, true, Input::few_values, random, 3);
      for (uint64_t capacity : {uint64_t{0}, uint64_t{2}, uint64_t{99}, uint64_t{3000}, uint64_t{1} << 40}) {
        const size_t before = capacity == 0 ? 0 : 2;  // from an earlier block
        std::vector<Place> found(before, Place{7, 7});
        const BlockCount counted = ops().bracket(scoring, test.block, 0, ~Key{0}, capacity, found);
        EXPECT_EQ(counted.inside, static_cast<uint64_t>(count));
        ASSERT_EQ(found.size(), std::min<uint64_t>(capacity, static_cast<uint64_t>(count) + before));
        std::vector<bool> seen(static_cast<size_t>(count), false);
        for (size_t n = before; n < found.size(); ++n) {
          const size_t i = static_cast<size_t>(found[n].position - test.block.position);
          ASSERT_LT(i, seen.size());
          ASSERT_FALSE(seen[i]);
          seen[i] = true;
          ASSERT_EQ(found[n].key, test.keys[i]);
        }
      }
    }
  }
}

/// Windows of any width, those too whose bins fit no fast memory.
TEST_P(Kernels, HistogramsOfAnyWidth) {
  std::mt19937_64 random(std::random_device{}());
  for (const Case& c : {Case{DType::f32, false}, Case{DType::f32, true}, Case{DType::f64, true}}) {
    const Scoring scoring{Criterion::fisher, 0, c.wide};
    TestBlock test(backend(), scoring, c.dtype, 3001, 0, true, Input::normal, random, 0);
    const Key path = test.keys[static_cast<size_t>(random() % 3001)];
    for (int prefix_bits : {0, 2, 9}) {
      for (int digit_bits : {1, 5, 10, 12, 13, 14, 16}) {
        const Key prefix = prefix_bits == 0 ? 0 : path >> (64 - prefix_bits) << (64 - prefix_bits);
        const KeyWindow window{prefix, prefix_bits, digit_bits};
        std::vector<uint64_t> bins(static_cast<size_t>(window.bins()), 1), want(bins);
        for (Key key : test.keys) {
          if (prefix_bits != 0 && key >> (64 - prefix_bits) != prefix >> (64 - prefix_bits)) continue;
          ++want[(key >> (64 - prefix_bits - digit_bits)) & (bins.size() - 1)];
        }
        ops().histogram(scoring, test.block, window, bins.data());
        ASSERT_EQ(bins, want) << prefix_bits << " " << digit_bits;
      }
    }
  }
}

/// Elements go with their row or column; blocks that begin and end inside of rows.
TEST_P(Kernels, UnitsAreCutWhole) {
  std::mt19937_64 random(std::random_device{}());
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    for (const auto& [rows, cols] :
         {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {130, 33}, {2, 1500}, {700, 2}}) {
      for (UnitAxis axis : {UnitAxis::row, UnitAxis::column}) {
        for (int64_t first : {int64_t{0}, rows * cols / 3}) {
          const bool masked = random() % 2 == 0;
          const int bit = static_cast<int>(random() % 64);
          const int64_t count = rows * cols - first - (rows * cols > 5 ? 2 : 0);
          const size_t width = static_cast<size_t>(size_of(dtype));
          const int64_t offset = random() % 2 == 0 ? bit % 4 : 1;
          TestBlock test(backend(), {Criterion::magnitude, 0, true}, dtype, count, bit, masked, Input::normal,
                         random, offset);
          std::vector<uint64_t> units(static_cast<size_t>((axis == UnitAxis::row ? rows : cols) + 63) / 64);
          for (uint64_t& word : units) word = random();
          DeviceArray<uint64_t> device_mask(
              backend(), std::vector<uint64_t>(static_cast<size_t>(bit + count + 63) / 64 + 1, kMaskBefore));
          const uint64_t cut = ops().apply_units(test.block, axis, cols, first, units.data(),
                                                 const_cast<void*>(test.block.weights), device_mask.data());
          uint64_t want = 0;
          const std::vector<uint64_t>& mask = device_mask.values();
          const std::vector<uint8_t>& output = test.weights.values();
          for (int64_t at = 0; at < static_cast<int64_t>(64 * mask.size()); ++at) {
            const int64_t i = at - bit;
            bool kept = (kMaskBefore >> (at % 64) & 1) != 0;
            if (i >= 0 && i < count) {
              const int64_t unit = axis == UnitAxis::row ? (first + i) / cols : (first + i) % cols;
              kept = test.is_kept(i) && (units[static_cast<size_t>(unit / 64)] >> (unit % 64) & 1) != 0;
              want += kept ? 0 : 1;
              const std::vector<uint8_t> zero(width, 0);
              const uint8_t* value = kept ? &test.original[static_cast<size_t>(i) * width] : zero.data();
              ASSERT_EQ(std::memcmp(&output[static_cast<size_t>(i + offset) * width], value, width), 0) << i;
            }
            ASSERT_EQ((mask[static_cast<size_t>(at / 64)] >> (at % 64) & 1) != 0, kept) << i;
          }
          EXPECT_EQ(cut, want);
        }
      }
    }
  }
}

TEST_P(Kernels, NanIsCountedWhereItCounts) {
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    for (int64_t count : {1, 40, 64, 300, 140'001}) {
      std::mt19937_64 random(3);
      const Scoring scoring{Criterion::taylor, 0, true};
      TestBlock test(backend(), scoring, dtype, count, 5, false, Input::normal, random);
      // NaNs of both signs.
      std::vector<int64_t> nans = {count - 1, count / 2, count / 3};
      std::sort(nans.begin(), nans.end());
      nans.erase(std::unique(nans.begin(), nans.end()), nans.end());
      const double nan = std::numeric_limits<double>::quiet_NaN();
      for (size_t n = 0; n < nans.size(); ++n) test.set_weight(nans[n], n % 2 == 0 ? nan : -nan);
      std::vector<Place> none;
      std::vector<uint64_t> bins(2048);
      std::vector<uint64_t> keys(static_cast<size_t>(count));
      for (const BlockCount& found :
           {ops().bracket(scoring, test.block, 0, 0, 0, none), ops().keys(scoring, test.block, keys.data()),
            ops().histogram(scoring, test.block, {0, 0, 11}, bins.data())}) {
        EXPECT_EQ(found.nan_count, nans.size()) << count;
        EXPECT_EQ(found.first_nan, test.block.position + static_cast<uint64_t>(nans.front())) << count;
      }
      // What is cut already is never NaN.
      test.kept.edit([&](std::vector<uint64_t>& words) {
        for (int64_t i : nans) words[static_cast<size_t>((5 + i) / 64)] &= ~(uint64_t{1} << ((5 + i) % 64));
      });
      test.block.kept = test.kept.data();
      EXPECT_EQ(ops().bracket(scoring, test.block, 0, 0, 0, none).nan_count, 0u);
      EXPECT_EQ(ops().keys(scoring, test.block, keys.data()).nan_count, 0u);
    }
  }
}

TEST_P(Kernels, UnitsAreReducedInIndexOrder) {
  std::mt19937_64 random(std::random_device{}());
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    for (const auto& [rows, cols] :
         {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {31, 64}, {65, 33}, {2, 1500}, {1500, 2}, {301, 257}}) {
      for (Reduce reduce : {Reduce::sum, Reduce::mean, Reduce::max, Reduce::l2, Reduce::product}) {
        for (UnitAxis axis : {UnitAxis::row, UnitAxis::column}) {
          const Scoring scoring{Criterion::taylor, 0, true};
          TestBlock test(backend(), scoring, dtype, rows * cols, 7, (rows + cols) % 2 == 0, Input::normal,
                         random);
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
              ops().accumulate(scoring, part, reduce, axis, cols, begin, found.data());
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

COPPICE_FOR_ALL_BACKENDS(Kernels);

}  // namespace
}  // namespace coppice::test
