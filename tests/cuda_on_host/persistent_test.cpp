#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/cuda/layouts/spread_rows.hpp"
#include "tests/cuda_on_host/arrays.hpp"
#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/on_device.hpp"

// The kernels that run a whole recurrence: that they are the ones that run, in every order of threads and
// blocks and over several blocks at once; that neither the number of blocks nor the other streams change a
// bit; and how rows are spread over blocks. Whether the numbers are right is the business of the suites over
// operations.

namespace coppice::cuda_on_host {
namespace {

constexpr Cell kCells[] = {Cell::rnn_tanh, Cell::rnn_relu, Cell::rnn_sigmoid, Cell::lstm, Cell::gru};

class Persistent : public testing::Test {
 protected:
  void SetUp() override { set_multiprocessors(4); }
  void TearDown() override {
    set_order(Order::forward);
    set_multiprocessors(4);
  }
};

/// The name of the kernel that ran last, of a recurrence forwards and backwards.
std::string last_kernel(Cell cell, std::string_view layout, int64_t batch, int64_t hidden, int64_t steps = 5,
                        double zeros = 0.7) {
  const std::unique_ptr<Backend> backend = open_emulated();
  Arrays arrays(*backend);
  run_recurrence(*backend, arrays, cell, layout, batch, hidden, false, false, steps, zeros);
  return statistics().last_kernel;
}
bool is_persistent(const std::string& kernel) {
  return kernel.find("sparse_backward") != std::string::npos;
}

TEST_F(Persistent, RunsWhereTheWeightFits) {
  EXPECT_TRUE(is_persistent(last_kernel(Cell::lstm, "csr", 1, 33)));
  EXPECT_TRUE(is_persistent(last_kernel(Cell::gru, "csr", 32, 20, 4)));
  EXPECT_FALSE(is_persistent(last_kernel(Cell::lstm, "csr", 33, 20)));
  EXPECT_FALSE(is_persistent(last_kernel(Cell::lstm, "csr", 2, 20, 3)));
  EXPECT_FALSE(is_persistent(last_kernel(Cell::lstm, "cusparse", 2, 20)));
  EXPECT_FALSE(is_persistent(last_kernel(Cell::lstm, "dense", 2, 20)));
  if constexpr (kWatchesRaces) return;  // the same kernels, for minutes
  // A quarter of 4·200² values and their columns is more than a block may have.
  EXPECT_FALSE(is_persistent(last_kernel(Cell::lstm, "csr", 2, 200, 4, 0.0)));
  EXPECT_TRUE(is_persistent(last_kernel(Cell::lstm, "csr", 2, 200, 4, 0.6)));
  // Wide vectors, or many nonzeros beside them, are multiplied 16 streams at a time.
  EXPECT_NE(last_kernel(Cell::lstm, "csr", 20, 400, 4, 0.98).find("sparse_backward<LstmCell, 16>"),
            std::string::npos);
  // Where nearly everything is zero, fetching all states costs more than looking up those that are wanted.
  EXPECT_FALSE(is_persistent(last_kernel(Cell::rnn_relu, "csr", 32, 1100, 4, 1.0)));
  EXPECT_TRUE(is_persistent(last_kernel(Cell::rnn_relu, "csr", 16, 1100, 4, 1.0)));
}

TEST_F(Persistent, RunsUnlessToldNotTo) {
  setenv("COPPICE_CUDA_PERSISTENT", "0", 1);
  EXPECT_FALSE(is_persistent(last_kernel(Cell::lstm, "csr", 1, 33)));
  unsetenv("COPPICE_CUDA_PERSISTENT");
}

/// Every layout that has such a kernel, over four blocks at once.
TEST_F(Persistent, SameBitsInEveryOrder) {
  std::vector<unsigned char> expected;
  for (const auto [order, seed] : kOrders) {
    set_order(order, seed);
    const std::unique_ptr<Backend> backend = open_emulated();
    Arrays arrays(*backend);
    for (const Cell cell : kCells) {
      run_recurrence(*backend, arrays, cell, "dense", 2, 36, false, false);
      run_recurrence(*backend, arrays, cell, "csr", 1, 33, true, false);
      run_recurrence(*backend, arrays, cell, "csr", 5, 21, false, true);
    }
    run_recurrence(*backend, arrays, Cell::lstm, "csr", 31, 20, false, true);
    run_recurrence(*backend, arrays, Cell::gru, "csr", 9, 20, true, true);
    const std::vector<unsigned char> found = arrays.everything();
    if (expected.empty()) expected = found;
    EXPECT_TRUE(found == expected) << "order " << static_cast<int>(order) << ", seed " << seed;
    if constexpr (kWatchesRaces) break;  // every order is one to ThreadSanitizer
  }
}

TEST_F(Persistent, SameBitsOnAnyNumberOfMultiprocessors) {
  for (const Cell cell : kCells) {
    std::vector<unsigned char> expected;
    for (const int multiprocessors : {1, 2, 3, 5, 64}) {
      set_multiprocessors(multiprocessors);
      const std::unique_ptr<Backend> backend = open_emulated();
      Arrays arrays(*backend);
      run_recurrence(*backend, arrays, cell, "csr", 3, 33, false, true);
      EXPECT_TRUE(is_persistent(statistics().last_kernel));
      const std::vector<unsigned char> found = arrays.everything();
      if (expected.empty()) expected = found;
      EXPECT_TRUE(found == expected) << multiprocessors << " multiprocessors";
      if constexpr (kWatchesRaces) break;
    }
  }
}

/// The states [T + 1, H] of stream `stream` among `batch`: it reads the same numbers whatever runs beside it.
std::vector<float> states_of_stream(Cell cell, int64_t batch, int64_t stream, int64_t hidden) {
  const std::unique_ptr<Backend> backend = open_emulated();
  Arrays arrays(*backend);
  const int64_t steps = 4, gates = gate_count(cell) * hidden;
  const std::unique_ptr<Weight> weight =
      backend->make_weight("csr", arrays.matrix(gates, hidden, sparse_numbers(gates * hidden, 0.6)));
  const std::vector<float> own = numbers(steps * gates, 1);
  std::vector<float> all = numbers(steps * batch * gates, 2);
  for (int64_t t = 0; t < steps; ++t) {
    std::copy_n(own.begin() + t * gates, gates, all.begin() + (t * batch + stream) * gates);
  }
  RecurrenceForward f;
  f.cell = cell;
  f.steps = steps;
  f.batch = batch;
  f.hidden = hidden;
  f.recurrent = weight.get();
  f.gates = arrays.matrix(steps * batch, gates, all);
  f.hidden_states = arrays.zeros((steps + 1) * batch, hidden);
  if (cell == Cell::lstm) f.cell_states = arrays.zeros((steps + 1) * batch, hidden);
  if (cell == Cell::gru) f.candidate_hidden = arrays.zeros(steps * batch, hidden);
  backend->recurrence().forward(f);
  const std::vector<float> states = backend->download(
      VectorView<float>{f.hidden_states.data, (steps + 1) * batch * hidden, backend->device()});
  std::vector<float> result;
  for (int64_t t = 0; t <= steps; ++t) {
    const auto row = states.begin() + (t * batch + stream) * hidden;
    result.insert(result.end(), row, row + hidden);
  }
  return result;
}

TEST_F(Persistent, OtherStreamsChangeNoBit) {
  for (const Cell cell : {Cell::rnn_tanh, Cell::lstm, Cell::gru}) {
    const std::vector<float> alone = states_of_stream(cell, 1, 0, 50);
    for (const int64_t batch : {2, 4, 7, 16, 32}) {
      if (kWatchesRaces && batch > 4) break;
      EXPECT_EQ(states_of_stream(cell, batch, batch - 1, 50), alone) << "of " << batch;
    }
  }
}

// What fills up a row meets zeros, never a state: an infinite one reaches those alone whose weights ask for
// it.
TEST_F(Persistent, ZerosMeetNoInfinity) {
  const int64_t steps = 4, hidden = 40;
  std::vector<float> weight = sparse_numbers(hidden * hidden, 0.6);
  for (int64_t i = 0; i < hidden; ++i) weight[static_cast<size_t>(i * hidden)] = i == 7 ? 1.0f : 0.0f;
  for (const int64_t batch : {1, 3, 20}) {
    const std::unique_ptr<Backend> backend = open_emulated();
    Arrays arrays(*backend);
    const std::unique_ptr<Weight> csr = backend->make_weight("csr", arrays.matrix(hidden, hidden, weight));
    std::vector<float> states(static_cast<size_t>((steps + 1) * batch * hidden));
    for (int64_t b = 0; b < batch; ++b) states[static_cast<size_t>(b * hidden)] = HUGE_VALF;
    RecurrenceForward f;
    f.cell = Cell::rnn_tanh;
    f.steps = steps;
    f.batch = batch;
    f.hidden = hidden;
    f.recurrent = csr.get();
    f.gates = arrays.matrix(steps * batch, hidden, 1);
    f.hidden_states = arrays.matrix((steps + 1) * batch, hidden, states);
    backend->recurrence().forward(f);
    states = backend->download(
        VectorView<float>{f.hidden_states.data, (steps + 1) * batch * hidden, backend->device()});
    EXPECT_NE(statistics().last_kernel.find("sparse_forward"), std::string::npos);
    for (size_t i = static_cast<size_t>(batch * hidden); i < states.size(); ++i) {
      ASSERT_LE(std::abs(states[i]), 1.0f) << i;
    }
    EXPECT_EQ(states[static_cast<size_t>(batch * hidden + 7)], 1.0f);
  }
}

std::vector<int32_t> offsets_of(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> offsets{0};
  for (const int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

TEST(SpreadUnits, FillsTheBlocksEvenly) {
  // 128 units of 4 gates, of 1 to 16 rounds a row; what a block costs is its rounds and one a row.
  std::vector<int32_t> lengths(512);
  for (size_t r = 0; r < lengths.size(); ++r) lengths[r] = static_cast<int32_t>(r * r % 241 + 16);
  const std::vector<int32_t> first = cuda::spread_units(offsets_of(lengths), 4, 10);
  ASSERT_EQ(first.size(), 11u);
  EXPECT_EQ(first.front(), 0);
  EXPECT_EQ(first.back(), 128);
  std::vector<int64_t> costs;
  for (size_t block = 0; block + 1 < first.size(); ++block) {
    costs.push_back(0);
    for (int32_t unit = first[block]; unit < first[block + 1]; ++unit) {
      for (int32_t gate = 0; gate < 4; ++gate)
        costs.back() += 1 + (lengths[static_cast<size_t>(gate * 128 + unit)] + 15) / 16;
    }
  }
  const int64_t total = std::accumulate(costs.begin(), costs.end(), int64_t{0});
  EXPECT_LT(*std::max_element(costs.begin(), costs.end()), total / 10 * 11 / 10);
}

TEST(SpreadUnits, KnowsExtremes) {
  using Units = std::vector<int32_t>;
  EXPECT_EQ(cuda::spread_units(offsets_of({0, 0, 0, 0}), 1, 2), (Units{0, 2, 4}));
  EXPECT_EQ(cuda::spread_units(offsets_of({5, 5}), 1, 9), (Units{0, 1, 2}));  // no empty blocks
  EXPECT_EQ(cuda::spread_units(offsets_of({7, 300}), 2, 4), (Units{0, 1}));   // both rows of the one unit
  EXPECT_EQ(cuda::spread_units(offsets_of({0, 160, 0, 0, 0}), 1, 2), (Units{0, 2, 5}));
}

}  // namespace
}  // namespace coppice::cuda_on_host
