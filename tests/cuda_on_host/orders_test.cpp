#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.hpp"
#include "kernels/criteria.hpp"
#include "tests/cuda_on_host/arrays.hpp"
#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/on_device.hpp"

// Every family of the CUDA backend, at small sizes, in every order of threads and blocks: the results must be
// the same bits. Built with ThreadSanitizer, the same calls are the race check of the kernels. Whether the
// numbers are right is the business of the suites over operations.

namespace coppice::cuda_on_host {
namespace {

void expect_same_bits(const std::function<void(Backend&, Arrays&)>& body) {
  std::vector<unsigned char> expected;
  for (const auto [order, seed] : kOrders) {
    set_order(order, seed);
    set_multiprocessors(
        1);  // few blocks: each does several tiles, one after the other in the same shared memory
    const std::unique_ptr<Backend> backend = open_emulated();
    ASSERT_NE(backend, nullptr);
    Arrays arrays(*backend);
    body(*backend, arrays);
    const std::vector<unsigned char> found = arrays.everything();
    if (expected.empty()) expected = found;
    EXPECT_TRUE(found == expected) << "order " << static_cast<int>(order) << ", seed " << seed;
    if constexpr (kWatchesRaces) break;  // every order is one to ThreadSanitizer
  }
  set_order(Order::forward);
  set_multiprocessors(4);
}

TEST(Orders, Memory) {
  expect_same_bits([](Backend& backend, Arrays& arrays) {
    const MatrixView<float> from = arrays.matrix(33, 17, 1);
    const MatrixView<float> to = arrays.zeros(33, 20);
    backend.copy(from, to.col_slice(2, 17));
    backend.copy(from.data, arrays.zeros(33, 17).data, 33 * 17 * 4);
    backend.fill_zero(from.data, 40);
    backend.synchronize();
  });
}

TEST(Orders, ProductsInEveryLayout) {
  expect_same_bits([](Backend& backend, Arrays& arrays) {
    for (const std::string_view layout : backend.layouts()) {
      for (const int64_t n : {1, 3, 33}) {
        const int64_t out = n == 3 ? 1100 : 70;  // more rows than are counted up at a time
        const int64_t in = n == 3 ? 20 : 45;
        const MatrixView<float> values = arrays.matrix(out, in, sparse_numbers(out * in, 0.8));
        const std::unique_ptr<Weight> weight = backend.make_weight(layout, values);
        const MatrixView<float> x = arrays.matrix(n, in, 2);
        const MatrixView<float> y = arrays.zeros(n, out);
        weight->multiply(x, arrays.vector(numbers(out, 3)), y);
        weight->multiply(x, {}, y, true);
        weight->multiply_transposed(y, arrays.zeros(n, in));
        weight->multiply_transposed(y, arrays.matrix(n, in, 4), true);
        weight->accumulate_gradient(y, x, arrays.zeros(out, in));
        weight->refresh(values);
        weight->multiply(x, {}, arrays.zeros(n, out));
        backend.synchronize();
      }
    }
  });
}

TEST(Orders, Recurrences) {
  expect_same_bits([](Backend& backend, Arrays& arrays) {
    for (const Cell cell : {Cell::rnn_tanh, Cell::rnn_relu, Cell::rnn_sigmoid, Cell::lstm, Cell::gru}) {
      run_recurrence(backend, arrays, cell, "dense", 2, 36, false, false);
      run_recurrence(backend, arrays, cell, "dense", 5, 33, true, true);
      run_recurrence(backend, arrays, cell, "csr", 3, 33, false, true);
    }
    run_recurrence(backend, arrays, Cell::lstm, "csr", 9, 64, true, false);
    run_recurrence(backend, arrays, Cell::gru, "dense", 17, 64, false, true);
  });
}

TEST(Orders, EmbeddingDropoutAndLastSteps) {
  expect_same_bits([](Backend& backend, Arrays& arrays) {
    SequenceOps& ops = backend.sequence();
    const VectorView<int32_t> ids = arrays.vector(std::vector<int32_t>{3, 0, 3, 3, 6, 1, 0, 3, 5, 3, 6, 2});
    const MatrixView<float> table = arrays.matrix(7, 37, 1);
    const MatrixView<float> rows = arrays.zeros(12, 37);
    ops.embed(table, ids, rows);
    ops.embed_backward(ids, rows, table);
    std::vector<int32_t> many(600);  // several tiles of rows
    for (size_t i = 0; i < many.size(); ++i) many[i] = static_cast<int32_t>(i * i % 7);
    ops.embed_backward(arrays.vector(many), arrays.matrix(600, 37, 4), table);
    ops.add_column_sums(arrays.matrix(300, 37, 2), arrays.vector(numbers(37, 3)));
    ops.dropout(rows, 0.3f, {1, 2}, arrays.zeros(12, 37));
    const VectorView<int32_t> lengths = arrays.vector(std::vector<int32_t>{0, 1, 4});
    const MatrixView<float> last = arrays.zeros(3, 37);
    ops.last_step(rows, lengths, last);
    ops.last_step(rows, {}, last);
    ops.last_step_backward(last, lengths, arrays.zeros(12, 37));
    backend.synchronize();
  });
}

TEST(Orders, Losses) {
  expect_same_bits([](Backend& backend, Arrays& arrays) {
    const VectorView<double> totals = arrays.vector(std::vector<double>{1, 2, 3});
    for (const int64_t classes : {2, 33, 1500}) {
      const VectorView<int32_t> targets = arrays.vector(std::vector<int32_t>{1, 0, -1, 1, 0});
      const MatrixView<float> logits = arrays.matrix(5, classes, 1);
      backend.sequence().softmax_cross_entropy(logits, targets, 0.5f, {}, totals);
      backend.sequence().softmax_cross_entropy(logits, targets, 0.5f, logits, totals);
    }
    std::vector<int32_t> targets(300);
    for (size_t i = 0; i < targets.size(); ++i) targets[i] = static_cast<int32_t>(i % 3) - 1;
    const MatrixView<float> logits = arrays.matrix(300, 1, 2);
    backend.sequence().sigmoid_cross_entropy(logits, arrays.vector(targets), 0.5f, arrays.zeros(300, 1),
                                             totals);
    backend.synchronize();
  });
}

TEST(Orders, Optimizers) {
  expect_same_bits([](Backend& backend, Arrays& arrays) {
    const int64_t n = 5000;
    const VectorView<float> g = arrays.vector(numbers(n, 1));
    const VectorView<uint64_t> mask = arrays.vector(std::vector<uint64_t>(79, 0xf0f0'1234'ffff'0000));
    const VectorView<double> norm = arrays.vector(std::vector<double>{0});
    OptimizerOps& ops = backend.optimizer();
    for (const OptimizerKind kind :
         {OptimizerKind::sgd, OptimizerKind::rmsprop, OptimizerKind::adam, OptimizerKind::adamw}) {
      OptimizerSettings settings;
      settings.kind = kind;
      settings.momentum = 0.9f;
      settings.weight_decay = 0.01f;
      const VectorView<float> w = arrays.vector(numbers(n, 2));
      const int slots = optimizer_slots(settings);
      const VectorView<float> first = slots > 0 ? arrays.vector(std::vector<float>(n)) : VectorView<float>{};
      const VectorView<float> second = slots > 1 ? arrays.vector(std::vector<float>(n)) : VectorView<float>{};
      ops.gradient_norm(g, mask, norm);
      ops.update(settings, 1.0f, norm, w, g, mask, first, second);
      settings.step = 2;
      ops.update(settings, 0.0f, {}, w, g, {}, first, second);
    }
    ops.apply_mask(g, mask);
    ops.accumulate_statistics(g, arrays.vector(numbers(n, 3)), arrays.vector(numbers(n, 4)),
                              arrays.vector(numbers(n, 5)));
    backend.synchronize();
  });
}

class OrdersOfSelection : public testing::TestWithParam<DType> {
 protected:
  const void* stored(Arrays& arrays, const std::vector<float>& values) {
    if (GetParam() == DType::f64)
      return arrays.vector(std::vector<double>(values.begin(), values.end())).data;
    if (GetParam() == DType::f32) return arrays.vector(values).data;
    std::vector<uint16_t> halves;
    for (float value : values) halves.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
    return arrays.vector(halves).data;
  }
  ScoreBlock block_of(Arrays& arrays, int64_t count) {
    ScoreBlock block;
    block.dtype = block.statistic_dtype = GetParam();
    block.weights = stored(arrays, sparse_numbers(count, 0.1, 1));
    block.statistic = stored(arrays, numbers(count, 2));
    block.kept =
        arrays.vector(std::vector<uint64_t>(static_cast<size_t>(count / 64 + 2), 0xffff'0fff'ffff'fff7)).data;
    block.mask_bit = 5;
    block.count = count;
    block.position = 1000;
    return block;
  }
};

TEST_P(OrdersOfSelection, CountLogAndCut) {
  expect_same_bits([this](Backend& backend, Arrays& arrays) {
    const int64_t count = 12'000;
    const bool wide = GetParam() == DType::f64;
    const ScoreBlock block = block_of(arrays, count);
    SelectionOps& ops = backend.selection();
    for (const Criterion criterion : kCriteria) {
      const Scoring scoring{criterion, 7, wide};
      std::vector<Key> keys;
      ops.sample(scoring, block, std::vector<int64_t>{0, 640, 11'968}, keys);
      arrays.note(keys.data(), keys.size());
      const Key low = key_of(scoring, 0.1);  // so many inside that they are logged in several goes
      const Key high = key_of(scoring, 0.8);
      for (const uint64_t capacity : {uint64_t{100'000}, uint64_t{0}}) {
        std::vector<Place> candidates;
        const BlockCount found = ops.bracket(scoring, block, low, high, capacity, candidates);
        std::sort(candidates.begin(), candidates.end());  // their order is unspecified
        arrays.note(candidates.data(), candidates.size());
        arrays.note(&found, 1);
      }
      const KeyWindow window{0, 0, 11};
      std::vector<uint64_t> bins(static_cast<size_t>(window.bins()));
      const BlockCount counted = ops.histogram(scoring, block, window, bins.data());
      arrays.note(bins.data(), bins.size());
      arrays.note(&counted.nan_count, 1);
      const uint64_t place = ops.find_equal(scoring, block, kCutAlready, 3);
      arrays.note(&place, 1);
      const VectorView<double> output = arrays.vector(std::vector<double>(static_cast<size_t>(count)));
      const VectorView<uint64_t> mask =
          arrays.vector(std::vector<uint64_t>(static_cast<size_t>(count / 64 + 2)));
      const uint64_t cut = ops.apply(scoring, block, {low, 2000}, output.data, mask.data);
      arrays.note(&cut, 1);
    }
    const uint64_t kept = ops.count_kept(block);
    arrays.note(&kept, 1);
  });
}

TEST_P(OrdersOfSelection, CutRowsAndColumns) {
  expect_same_bits([this](Backend& backend, Arrays& arrays) {
    const int64_t cols = 150;  // several tiles along either axis
    const int64_t rows = 130;
    const bool wide = GetParam() == DType::f64;
    const ScoreBlock block = block_of(arrays, rows * cols);
    SelectionOps& ops = backend.selection();
    for (const UnitAxis axis : {UnitAxis::row, UnitAxis::column}) {
      for (const Reduce reduce : {Reduce::sum, Reduce::mean, Reduce::max, Reduce::l2, Reduce::product}) {
        const Scoring scoring{Criterion::taylor, 0, wide};
        std::vector<UnitScore> units(static_cast<size_t>(axis == UnitAxis::row ? rows : cols),
                                     start_unit(reduce));
        ops.accumulate(scoring, block, reduce, axis, cols, 0, units.data());
        arrays.note(units.data(), units.size());
      }
      const std::vector<uint64_t> kept_units(3, 0x0f0f'0f0f'0f0f'0f0f);
      const VectorView<double> output = arrays.vector(std::vector<double>(static_cast<size_t>(rows * cols)));
      const VectorView<uint64_t> mask =
          arrays.vector(std::vector<uint64_t>(static_cast<size_t>(rows * cols / 64 + 2)));
      const uint64_t cut = ops.apply_units(block, axis, cols, 0, kept_units.data(), output.data, mask.data);
      arrays.note(&cut, 1);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Types, OrdersOfSelection, testing::Values(DType::f32, DType::f64, DType::bf16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

}  // namespace
}  // namespace coppice::cuda_on_host
