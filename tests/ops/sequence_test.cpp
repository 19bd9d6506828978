#include <algorithm>
#include <cmath>

#include "ops_test.hpp"

namespace coppice::test {
namespace {

/// How a matrix lies in memory: off every boundary with gaps between its rows, as tightly as can be, and with
/// gaps that keep 16-byte loads possible.
struct Placement {
  int64_t gap, offset;
};
constexpr Placement kPlacements[] = {{3, 1}, {0, 0}, {4, 0}};

class SequenceTest : public OpsTest {
 protected:
  /// A vector on the device; keeps its buffer alive.
  template <class T>
  VectorView<T> device(const std::vector<T>& values) {
    buffers_.emplace_back(backend(), static_cast<int64_t>(values.size() * sizeof(T)) + 64, "a test vector");
    const VectorView<T> view = buffers_.back().vector<T>(static_cast<int64_t>(values.size()));
    backend().upload(values, view);
    return view;
  }
  std::vector<int32_t> ids(int64_t count, int64_t lowest, int64_t end) {
    std::vector<int32_t> result(static_cast<size_t>(count));
    for (int32_t& id : result) id = static_cast<int32_t>(lowest + random_.below(end - lowest));
    return result;
  }
  static float at(const std::vector<float>& m, int64_t row, int64_t cols, int64_t c) {
    return m[static_cast<size_t>(row * cols + c)];
  }
  /// Whether ids, lengths and targets lie where the host sees them, so that wrong ones are refused by name.
  bool host_sees_memory() { return backend().device().type == Device::Type::cpu; }

 private:
  std::vector<Buffer> buffers_;
};

TEST_P(SequenceTest, EmbedCopiesRows) {
  for (const int64_t n : {0, 1, 33, 700}) {
    for (const int64_t E : {1, 3, 4, 31, 200}) {
      for (const auto& [gap, offset] : kPlacements) {
        const int64_t V = 17;
        const std::vector<float> values = random_.normals(V * E);
        const std::vector<int32_t> rows = ids(n, 0, V);
        TestMatrix table(backend(), V, E, values, gap, offset), y(backend(), n, E, {}, gap, offset);
        backend().sequence().embed(table, device(rows), y);
        const std::vector<float> result = y.values();
        for (int64_t r = 0; r < n; ++r) {
          for (int64_t c = 0; c < E; ++c) {
            ASSERT_EQ(at(result, r, E, c), at(values, rows[static_cast<size_t>(r)], E, c));
          }
        }
        y.expect_untouched_around();
      }
    }
  }
}

TEST_P(SequenceTest, EmbedBackwardAddsInRowOrder) {
  struct Case {
    int64_t n, E, V;
  };
  std::vector<Case> cases;
  for (const int64_t n : {0, 1, 33, 256, 257, 1500}) {
    for (const int64_t E : {1, 3, 31, 100}) cases.push_back({n, E, 5});  // few: rows meet often
  }
  cases.push_back({300, 1, 1});       // all the same
  cases.push_back({300, 5, 10'000});  // hardly any
  cases.push_back({600, 1030, 100});
  for (const auto& [n, E, V] : cases) {
    const std::vector<float> dy = random_.normals(n * E);
    std::vector<float> expected = random_.normals(V * E);
    const std::vector<int32_t> rows = ids(n, 0, V);
    TestMatrix d_table(backend(), V, E, expected), dy_matrix(backend(), n, E, dy);
    backend().sequence().embed_backward(device(rows), dy_matrix, d_table);
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t c = 0; c < E; ++c) {
        expected[static_cast<size_t>(rows[static_cast<size_t>(r)] * E + c)] += at(dy, r, E, c);
      }
    }
    ASSERT_EQ(bits(d_table.values()), bits(expected)) << "n " << n << ", E " << E << ", V " << V;
    d_table.expect_untouched_around();
  }
}

TEST_P(SequenceTest, EmbedRefusesIdsOutsideTheTable) {
  TestMatrix table(backend(), 4, 3, random_.normals(12)), y(backend(), 2, 3);
  const auto ids = device(std::vector<int32_t>{1, 4});
  if (host_sees_memory()) {
    expect_error(ErrorKind::bad_input, "embed: ids[1] is 4, expected 0 to 3",
                 [&] { backend().sequence().embed(table, ids, y); });
  }
  expect_error(ErrorKind::bad_input, "y is [2, 2], expected [2, 3]",
               [&] { backend().sequence().embed(table, ids, y.view().col_slice(0, 2)); });
}

TEST_P(SequenceTest, ColumnSums) {
  std::vector<std::pair<int64_t, int64_t>> shapes;
  for (const int64_t rows : kOddSizes) {
    for (const int64_t cols : {1, 7, 32, 33, 800}) shapes.emplace_back(rows, cols);
  }
  shapes.emplace_back(128, 33);
  shapes.emplace_back(8200, 3);
  for (const auto& [rows, cols] : shapes) {
    const std::vector<float> values = random_.normals(rows * cols), start = random_.normals(cols);
    TestMatrix x(backend(), rows, cols, values), sums(backend(), 1, cols, start);
    backend().sequence().add_column_sums(x, sums.vector());
    std::vector<Reduction> expected(static_cast<size_t>(cols));
    for (int64_t c = 0; c < cols; ++c) {
      expected[static_cast<size_t>(c)].add(start[static_cast<size_t>(c)]);
      for (int64_t r = 0; r < rows; ++r) expected[static_cast<size_t>(c)].add(at(values, r, cols, c));
    }
    expect_close(sums.values(), expected, rows);
    sums.expect_untouched_around();
  }
}

// Bit for bit the draws of random.hpp, whatever the row's place in its blocks of four.
TEST_P(SequenceTest, DropoutFollowsTheCounters) {
  for (const int64_t rows : {0, 1, 5, 37}) {
    for (const int64_t cols : {1, 3, 4, 31, 64, 129}) {
      const auto& [gap, offset] = kPlacements[random_.below(3)];
      for (const float p : {0.0f, 0.1f, 0.5f, 0.999f}) {
        const std::vector<float> values = random_.normals(rows * cols);
        const RandomStream stream{static_cast<uint64_t>(random_.below(int64_t{1} << 62)) * 3,
                                  static_cast<uint64_t>(random_.below(int64_t{1} << 40))};
        TestMatrix x(backend(), rows, cols, values, gap, offset), y(backend(), rows, cols, {}, gap, offset);
        backend().sequence().dropout(x, p, stream, y);
        backend().sequence().dropout(x, p, stream, x);  // in place: the same
        const std::vector<float> result = y.values();
        EXPECT_EQ(bits(x.values()), bits(result));
        const float factor = 1.0f / (1.0f - p);
        for (int64_t i = 0; i < rows * cols; ++i) {
          const bool dropped = random_uniform(stream, static_cast<uint64_t>(i)) < p;
          const float value = values[static_cast<size_t>(i)];
          ASSERT_EQ(std::bit_cast<uint32_t>(result[static_cast<size_t>(i)]),
                    std::bit_cast<uint32_t>(dropped ? 0.0f : value * factor))
              << "element " << i << " of [" << rows << ", " << cols << "] at p " << p;
        }
        y.expect_untouched_around();
      }
    }
  }
  TestMatrix x(backend(), 1, 1);
  expect_error(ErrorKind::bad_input, "the probability is 1, expected 0 <= p < 1",
               [&] { backend().sequence().dropout(x, 1.0f, {}, x); });
}

TEST_P(SequenceTest, LastStep) {
  for (const int64_t T : {0, 1, 5}) {
    for (const int64_t B : {1, 3, 8}) {
      for (const bool with_lengths : {false, true}) {
        const int64_t W = random_.below(2) ? 33 : 36;
        const auto& [gap, offset] = kPlacements[random_.below(3)];
        const std::vector<float> values = random_.normals(T * B * W), dy = random_.normals(B * W);
        const std::vector<int32_t> lengths = with_lengths ? ids(B, 0, T + 1) : std::vector<int32_t>{};
        const VectorView<int32_t> on_device = device(lengths);
        TestMatrix x(backend(), T * B, W, values, gap, offset), y(backend(), B, W, {}, gap, offset);
        TestMatrix d(backend(), B, W, dy, gap, offset), dx(backend(), T * B, W, {}, gap, offset);
        backend().sequence().last_step(x, on_device, y);
        backend().sequence().last_step_backward(d, on_device, dx);
        std::vector<float> expected_y(static_cast<size_t>(B * W)),
            expected_dx(static_cast<size_t>(T * B * W));
        for (int64_t b = 0; b < B; ++b) {
          const int64_t length = with_lengths ? lengths[static_cast<size_t>(b)] : T;
          if (length == 0) continue;
          for (int64_t c = 0; c < W; ++c) {
            const int64_t row = (length - 1) * B + b;
            expected_y[static_cast<size_t>(b * W + c)] = at(values, row, W, c);
            expected_dx[static_cast<size_t>(row * W + c)] = at(dy, b, W, c);
          }
        }
        EXPECT_EQ(bits(y.values()), bits(expected_y));
        EXPECT_EQ(bits(dx.values()), bits(expected_dx));
        y.expect_untouched_around();
        dx.expect_untouched_around();
      }
    }
  }
}

struct LossReference {
  double loss = 0, correct = 0, count = 0;
  std::vector<double> gradient;
};

LossReference softmax_reference(const std::vector<float>& logits, const std::vector<int32_t>& targets,
                                int64_t cols, double scale) {
  LossReference result;
  result.gradient.assign(logits.size(), 0.0);
  for (size_t r = 0; r < targets.size(); ++r) {
    if (targets[r] < 0) continue;
    const auto row = logits.begin() + static_cast<int64_t>(r) * cols;
    const auto largest = std::max_element(row, row + cols);  // the first of equals
    double sum = 0;
    for (int64_t c = 0; c < cols; ++c) sum += std::exp(static_cast<double>(row[c]) - *largest);
    for (int64_t c = 0; c < cols; ++c) {
      const double p = std::exp(static_cast<double>(row[c]) - *largest) / sum;
      result.gradient[r * static_cast<size_t>(cols) + static_cast<size_t>(c)] =
          scale * (p - (c == targets[r]));
    }
    result.loss += std::log(sum) + *largest - row[targets[r]];
    result.correct += largest - row == targets[r];
    result.count += 1;
  }
  return result;
}

TEST_P(SequenceTest, SoftmaxCrossEntropy) {
  std::vector<std::pair<int64_t, int64_t>> shapes = {{2, 70'000}};  // wider than any near memory
  for (const int64_t rows : {0, 1, 7, 33}) {
    for (const int64_t cols : {1, 2, 3, 31, 32, 33, 64, 65, 257, 1024, 1025, 10'000})
      shapes.emplace_back(rows, cols);
  }
  for (const auto& [rows, cols] : shapes) {
    const auto& [gap, offset] = kPlacements[random_.below(3)];
    std::vector<float> values = random_.normals(rows * cols);
    for (float& v : values) v = std::round(v * 8.0f) / (random_.below(2) ? 8.0f : 0.25f);  // ties; up to ±100
    const std::vector<int32_t> targets = ids(rows, -1, cols);
    const float scale = 0.37f;
    TestMatrix logits(backend(), rows, cols, values, gap, offset), d(backend(), rows, cols, {}, gap, offset);
    const VectorView<double> totals = device(std::vector<double>{1.0, 2.0, 3.0});
    const VectorView<int32_t> on_device = device(targets);
    backend().sequence().softmax_cross_entropy(logits, on_device, scale, d, totals);
    const LossReference expected = softmax_reference(values, targets, cols, scale);
    const std::vector<double> sums = backend().download(totals);
    EXPECT_NEAR(sums[0], 1.0 + expected.loss, 1e-6 * (1.0 + expected.loss + static_cast<double>(rows)));
    EXPECT_EQ(sums[1], 2.0 + expected.correct) << rows << " x " << cols;
    EXPECT_EQ(sums[2], 3.0 + expected.count);
    const std::vector<float> gradient = d.values();
    for (size_t i = 0; i < gradient.size(); ++i) {
      ASSERT_NEAR(gradient[i], expected.gradient[i], 16 * 0x1p-24 * (scale + std::abs(expected.gradient[i])))
          << "element " << i << " of " << rows << " x " << cols;
      if (targets[i / static_cast<size_t>(cols)] < 0) {
        ASSERT_EQ(gradient[i], 0.0f);
      }
    }
    d.expect_untouched_around();

    // For evaluation without a gradient, and in place: the same numbers.
    const VectorView<double> again = device(std::vector<double>{1.0, 2.0, 3.0});
    backend().sequence().softmax_cross_entropy(logits, on_device, scale, {}, again);
    EXPECT_EQ(backend().download(again), sums);
    EXPECT_EQ(logits.values(), values);
    backend().sequence().softmax_cross_entropy(logits, on_device, scale, logits, again);
    EXPECT_EQ(bits(logits.values()), bits(gradient));
  }
}

TEST_P(SequenceTest, SoftmaxOfExtremes) {
  const auto loss_of = [&](const std::vector<float>& row, int32_t target) {
    TestMatrix logits(backend(), 1, static_cast<int64_t>(row.size()), row);
    const VectorView<double> totals = device(std::vector<double>(3, 0.0));
    backend().sequence().softmax_cross_entropy(logits, device(std::vector<int32_t>{target}), 1.0f, logits,
                                               totals);
    return backend().download(totals)[0];
  };
  EXPECT_NEAR(loss_of({3e38f, -3e38f, 0.0f}, 0), 0.0, 1e-6);
  EXPECT_NEAR(loss_of({-1000.0f, 1000.0f}, 0), 2000.0, 1e-3);
  EXPECT_NEAR(loss_of({-HUGE_VALF, 1.0f, 1.0f}, 1), std::log(2.0), 1e-6);
  // A NaN anywhere shows in the loss: training must stop for it.
  for (size_t place = 0; place < 40; ++place) {
    std::vector<float> row(40, 0.5f);
    row[place] = NAN;
    EXPECT_TRUE(std::isnan(loss_of(row, 7))) << place;
  }
}

TEST_P(SequenceTest, SigmoidCrossEntropy) {
  std::vector<float> values = random_.normals(300);
  for (size_t i = 0; i < values.size(); ++i) values[i] *= i % 3 == 0 ? 100.0f : 2.0f;
  values[5] = 0.0f;
  const std::vector<int32_t> targets = ids(300, -1, 2);
  TestMatrix logits(backend(), 300, 1, values), d(backend(), 300, 1);
  const VectorView<double> totals = device(std::vector<double>(3, 0.0));
  backend().sequence().sigmoid_cross_entropy(logits, device(targets), 0.25f, d, totals);
  double loss = 0, correct = 0, count = 0;
  const std::vector<float> gradient = d.values();
  for (size_t i = 0; i < values.size(); ++i) {
    const double x = values[i], y = targets[i];
    if (targets[i] < 0) {
      EXPECT_EQ(gradient[i], 0.0f);
      continue;
    }
    loss += std::max(x, 0.0) - x * y + std::log1p(std::exp(-std::abs(x)));
    correct += (x > 0) == (y == 1);
    count += 1;
    EXPECT_NEAR(gradient[i], 0.25 * (1 / (1 + std::exp(-x)) - y), 1e-7);
  }
  const std::vector<double> sums = backend().download(totals);
  EXPECT_NEAR(sums[0], loss, 1e-9 * loss);
  EXPECT_EQ(sums[1], correct);
  EXPECT_EQ(sums[2], count);
  d.expect_untouched_around();
}

TEST_P(SequenceTest, LossesRefuseWhatDoesNotFit) {
  TestMatrix logits(backend(), 2, 3, random_.normals(6));
  const VectorView<double> totals = device(std::vector<double>(3, 0.0));
  const auto softmax = [&](const std::vector<int32_t>& targets) {
    backend().sequence().softmax_cross_entropy(logits, device(targets), 1.0f, {}, totals);
  };
  if (host_sees_memory()) {
    expect_error(ErrorKind::bad_input, "targets[1] is 3, expected -1 to 2", [&] { softmax({0, 3}); });
  }
  expect_error(ErrorKind::bad_input, "targets has 3 elements, expected 2", [&] { softmax({0, 1, 2}); });
  expect_error(ErrorKind::bad_input, "logits have 3 columns, expected 1", [&] {
    backend().sequence().sigmoid_cross_entropy(logits, device(std::vector<int32_t>{0, 1}), 1.0f, {}, totals);
  });
}

// Where the host doesn't see ids and targets, wrong ones show in the results, and touch nothing that isn't
// theirs.
TEST_P(SequenceTest, WrongIdsShowAsNaN) {
  if (host_sees_memory()) return;
  const std::vector<float> values = random_.normals(4 * 36);
  TestMatrix table(backend(), 4, 36, values), y(backend(), 3, 36), d_table(backend(), 4, 36, values);
  const auto ids = device(std::vector<int32_t>{4, -1, 3});
  backend().sequence().embed(table, ids, y);
  const std::vector<float> result = y.values();
  for (int64_t c = 0; c < 36; ++c) {
    EXPECT_TRUE(std::isnan(at(result, 0, 36, c)) && std::isnan(at(result, 1, 36, c)));
    EXPECT_EQ(at(result, 2, 36, c), at(values, 3, 36, c));
  }
  backend().sequence().embed_backward(ids, y, d_table);
  const std::vector<float> sums = d_table.values();
  for (int64_t i = 0; i < 4 * 36; ++i) {
    const float value = values[static_cast<size_t>(i)];
    EXPECT_EQ(sums[static_cast<size_t>(i)], i < 3 * 36 ? value : value + value);
  }
  const VectorView<double> totals = device(std::vector<double>(3, 0.0));
  backend().sequence().softmax_cross_entropy(table, device(std::vector<int32_t>{0, 36, -1, 35}), 1.0f, {},
                                             totals);
  EXPECT_TRUE(std::isnan(backend().download(totals)[0]));
  y.expect_untouched_around();
  d_table.expect_untouched_around();
}

TEST_P(SequenceTest, SameBitsForAnyNumberOfThreads) {
  const int64_t rows = 333, cols = 1001;  // enough work that threads do share it
  const std::vector<float> values = random_.normals(rows * cols);
  const std::vector<int32_t> targets = ids(rows, -1, 7);
  std::vector<int32_t> table_rows = targets;
  for (int32_t& id : table_rows) id = std::max(id, 0);
  std::vector<std::vector<uint32_t>> expected;
  std::vector<double> expected_totals;
  for (const int threads : {1, 2, 3}) {
    const std::unique_ptr<Backend> b = open(threads);
    TestMatrix x(*b, rows, cols, values), d(*b, rows, cols), y(*b, rows, cols);
    TestMatrix table(*b, 7, cols, std::vector<float>(static_cast<size_t>(7 * cols))),
        sums(*b, 1, cols, values);
    Buffer integers(*b, rows * 4, "ids"), doubles(*b, 24, "totals");
    b->fill_zero(doubles.data(), 24);
    b->upload(targets, integers.vector<int32_t>(rows));
    b->sequence().softmax_cross_entropy(x, integers.vector<int32_t>(rows), 0.1f, d,
                                        doubles.vector<double>(3));
    b->sequence().dropout(x, 0.5f, {1, 2}, y);
    b->upload(table_rows, integers.vector<int32_t>(rows));
    b->sequence().embed_backward(integers.vector<int32_t>(rows), x, table);
    b->sequence().add_column_sums(x, sums.vector());
    const std::vector<std::vector<uint32_t>> found = {bits(d.values()), bits(y.values()),
                                                      bits(table.values()), bits(sums.values())};
    const std::vector<double> totals = b->download(doubles.vector<double>(3));
    if (expected.empty()) {
      expected = found;
      expected_totals = totals;
    }
    EXPECT_TRUE(found == expected) << threads << " threads";
    EXPECT_EQ(totals, expected_totals) << threads << " threads";
  }
}

// The generator behind dropout, initialisation and shuffles.
TEST(RandomStream, KnownAnswers) {
  const RandomBlock ones = philox4x32_10({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u);
  EXPECT_EQ(ones.word[0], 0x408f276du);
  EXPECT_EQ(ones.word[1], 0x41c83b0eu);
  EXPECT_EQ(ones.word[2], 0xa20bc7c6u);
  EXPECT_EQ(ones.word[3], 0x6d5451fdu);
  // Draw i is word i % 4 of block i / 4, whose counter is (block, stream counter).
  const RandomStream stream{0x0123'4567'89ab'cdefull, 0xfedc'ba98'7654'3210ull};
  const RandomBlock block = philox4x32_10({{3, 1, 0x7654'3210u, 0xfedc'ba98u}}, 0x89ab'cdefu, 0x0123'4567u);
  EXPECT_EQ(random_bits(stream, ((uint64_t{1} << 32) + 3) * 4 + 2), block.word[2]);
}

TEST(RandomStream, UniformAndBounded) {
  EXPECT_EQ(to_uniform(0), 0.0f);
  EXPECT_LT(to_uniform(~0u), 1.0f);
  const RandomStream stream{derive_key(1, 2), 3};
  double mean = 0, square = 0;
  constexpr int kCount = 40'000;
  std::vector<int> histogram(7);
  for (int i = 0; i < kCount; ++i) {
    const double u = random_uniform_double(stream, static_cast<uint64_t>(i));
    mean += u / kCount;
    square += u * u / kCount;
    ++histogram[random_below(stream, static_cast<uint64_t>(i), 7)];
  }
  EXPECT_NEAR(mean, 0.5, 0.01);
  EXPECT_NEAR(square, 1.0 / 3, 0.01);
  for (const int count : histogram) EXPECT_NEAR(count, kCount / 7, 300);
  EXPECT_NE(derive_key(1, 2), derive_key(2, 1));
}

TEST(RandomStream, ShuffleIsAPermutation) {
  for (const int64_t n : {0, 1, 2, 1000}) {
    std::vector<int> order(static_cast<size_t>(n)), sorted;
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
    sorted = order;
    shuffle(order.data(), n, {5, 6});
    std::vector<int> again = sorted;
    shuffle(again.data(), n, {5, 6});
    EXPECT_EQ(order, again);
    if (n == 1000) {
      EXPECT_NE(order, sorted);
    }
    std::sort(order.begin(), order.end());
    EXPECT_EQ(order, sorted);
  }
}

COPPICE_FOR_ALL_BACKENDS(SequenceTest);

}  // namespace
}  // namespace coppice::test
