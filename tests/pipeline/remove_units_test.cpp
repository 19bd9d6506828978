// Hidden units that are really removed: a smaller model that computes what the masked one does.

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/files/safetensors.hpp"
#include "engine/model/model_folder.hpp"
#include "kernels/error.hpp"
#include "tests/pipeline/tiny.hpp"

namespace coppice {
namespace {

namespace fs = std::filesystem;
using test::Scratch;

struct Case {
  const char* cell;
  int64_t layers;
  bool bidirectional;
  Task task;
};

Batch random_batch(const DataShape& shape, std::mt19937_64& random) {
  Batch batch;
  batch.steps = 6;
  batch.batch = 5;
  for (int64_t i = 0; i < batch.steps * batch.batch; ++i) {
    if (shape.inputs == 0)
      batch.ids.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(shape.vocabulary)));
    for (int64_t f = 0; f < shape.inputs; ++f) {
      batch.features.push_back(static_cast<float>(random() % 2000) / 1000.0f - 1.0f);
    }
  }
  const int64_t targets = shape.task == Task::language_model ? batch.steps * batch.batch : batch.batch;
  for (int64_t i = 0; i < targets; ++i) {
    batch.targets.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(shape.classes)));
  }
  if (shape.task == Task::classification) batch.lengths = {6, 1, 3, 6, 2};
  return batch;
}

LossTotals totals_of(Backend& backend, const fs::path& model, const Batch& batch) {
  const std::unique_ptr<Network> network = load_model(backend, model);
  network->evaluate(batch);
  Batch next = batch;  // with a state that was carried
  next.carries_state = true;
  if (batch.lengths.empty()) network->evaluate(next);
  return network->take_totals();
}

TEST(RemoveUnits, TheSmallerModelComputesWhatTheMaskedOneDoes) {
  const Case cases[] = {
      {"rnn_tanh", 1, false, Task::language_model},    {"rnn_relu", 2, true, Task::classification},
      {"rnn_sigmoid", 2, false, Task::language_model}, {"lstm", 1, false, Task::classification},
      {"lstm", 2, false, Task::language_model},        {"lstm", 2, true, Task::classification},
      {"gru", 2, false, Task::language_model},         {"gru", 2, true, Task::classification}};
  const uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  for (const Case& c : cases) {
    SCOPED_TRACE(std::string(c.cell) + " layers " + std::to_string(c.layers) + " bidirectional " +
                 std::to_string(c.bidirectional) + " seed " + std::to_string(seed));
    const Scratch scratch("units");
    const std::unique_ptr<Backend> backend = test::open_test_backend(1);
    const bool text = c.task == Task::language_model;
    ModelConfig model;
    model.cell = c.cell;
    model.embedding = text ? 7 : 0;
    model.hidden = 13;
    model.layers = c.layers;
    model.bidirectional = c.bidirectional;
    model.init = "uniform";
    model.init_range = 0.5;
    DataShape shape;
    shape.task = c.task;
    shape.inputs = text ? 0 : 4;
    shape.vocabulary = text ? 11 : 0;
    shape.classes = text ? 11 : 3;
    DataConfig data;
    data.kind = text ? "text" : "sequences";
    Network network(*backend, model, shape);
    network.initialise(random());
    save_model(network, data, nullptr, scratch / "dense");

    PruneConfig config;
    config.pattern = "unit";
    config.scope = "tensor";
    config.sparsity = 0.6;  // 8 of 13
    PruneFiles files;
    const PruneReport masked =
        prune_model(scratch / "dense", files, config, 1, scratch / "masked", test::test_device(), 1);
    files.remove_units = true;
    const PruneReport removed =
        prune_model(scratch / "dense", files, config, 1, scratch / "removed", test::test_device(), 1);
    EXPECT_EQ(masked.hidden, -1);
    EXPECT_EQ(removed.hidden, 5);
    EXPECT_EQ(masked.outcome.kept, removed.outcome.kept);
    EXPECT_LT(removed.bytes_after, removed.bytes_before);
    EXPECT_EQ(read_model(scratch / "removed").model.hidden, 5);
    EXPECT_TRUE(fs::exists(scratch / "masked/masks.safetensors"));
    EXPECT_FALSE(fs::exists(scratch / "removed/masks.safetensors"));

    const Batch batch = random_batch(shape, random);
    const LossTotals dense = totals_of(*backend, scratch / "dense", batch);
    const LossTotals zeros = totals_of(*backend, scratch / "masked", batch);
    const LossTotals smaller = totals_of(*backend, scratch / "removed", batch);
    EXPECT_NEAR(zeros.mean(), smaller.mean(), 2e-6);
    EXPECT_EQ(zeros.count, smaller.count);
    EXPECT_GT(std::fabs(zeros.mean() - dense.mean()), 1e-4);  // something was cut

    // Encoded as sparse it is the same.
    files.sparse_encoding = true;
    prune_model(scratch / "dense", files, config, 1, scratch / "small", test::test_device(), 1);
    const std::unique_ptr<WeightFile> left = open_weights((scratch / "removed").string());
    for (const FileTensor& tensor : left->tensors()) {
      EXPECT_TRUE(test::tensor_of(scratch / "small", tensor.name) ==
                  test::tensor_of(scratch / "removed", tensor.name))
          << tensor.name;
    }
  }
}

/// A file of PyTorch's names: what reads the last layer is named, or it is an error that says so.
TEST(RemoveUnits, FilesSayWhoReadsTheLastLayer) {
  const Scratch scratch("unit-files");
  std::vector<FileTensor> tensors = {
      {"lstm.weight_ih_l0", DType::bf16, {12, 5}}, {"lstm.weight_hh_l0", DType::bf16, {12, 3}},
      {"lstm.bias_ih_l0", DType::bf16, {12}},      {"lstm.bias_hh_l0", DType::bf16, {12}},
      {"fc.weight", DType::bf16, {4, 3}},          {"fc.bias", DType::bf16, {4}}};
  SafetensorsWriter writer((scratch / "w.safetensors").string(), tensors);
  for (const FileTensor& tensor : tensors) {
    std::vector<uint16_t> values(static_cast<size_t>(tensor.size()));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<uint16_t>(0x3c00 + 3 * i + tensor.name.size());
    writer.write(tensor.name, values.data(), tensor.size());
  }
  writer.finish();

  PruneConfig config;
  config.pattern = "unit";
  config.sparsity = 1.0 / 3;
  PruneFiles files;
  files.remove_units = true;
  const auto refuses = [&](std::initializer_list<const char*> parts) {
    try {
      prune_model(scratch / "w.safetensors", files, config, 1, scratch / "out.safetensors", "cpu", 1);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      for (const char* part : parts) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << ": " << error.what();
      }
    }
    EXPECT_FALSE(fs::exists(scratch / "out.safetensors"));
    EXPECT_FALSE(fs::exists(scratch / "out.safetensors.report.json"));
  };
  refuses({"'lstm.weight_hh_l0'", "--unit-readers"});
  config.unit_readers = {"fc.weight"};
  config.sparsity = 1.0;
  refuses({"no unit", "'lstm.weight_hh_l0'"});
  config.sparsity = 1.0 / 3;
  files.masks = scratch / "w.safetensors";
  refuses({"--remove-units", "--masks"});
  files.masks.clear();
  config.pattern = "row";
  refuses({"--remove-units", "'unit'", "'row'"});
  config.pattern = "unit";

  prune_model(scratch / "w.safetensors", files, config, 1, scratch / "out.safetensors", "cpu", 1);
  const SafetensorsFile before((scratch / "w.safetensors").string()),
      after((scratch / "out.safetensors").string());
  EXPECT_EQ(after.tensor("lstm.weight_ih_l0").shape, (std::vector<int64_t>{8, 5}));
  EXPECT_EQ(after.tensor("lstm.weight_hh_l0").shape, (std::vector<int64_t>{8, 2}));
  EXPECT_EQ(after.tensor("lstm.bias_hh_l0").shape, (std::vector<int64_t>{8}));
  EXPECT_EQ(after.tensor("fc.weight").shape, (std::vector<int64_t>{4, 2}));
  EXPECT_EQ(after.tensor("fc.bias").shape, (std::vector<int64_t>{4}));
  EXPECT_EQ(after.tensor("fc.weight").dtype, DType::bf16);
  // Values rise along every tensor, so the first unit went.
  const std::vector<float> hh = before.read_f32("lstm.weight_hh_l0"),
                           left = after.read_f32("lstm.weight_hh_l0");
  for (size_t row = 0; row < 8; ++row) {
    for (size_t col = 0; col < 2; ++col) {
      EXPECT_EQ(left[row * 2 + col], hh[(row / 2 * 3 + 1 + row % 2) * 3 + 1 + col]);
    }
  }
  const nlohmann::json report =
      nlohmann::json::parse(test::bytes_of(scratch / "out.safetensors.report.json"));
  EXPECT_EQ(report.at("pattern"), "unit");
  EXPECT_EQ(report.at("hidden"), 2);
  EXPECT_EQ(report.at("layers").at(0).at("kept"), (std::vector<int>{1, 2}));
}

/// Layers that would differ in width are no stack.
TEST(RemoveUnits, LayersStayAlike) {
  const Scratch scratch("unit-layers");
  const std::unique_ptr<Backend> backend = test::open_test_backend(1);
  ModelConfig model;
  model.hidden = 8;
  model.layers = 2;
  model.embedding = 3;
  DataShape shape;
  shape.vocabulary = shape.classes = 5;
  Network network(*backend, model, shape);
  network.initialise(1);
  save_model(network, {}, nullptr, scratch / "dense");
  PruneConfig config;
  config.pattern = "unit";
  config.scope = "tensor";
  config.sparsity = 0.5;
  config.include = {"rnn.weight_hh_l0"};
  PruneFiles files;
  files.remove_units = true;
  EXPECT_THROW(prune_model(scratch / "dense", files, config, 1, scratch / "out", test::test_device(), 1),
               Error);
  EXPECT_FALSE(fs::exists(scratch / "out"));
  files.remove_units = false;
  EXPECT_EQ(prune_model(scratch / "dense", files, config, 1, scratch / "out", test::test_device(), 1)
                .outcome.layers.size(),
            1u);
}

/// In a run: masks through retraining, and in rounds.
TEST(RemoveUnits, RunsHoldTheMasks) {
  const Scratch scratch("unit-run");
  test::write_text(scratch / "text.txt", 100);
  Recipe recipe = test::text_recipe(scratch / "text.txt");
  recipe.train.epochs = recipe.retrain.epochs = 1;
  recipe.prune.pattern = "unit";
  recipe.prune.scope = "tensor";
  recipe.prune.sparsity = 0.5;
  recipe.prune.schedule = "iterative";
  recipe.prune.rounds = 2;
  const RunReport report = run_recipe(recipe, scratch / "run");
  EXPECT_EQ(report.pattern, "unit");
  PruneFiles files;
  files.remove_units = true;
  // The cut units are the least: there is nothing behind them.
  recipe.prune.criterion = "magnitude";
  const PruneReport removed = prune_model(scratch / "run/retrained", files, recipe.prune, 1,
                                          scratch / "small", test::test_device(), 1);
  EXPECT_EQ(removed.hidden, 8);
  const EvaluateOptions options{.data = scratch / "text.txt", .device = test::test_device(), .threads = 1};
  EXPECT_NEAR(evaluate_model(scratch / "run/retrained", options).metrics.loss,
              evaluate_model(scratch / "small", options).metrics.loss, 1e-5);
}

}  // namespace
}  // namespace coppice
