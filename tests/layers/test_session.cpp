#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <span>

#include "engine/builtins.hpp"
#include "engine/sparse/session.hpp"
#include "kernels/error.hpp"
#include "tests/layers/compare.hpp"

namespace coppice::test {
namespace {

using reference::Case;

Case model(std::string_view cell) {
  Case c;
  c.config.cell = std::string(cell);
  c.config.embedding = 11;
  c.config.hidden = 40;
  c.config.layers = 2;
  c.data.vocabulary = c.data.classes = 23;
  c.steps = 7;
  c.batch = 3;
  return c;
}

/// Nine in ten of the prunable weights are zero.
void prune(Network& network) {
  for (const Segment& segment : network.store().segments()) {
    if (segment.shape.size() != 2 || segment.name == "embedding.weight") continue;
    std::vector<float> values = network.store().download(segment);
    for (size_t i = 0; i < values.size(); ++i) values[i] = i % 10 == 7 ? values[i] : 0.0f;
    network.store().upload(segment, values);
  }
}

/// Of the prunable weights one column in ten is left: every layout can say that.
void keep_columns(Network& network) {
  for (const Segment& segment : network.store().segments()) {
    if (segment.shape.size() != 2 || segment.name == "embedding.weight") continue;
    std::vector<float> values = network.store().download(segment);
    const auto columns = static_cast<size_t>(segment.cols());
    for (size_t i = 0; i < values.size(); ++i) values[i] = i % columns % 10 == 7 ? values[i] : 0.0f;
    network.store().upload(segment, values);
  }
}

TEST(Session, StepsAsTheNetworkReads) {
  for (const CellEntry& cell : builtin_cells()) {
    for (const bool features : {false, true}) {
      Case c = model(cell.name);
      if (features) {
        c.data = {.task = Task::classification, .inputs = 5, .classes = 4};
      }
      const unsigned seed = std::random_device{}();
      SCOPED_TRACE(testing::Message() << cell.name << " seed " << seed);
      std::mt19937 generator(seed);
      const auto backend = open_test_backend();
      Network network(*backend, c.config, c.data);
      upload(network, random_tensors(c, generator));
      prune(network);
      for (const std::string_view layout : backend->layouts()) {
        if (layout == "bsr" || layout == "balanced") continue;  // of patterns that this mask has not
        Session session(network, {.streams = c.batch, .layout = std::string(layout)});
        EXPECT_EQ(session.layout("rnn.weight_hh_l1"), layout);
        for (const int round : {1, 2}) {
          const Batch whole = random_batch(c, generator);
          // A classifier says at every step what it would say if the sequences ended there.
          Batch so_far;
          so_far.batch = c.batch;
          for (int64_t t = 0; t < c.steps; ++t) {
            std::span<const float> logits;
            so_far.steps = t + 1;
            if (features) {
              const auto width = c.batch * c.data.inputs;
              const std::span<const float> row(whole.features.data() + t * width, static_cast<size_t>(width));
              so_far.features.insert(so_far.features.end(), row.begin(), row.end());
              so_far.targets.assign(static_cast<size_t>(c.batch), -1);
              logits = session.step(row);
            } else {
              const std::span<const int32_t> row(whole.ids.data() + t * c.batch,
                                                 static_cast<size_t>(c.batch));
              so_far.ids.insert(so_far.ids.end(), row.begin(), row.end());
              so_far.targets.assign(so_far.ids.size(), -1);
              logits = session.step(row);
            }
            std::vector<float> expected = network.logits(so_far);
            expected.erase(expected.begin(), expected.end() - static_cast<std::ptrdiff_t>(logits.size()));
            expect_close("logits", logits, expected, 2e-6);
          }
          session.reset();
          (void)round;
        }
      }
    }
  }
}

// One row of x has forms and kernels of its own, and yet a single stream says to the bit what the network
// says, which reads its sequence at once.
TEST(Session, OneStreamHasTheBitsOfTheNetwork) {
  for (const CellEntry& cell : builtin_cells()) {
    Case c = model(cell.name);
    c.batch = 1;
    const unsigned seed = std::random_device{}();
    std::mt19937 generator(seed);
    const auto backend = open_test_backend();
    if (backend->device().type != Device::Type::cpu) {
      GTEST_SKIP() << "a GPU adds up one row and many in other orders: StepsAsTheNetworkReads has the bound";
    }
    Network network(*backend, c.config, c.data);
    upload(network, random_tensors(c, generator));
    keep_columns(network);
    for (const std::string_view layout : backend->layouts()) {
      if (!backend->gives_dense_bits(layout)) continue;
      SCOPED_TRACE(testing::Message() << cell.name << ", " << layout << ", seed " << seed);
      network.use_layout(std::string(layout));
      Session session(network, {.layout = std::string(layout)});
      Session mixed(network, {.layout = std::string(layout), .layouts = {{"rnn.weight_ih_l0", "dense"}}});
      EXPECT_EQ(session.layout("rnn.weight_ih_l0"), layout);
      EXPECT_EQ(session.layout("rnn.weight_hh_l0"), layout);
      for (int round = 0; round < 2; ++round) {
        const Batch whole = random_batch(c, generator);
        Batch so_far;
        so_far.batch = 1;
        for (const int32_t id : whole.ids) {
          so_far.steps += 1;
          so_far.ids.push_back(id);
          so_far.targets.push_back(-1);
          const std::span<const float> logits = session.step(std::span(&id, 1));
          const std::vector<float> all = network.logits(so_far);
          const std::vector<float> expected(all.end() - std::ssize(logits), all.end());
          EXPECT_EQ(std::vector<float>(logits.begin(), logits.end()), expected);
          const std::span<const float> others = mixed.step(std::span(&id, 1));
          EXPECT_EQ(std::vector<float>(others.begin(), others.end()), expected);
        }
        session.reset();
        mixed.reset(0);
      }
    }
  }
}

TEST(Session, StreamsAreApart) {
  const Case c = model("lstm");
  const auto backend = open_test_backend();
  Network network(*backend, c.config, c.data);
  network.initialise(5);
  Session pair(network, {.streams = 2}), single(network);
  const auto row = [](std::span<const float> logits, size_t stream) {
    return std::vector<float>(logits.begin() + static_cast<std::ptrdiff_t>(stream * 23),
                              logits.begin() + static_cast<std::ptrdiff_t>((stream + 1) * 23));
  };
  pair.step(std::vector<int32_t>{4, 9});
  pair.reset(1);
  const std::vector<float> both = row(pair.step(std::vector<int32_t>{8, 2}), 1);
  expect_close("after a reset", both, row(single.step(std::vector<int32_t>{2}), 0), 1e-6);
  single.reset();
  single.step(std::vector<int32_t>{4});
  pair.reset();
  pair.step(std::vector<int32_t>{4, 1});
  expect_close("beside another", row(pair.step(std::vector<int32_t>{8, 0}), 0),
               row(single.step(std::vector<int32_t>{8}), 0), 1e-6);
}

TEST(Session, FromAFolderWithALayoutForEachMatrix) {
  const Case c = model("gru");
  const auto backend = open_test_backend();
  Network network(*backend, c.config, c.data);
  network.initialise(5);
  prune(network);
  const auto folder =
      std::filesystem::temp_directory_path() / fmt::format("coppice_session_{}", std::random_device{}());
  save_model(network, {}, nullptr, folder, Existing::refuse, WeightEncoding::sparse);
  Session dense(*backend, folder), sparse(*backend, folder, {.layout = "csr"});
  Session mixed(*backend, folder, {.layout = "csr", .layouts = {{"rnn.weight_ih_l0", "dense"}}});
  std::filesystem::remove_all(folder);
  EXPECT_EQ(mixed.layout("rnn.weight_ih_l0"), "dense");
  EXPECT_EQ(mixed.layout("rnn.weight_hh_l0"), "csr");
  EXPECT_EQ(mixed.layout("decoder.weight"), "csr");
  EXPECT_LT(sparse.weight_bytes(), dense.weight_bytes() / 2);
  EXPECT_LT(sparse.weight_bytes(), mixed.weight_bytes());
  for (const int32_t id : {3, 22, 0}) {
    const std::vector<int32_t> ids = {id};
    const auto expected = dense.step(ids);
    expect_close("sparse", sparse.step(ids), expected, 1e-6);
    expect_close("mixed", mixed.step(ids), expected, 1e-6);
  }
}

// The layouts that round give the same bits, which are near those of the floats and not they.
TEST(Session, MatricesMayBeRounded) {
  const Case c = model("gru");
  const auto backend = open_test_backend();
  Network network(*backend, c.config, c.data);
  network.initialise(5);
  prune(network);
  if (backend->device().type != Device::Type::cpu) {
    EXPECT_THROW(Session(network, {.values = DType::bf16}), Error);
    return;
  }
  Session floats(network, {.layout = "sell"});
  Session dense(network, {.values = DType::bf16}), sparse(network, {.layout = "sell", .values = DType::bf16});
  EXPECT_EQ(sparse.layout("rnn.weight_hh_l0"), "sell");
  EXPECT_THROW(Session(network, {.layout = "csr", .values = DType::bf16}), Error);
  for (const int32_t id : {3, 22, 0}) {
    const std::vector<int32_t> ids = {id};
    const std::span<const float> found = sparse.step(ids), expected = dense.step(ids),
                                 exact = floats.step(ids);
    EXPECT_TRUE(std::ranges::equal(found, expected));
    EXPECT_FALSE(std::ranges::equal(found, exact));
    expect_close("rounded", found, exact, 0.02);
  }
  EXPECT_LT(sparse.weight_bytes(), floats.weight_bytes());
  Session floats_dense(network);
  EXPECT_LT(dense.weight_bytes(), floats_dense.weight_bytes());
}

TEST(Session, AMatrixThatNothingWasCutFromStaysDense) {
  const Case c = model("lstm");
  const auto backend = open_test_backend();
  Network network(*backend, c.config, c.data);
  network.initialise(5);
  const Session session(network, {.layout = "csr", .layouts = {{"decoder.weight", "csr"}}});
  EXPECT_EQ(session.layout("rnn.weight_hh_l0"), "dense");
  EXPECT_EQ(session.layout("decoder.weight"), "csr");  // asked for by name
}

TEST(Session, Refusals) {
  Case c = model("lstm");
  const auto backend = open_test_backend();
  Network network(*backend, c.config, c.data);
  EXPECT_THROW(Session(network, {.streams = 0}), Error);
  EXPECT_THROW(Session(network, {.layout = "origami"}), Error);
  EXPECT_THROW(Session(network, {.layouts = {{"rnn.bias_ih_l0", "csr"}}}), Error);
  Session session(network);
  EXPECT_THROW(session.step(std::vector<int32_t>{1, 2}), Error);
  EXPECT_THROW(session.step(std::vector<int32_t>{23}), Error);
  EXPECT_THROW(session.step(std::vector<float>(11)), Error);
  EXPECT_THROW(session.reset(1), Error);
  EXPECT_THROW(session.layout("rnn.weight_ih_l7"), Error);
  c.config.bidirectional = true;
  c.data = {.task = Task::classification, .inputs = 2, .classes = 2};
  Network both_ways(*backend, c.config, c.data);
  EXPECT_THROW(Session{both_ways}, Error);
}

TEST(Session, DrawsFollowTheLogits) {
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f), -1e4f};
  std::vector<double> counts(4);
  for (uint64_t i = 0; i < 80'000; ++i) ++counts[static_cast<size_t>(draw_class(logits, 1.0, {3, 0}, i))];
  EXPECT_NEAR(counts[0], 1e4, 600);  // six standard deviations; the seed is fixed
  EXPECT_NEAR(counts[1], 2e4, 800);
  EXPECT_NEAR(counts[2], 5e4, 900);
  EXPECT_EQ(counts[3], 0);
  EXPECT_EQ(draw_class(logits, 0.0, {3, 0}, 7), 2);
  EXPECT_EQ(draw_class(logits, 0.7, {3, 0}, 7), draw_class(logits, 0.7, {3, 0}, 7));
  int largest = 0;
  for (uint64_t i = 0; i < 1000; ++i) largest += draw_class(logits, 0.05, {3, 0}, i) == 2;
  EXPECT_EQ(largest, 1000);
}

}  // namespace
}  // namespace coppice::test
