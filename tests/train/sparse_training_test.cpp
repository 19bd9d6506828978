#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "engine/train/trainer.hpp"
#include "tests/train/small_problem.hpp"

namespace coppice {
namespace {

using test::SmallSource;

struct Outcome {
  std::vector<float> values, gradients;
  std::vector<uint64_t> mask;
  MatrixCount matrices;
};

std::vector<uint32_t> bits(const std::vector<float>& values) {
  std::vector<uint32_t> words(values.size());
  std::memcpy(words.data(), values.data(), values.size() * sizeof(float));
  return words;
}

/// Two epochs with four of five weights cut from every matrix but the embedding, some of the kept ones zero.
Outcome train(const std::string& cell, bool bidirectional, const TrainConfig& config, double from,
              bool sparse) {
  const auto backend = test::open_test_backend(2);
  const Task task = bidirectional ? Task::classification : Task::language_model;
  ModelConfig model;
  model.cell = cell;
  model.embedding = bidirectional ? 0 : 6;
  model.hidden = 19;
  model.layers = 2;
  model.bidirectional = bidirectional;
  model.loss = bidirectional ? "sigmoid" : "softmax";
  model.dropout = 0.2;
  Network network(*backend, model, test::small_shape(task));
  network.initialise(5);
  ParameterStore& store = network.store();
  std::mt19937_64 random(11);
  store.enable_mask();
  for (const Segment& segment : store.segments()) {
    if (segment.shape.size() < 2 || segment.name == "embedding.weight") continue;
    std::vector<float> values = store.download(segment);
    std::vector<uint64_t> words(static_cast<size_t>((segment.size() + 63) / 64), 0);
    for (size_t i = 0; i < values.size(); ++i) {
      if (random() % 5 == 0) {
        words[i / 64] |= uint64_t{1} << (i % 64);
        if (random() % 8 == 0) values[i] = 0.0f;
      } else {
        values[i] = 0.0f;
      }
    }
    store.upload(segment, values);
    store.upload_mask(segment, words);
  }
  SmallSource source(task, 6);
  TrainerSetup setup;
  setup.stage = "retrain";
  setup.config = config;
  setup.config.epochs = 2;
  setup.train = &source;
  if (sparse) setup.sparse_layout = backend->sparse_layout();
  setup.sparse_from = from;
  Trainer trainer(network, std::move(setup));
  trainer.run();
  return {backend->download(store.values()), backend->download(store.gradients()),
          backend->download(store.mask()), trainer.matrices()};
}

TEST(SparseTraining, GivesTheBitsOfMaskedTraining) {
  if (test::test_device() != "cpu") GTEST_SKIP() << "the same bits are promised on a processor";
  struct Case {
    const char *cell, *optimizer;
    TrainConfig config;
  };
  std::vector<Case> cases = {{"rnn_tanh", "sgd", {}}, {"gru", "momentum", {}},   {"lstm", "rmsprop", {}},
                             {"lstm", "adam", {}},    {"rnn_relu", "adamw", {}}, {"gru", "adamw", {}}};
  for (Case& c : cases) {
    OptimizerSettings& o = c.config.optimizer;
    const std::string kind = c.optimizer;
    o.kind = kind == "rmsprop" ? OptimizerKind::rmsprop
             : kind == "adam"  ? OptimizerKind::adam
             : kind == "adamw" ? OptimizerKind::adamw
                               : OptimizerKind::sgd;
    if (kind == "momentum") o.momentum = 0.9f;
    o.rate = 0.05f;
    o.weight_decay = 0.01f;
    c.config.clip = 0.05;
    c.config.accumulate = kind == "sgd" ? 2 : 1;
    for (const bool bidirectional : {false, true}) {
      SCOPED_TRACE(std::string(c.cell) + ", " + kind + (bidirectional ? ", bidirectional" : ""));
      const Outcome masked = train(c.cell, bidirectional, c.config, 0.0, false);
      const Outcome sparse = train(c.cell, bidirectional, c.config, 0.0, true);
      EXPECT_EQ(masked.matrices.sparse, 0);
      EXPECT_EQ(sparse.matrices.sparse, bidirectional ? 9 : 5);
      EXPECT_EQ(sparse.matrices.all, sparse.matrices.sparse);
      EXPECT_TRUE(bits(sparse.values) == bits(masked.values));
      // The masked run has gradients of what is cut too, and the sparse one doesn't compute them.
      int64_t kept = 0, cut = 0;
      for (size_t i = 0; i < sparse.gradients.size(); ++i) {
        if ((sparse.mask[i / 64] >> (i % 64) & 1) != 0) {
          ASSERT_EQ(sparse.gradients[i], masked.gradients[i]) << i;
          kept += sparse.gradients[i] != 0.0f ? 1 : 0;
        } else {
          ASSERT_EQ(sparse.gradients[i], 0.0f) << i;
          cut += masked.gradients[i] != 0.0f ? 1 : 0;
        }
      }
      EXPECT_GT(kept, 0);
      EXPECT_GT(cut, 0);
    }
  }
}

TEST(SparseTraining, MatricesOfWhichLessIsCutStayDense) {
  TrainConfig config;
  EXPECT_EQ(train("lstm", false, config, 0.95, true).matrices.sparse, 0);
  EXPECT_EQ(train("lstm", false, config, 0.5, true).matrices.sparse, 5);
}

}  // namespace
}  // namespace coppice
