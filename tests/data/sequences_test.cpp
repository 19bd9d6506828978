#include "engine/data/sequences.hpp"

#include <algorithm>
#include <cmath>

#include "tests/files/scratch.hpp"

namespace coppice {
namespace {

DataConfig generated_config() {
  DataConfig config;
  config.kind = "generated";
  config.train_sequences = 100;
  config.valid_sequences = 33;
  config.sequence_steps = 7;
  config.inputs = 3;
  config.batch_size = 32;
  return config;
}

TEST(Generated, LabelsAreTheSignOfTheFirstInputsSum) {
  const DataSet data = open_data(generated_config(), 1, nullptr, "sigmoid");
  EXPECT_EQ(data.shape.task, Task::classification);
  EXPECT_EQ(data.shape.inputs, 3);
  EXPECT_EQ(data.shape.classes, 1);
  EXPECT_EQ(open_data(generated_config(), 1).shape.classes, 2);
  EXPECT_TRUE(data.test_is_valid);
  EXPECT_EQ(data.train->batches(), 4);
  EXPECT_EQ(data.train->targets(), 100);
  EXPECT_EQ(data.valid->targets(), 33);
  Batch batch;
  int64_t seen = 0, ones = 0;
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < data.train->batches(); ++i) {
    data.train->read(i, batch);
    EXPECT_EQ(batch.steps, 7);
    EXPECT_EQ(batch.batch, i < 3 ? 32 : 4);
    EXPECT_TRUE(batch.lengths.empty());
    EXPECT_FALSE(batch.carries_state);
    for (int64_t b = 0; b < batch.batch; ++b) {
      double first = 0;
      for (int64_t t = 0; t < 7; ++t) first += batch.features[static_cast<size_t>((t * batch.batch + b) * 3)];
      EXPECT_EQ(batch.targets[static_cast<size_t>(b)], first > 0 ? 1 : 0);
      ones += batch.targets[static_cast<size_t>(b)];
      ++seen;
    }
    for (float x : batch.features) sum += x, squares += static_cast<double>(x) * x;
  }
  EXPECT_EQ(seen, 100);
  EXPECT_NEAR(static_cast<double>(ones), 50, 25);
  EXPECT_NEAR(sum / 2100, 0, 5 / std::sqrt(2100.0));
  EXPECT_NEAR(squares / 2100, 1, 5 * std::sqrt(2.0 / 2100));
}

TEST(Generated, DependsOnSeedAndEpochOnly) {
  const auto epoch = [](uint64_t seed, int64_t number) {
    const DataSet data = open_data(generated_config(), seed);
    data.train->start_epoch(number);
    Batch batch;
    data.train->read(1, batch);
    return batch.features;
  };
  EXPECT_EQ(epoch(1, 0), epoch(1, 0));
  EXPECT_EQ(epoch(1, 5), epoch(1, 5));
  EXPECT_NE(epoch(1, 0), epoch(1, 1));
  EXPECT_NE(epoch(1, 0), epoch(2, 0));
  const DataSet data = open_data(generated_config(), 1);  // after other epochs, the same
  Batch batch;
  for (int64_t e : {3, 0, 5}) data.train->start_epoch(e);
  data.train->read(1, batch);
  EXPECT_EQ(batch.features, epoch(1, 5));
}

TEST(Generated, BadOptions) {
  for (int64_t DataConfig::*key :
       {&DataConfig::train_sequences, &DataConfig::valid_sequences, &DataConfig::sequence_steps,
        &DataConfig::inputs, &DataConfig::batch_size}) {
    for (int64_t bad : {int64_t{0}, int64_t{-3}}) {
      DataConfig config = generated_config();
      config.*key = bad;
      EXPECT_ERROR(open_data(config, 1), bad_input, "data.", fmt::format("is {}", bad));
    }
  }
  DataConfig config = generated_config();
  config.train_sequences = config.inputs = 100'000'000;
  EXPECT_ERROR(open_data(config, 1), bad_input, "data.train_sequences");
}

TEST(Sequences, PadsToTheLongestOfABatch) {
  auto data = std::make_shared<SequenceData>();
  data->inputs = 1;
  data->offsets = {0, 1, 4, 6, 8};
  data->features = {1, 2, 3, 4, 5, 6, 7, 8};
  data->labels = {0, 1, 2, 0};
  const auto source = make_sequence_source(data, 2, false, 0);
  Batch batch;
  source->read(0, batch);
  EXPECT_EQ(batch.steps, 3);
  EXPECT_EQ(batch.lengths, (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(batch.features, (std::vector<float>{1, 2, 0, 3, 0, 4}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{0, 1}));
  source->read(1, batch);
  EXPECT_TRUE(batch.lengths.empty());  // equal lengths
  EXPECT_EQ(batch.features, (std::vector<float>{5, 7, 6, 8}));
  const auto all = make_sequence_source(data, -1, true, 9);
  EXPECT_EQ(all->batches(), 1);
  all->read(0, batch);
  EXPECT_EQ(batch.batch, 4);
  std::sort(batch.features.begin(), batch.features.end());
  EXPECT_EQ(batch.features.back(), 8.0f);
}

}  // namespace
}  // namespace coppice
