// A selection that is spread over processes: here they are handles that hand each other bytes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <coppice/coppice.hpp>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/ops/ops_test.hpp"

namespace coppice::test {
namespace {

using ::testing::HasSubstr;

/// What one process of several holds: rows of matrices, and everything that a selection reads and writes.
struct Shard {
  struct Piece {
    std::string name;
    std::vector<int64_t> whole;
    int64_t first_row, rows;
    std::vector<float> weights, gradients;
    std::vector<uint8_t> mask;
    std::vector<std::byte> bf16;  // the same weights, where they are held in that type
  };
  std::vector<Piece> pieces;

  std::vector<coppice_api::Tensor> tensors() {
    std::vector<coppice_api::Tensor> list;
    for (Piece& piece : pieces) {
      coppice_api::Tensor tensor{piece.name, {piece.rows, piece.whole[1]}, piece.weights.data()};
      tensor.gradients = piece.gradients.data();
      tensor.output = piece.weights.data();
      tensor.mask = piece.mask.data();
      tensor.piece = true;
      tensor.whole_shape = piece.whole;
      tensor.first = piece.first_row * piece.whole[1];
      list.push_back(std::move(tensor));
    }
    return list;
  }
};

struct Whole {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> weights, gradients;
};

/// Rows dealt to `processes`, cut at random.
std::vector<Shard> deal(const std::vector<Whole>& tensors, size_t processes, std::mt19937_64& random) {
  std::vector<Shard> shards(processes);
  for (const Whole& whole : tensors) {
    for (int64_t row = 0; row < whole.shape[0];) {
      const int64_t left = whole.shape[0] - row;
      const int64_t rows = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(left));
      const auto begin = row * whole.shape[1], end = (row + rows) * whole.shape[1];
      Shard::Piece piece{whole.name, whole.shape, row, rows, {}, {}, {}, {}};
      piece.weights.assign(whole.weights.begin() + begin, whole.weights.begin() + end);
      piece.gradients.assign(whole.gradients.begin() + begin, whole.gradients.begin() + end);
      piece.mask.assign(piece.weights.size(), 9);
      shards[random() % processes].pieces.push_back(std::move(piece));
      row += rows;
    }
  }
  return shards;
}

TEST(Selection, MergedMasksAreThoseOfOneProcess) {
  const Random seed;
  SCOPED_TRACE("COPPICE_TEST_SEED=" + std::to_string(seed.seed()));
  std::mt19937_64 random(seed.seed());
  for (size_t processes = 1; processes <= 7; ++processes) {
    for (const char* scope : {"scope=global", "scope=tensor"}) {
      for (const char* target : {"sparsity=0.6", "percentile=37"}) {
        SCOPED_TRACE(testing::Message() << processes << " " << scope << " " << target);
        std::vector<Whole> wholes = {{"b", {31, 7}, {}, {}}, {"a", {257, 3}, {}, {}}, {"c", {1, 33}, {}, {}}};
        for (Whole& whole : wholes) {
          for (int64_t i = 0; i < whole.shape[0] * whole.shape[1]; ++i) {
            whole.weights.push_back(static_cast<float>(random() % 9) - 4.0f);  // masses of ties, and zeros
            whole.gradients.push_back(random() % 2 == 0 ? 0.5f : -1.0f);
          }
        }
        const coppice_api::Options options = {"criterion=taylor", scope, target, "threads=1"};
        std::vector<Whole> expected = wholes;
        std::vector<std::vector<uint8_t>> masks;
        std::vector<coppice_api::Tensor> list;
        for (Whole& whole : expected) {
          masks.emplace_back(whole.weights.size());
          coppice_api::Tensor tensor{whole.name, whole.shape, whole.weights.data()};
          tensor.gradients = whole.gradients.data();
          tensor.output = whole.weights.data();
          tensor.mask = masks.back().data();
          list.push_back(tensor);
        }
        const coppice_api::Pruned one = coppice_api::prune_tensors(list, options);

        std::vector<Shard> shards = deal(wholes, processes, random);
        std::vector<coppice_api::Selection> selections;
        std::vector<std::vector<coppice_api::Tensor>> held;
        for (Shard& shard : shards) {
          held.push_back(shard.tensors());
          selections.emplace_back(options);
          for (const coppice_api::Tensor& tensor : held.back()) selections.back().add(tensor);
        }
        int rounds = 0;
        while (!selections[0].done()) {
          std::vector<std::vector<std::byte>> sent;
          for (coppice_api::Selection& selection : selections) {
            selection.count();
            sent.push_back(selection.counts());
          }
          for (size_t to = 0; to < processes; ++to) {
            for (size_t from = 0; from < processes; ++from) {
              if (from != to) selections[to].merge(sent[from]);
            }
            selections[to].refine();
          }
          ++rounds;
        }
        EXPECT_EQ(rounds, 5);  // names, three digits of the key, ties
        uint64_t kept = 0;
        for (coppice_api::Selection& selection : selections) kept += selection.apply();
        EXPECT_EQ(kept, one.kept);
        const auto groups = nlohmann::json::parse(one.report).at("groups");
        const auto merged = nlohmann::json::parse(selections[0].report()).at("groups");
        for (size_t g = 0; g < groups.size(); ++g) {
          EXPECT_EQ(merged[g].at("threshold"), groups[g].at("threshold"));
        }
        for (const Shard& shard : shards) {
          for (const Shard::Piece& piece : shard.pieces) {
            for (size_t t = 0; t < wholes.size(); ++t) {
              if (wholes[t].name != piece.name) continue;
              const auto at = static_cast<size_t>(piece.first_row * piece.whole[1]);
              for (size_t i = 0; i < piece.weights.size(); ++i) {
                ASSERT_EQ(piece.mask[i], masks[t][at + i]) << piece.name << " " << at + i;
                ASSERT_EQ(piece.weights[i], expected[t].weights[at + i]);
              }
            }
          }
        }
      }
    }
  }
}

/// Half precision and strides are cut in pieces as they are cut whole.
TEST(Selection, PiecesMayBeStrided) {
  // Columns of a [4, 6] matrix stored transposed: each process holds two rows of the weight.
  std::vector<float> stored(24), whole(24);
  for (size_t i = 0; i < 24; ++i) whole[i] = static_cast<float>((i * 7) % 24) - 11.5f;
  for (size_t r = 0; r < 4; ++r) {
    for (size_t c = 0; c < 6; ++c) stored[c * 4 + r] = whole[r * 6 + c];
  }
  const coppice_api::Options options = {"sparsity=0.5"};
  std::vector<coppice_api::Tensor> tensors;
  std::vector<coppice_api::Selection> selections;
  for (int64_t p = 0; p < 2; ++p) {
    float* const data = stored.data() + 2 * p;
    coppice_api::Tensor tensor{"w", {2, 6}, {data, std::vector<int64_t>{1, 4}}};
    tensor.output = data;
    tensor.piece = true;
    tensor.whole_shape = {4, 6};
    tensor.first = 12 * p;
    tensors.push_back(tensor);
    selections.emplace_back(options);
  }
  for (size_t p = 0; p < 2; ++p) selections[p].add(tensors[p]);
  while (!selections[0].done()) {
    selections[0].count();
    selections[1].count();
    selections[0].merge(selections[1].counts());
    selections[1].adopt(selections[0].counts());
    selections[0].refine();
    selections[1].refine();
  }
  EXPECT_EQ(selections[0].apply() + selections[1].apply(), 12u);
  coppice_api::Tensor one{"w", {4, 6}, whole.data()};
  one.output = whole.data();
  coppice_api::prune_tensors({one}, options);
  for (size_t r = 0; r < 4; ++r) {
    for (size_t c = 0; c < 6; ++c) EXPECT_EQ(stored[c * 4 + r], whole[r * 6 + c]);
  }
}

TEST(Selection, MistakesHaveAStatusAndASentence) {
  float weights[4] = {1, 2, 3, 4};
  const int64_t shape[] = {4}, whole[] = {8};
  coppice_selection* selection = nullptr;
  EXPECT_EQ(coppice_selection_create(nullptr, 0, nullptr), COPPICE_BAD_INPUT);
  ASSERT_EQ(coppice_selection_create(nullptr, 0, &selection), COPPICE_OK);
  size_t bytes = 0;
  EXPECT_EQ(coppice_selection_counts(selection, nullptr, 0, &bytes), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_selection_refine(selection), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_selection_apply(selection, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_selection_done(selection), 0);
  EXPECT_EQ(coppice_selection_done(nullptr), 0);
  EXPECT_EQ(coppice_selection_add(nullptr, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_selection_add(selection, nullptr), COPPICE_BAD_INPUT);
  coppice_tensor tensor = coppice_tensor_of("w", weights, COPPICE_F32, 1, shape);
  tensor.whole_shape = whole;
  tensor.whole_rank = 1;
  tensor.first = 4;
  EXPECT_EQ(coppice_selection_add(selection, &tensor), COPPICE_OK);
  EXPECT_EQ(coppice_selection_count(selection), COPPICE_OK);
  EXPECT_EQ(coppice_selection_add(selection, &tensor), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_selection_count(selection), COPPICE_BAD_INPUT);
  ASSERT_EQ(coppice_selection_counts(selection, nullptr, 0, &bytes), COPPICE_OK);
  std::vector<char> buffer(bytes);
  EXPECT_EQ(coppice_selection_counts(selection, buffer.data(), bytes - 1, &bytes), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_selection_counts(selection, buffer.data(), bytes, &bytes), COPPICE_OK);
  EXPECT_EQ(coppice_selection_merge(selection, nullptr, 5), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_selection_merge(selection, buffer.data(), bytes - 1), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_selection_adopt(selection, buffer.data(), 3), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_selection_refine(selection), COPPICE_BAD_INPUT);
  EXPECT_THAT(coppice_last_error(), HasSubstr("no process holds the elements from 0 to 4"));
  char* json = nullptr;
  EXPECT_EQ(coppice_selection_report(selection, &json), COPPICE_BAD_INPUT);
  EXPECT_EQ(json, nullptr);
  coppice_selection_free(selection);
  coppice_selection_free(nullptr);

  tensor.first = 5;
  ASSERT_EQ(coppice_selection_create(nullptr, 0, &selection), COPPICE_OK);
  EXPECT_EQ(coppice_selection_add(selection, &tensor), COPPICE_OK);
  EXPECT_EQ(coppice_selection_count(selection), COPPICE_BAD_INPUT);
  EXPECT_THAT(coppice_last_error(), HasSubstr("does not lie in a tensor of 8"));
  coppice_selection_free(selection);
  EXPECT_EQ(weights[0], 1.0f);
}

/// One process alone, in rounds; and a mask of its own for what takes no part.
TEST(Selection, OneProcessIsEnough) {
  float weights[4] = {4, 3, 2, 1}, other[2] = {5, 6};
  uint8_t mask[2] = {9, 9};
  coppice_api::Selection selection({"sparsity=0.5", "exclude=bias"});
  coppice_api::Tensor w{"w", {4}, weights}, bias{"bias", {2}, other};
  w.output = weights;
  bias.output = other;
  bias.mask = mask;
  selection.add(w);
  selection.add(bias);
  while (!selection.done()) {
    selection.count();
    selection.refine();
  }
  EXPECT_EQ(selection.apply(), 2u);
  EXPECT_EQ(weights[1], 3.0f);
  EXPECT_EQ(weights[2], 0.0f);
  EXPECT_EQ(other[0], 5.0f);
  EXPECT_EQ(mask[0], 1);
  EXPECT_THROW(selection.apply(), coppice_api::Error);
  EXPECT_THROW(selection.count(), coppice_api::Error);
}

}  // namespace
}  // namespace coppice::test
