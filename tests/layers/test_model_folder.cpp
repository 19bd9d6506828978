#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <numbers>
#include <random>

#include "engine/data/text.hpp"
#include "engine/files/input_file.hpp"
#include "engine/model/model_folder.hpp"
#include "kernels/error.hpp"
#include "tests/data_path.hpp"
#include "tests/layers/compare.hpp"

namespace coppice::test {
namespace {

namespace fs = std::filesystem;

class ModelFolder : public testing::Test {
 protected:
  ModelFolder() {
    folder_ = fs::temp_directory_path() / fmt::format("coppice_models_{}", std::random_device{}());
    fs::create_directories(folder_);
    vocabulary_.entries = {"the", "<unk>", "<eos>", "naïve", "\"quoted\"", "tab\t"};
    vocabulary_.unknown = 1;
    vocabulary_.end_of_line = 2;
    config_.cell = "gru";
    config_.embedding = 5;
    config_.hidden = 7;
    config_.layers = 2;
    config_.dropout = 0.25;
    config_.init = "keras";
    shape_.vocabulary = shape_.classes = 6;
    data_.lowercase = true;
    data_.steps = 13;
  }
  ~ModelFolder() override { fs::remove_all(folder_); }

  std::unique_ptr<Network> make(const ModelConfig& config, uint64_t seed = 1) {
    auto network = std::make_unique<Network>(*backend_, config, shape_);
    network->initialise(seed);
    return network;
  }
  std::unique_ptr<Network> make() { return make(config_); }

  template <class F>
  void expect_error(F&& call, std::initializer_list<const char*> parts) {
    try {
      call();
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      for (const char* part : parts)
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }

  /// The model's tensors under other names, as a checkpoint without model.json.
  std::string write_checkpoint(const Network& network, const std::map<std::string, std::string>& renamed,
                               const std::string& name = "checkpoint.safetensors") {
    const auto name_of = [&](const std::string& segment) {
      const auto found = renamed.find(segment);
      return found == renamed.end() ? segment : found->second;
    };
    std::vector<FileTensor> tensors;
    for (const Segment& segment : network.store().segments()) {
      tensors.push_back({.name = name_of(segment.name), .dtype = DType::f32, .shape = segment.shape});
    }
    const std::string path = (folder_ / name).string();
    const auto writer = create_weights(path, tensors);
    for (const Segment& segment : network.store().segments()) {
      const std::vector<float> values = network.store().download(segment);
      writer->write(name_of(segment.name), values.data(), static_cast<int64_t>(values.size()));
    }
    writer->finish();
    return path;
  }

  static void expect_same_values(const Network& a, const Network& b) {
    EXPECT_EQ(a.backend().download(a.store().values()), b.backend().download(b.store().values()));
  }

  std::unique_ptr<Backend> backend_ = open_test_backend();
  fs::path folder_;
  Vocabulary vocabulary_;
  ModelConfig config_;
  DataShape shape_;
  DataConfig data_;
};

TEST_F(ModelFolder, ComesBackWhole) {
  const auto network = make();
  for (const WeightEncoding encoding : {WeightEncoding::plain, WeightEncoding::sparse}) {
    const fs::path path = folder_ / (encoding == WeightEncoding::plain ? "plain" : "sparse");
    EXPECT_FALSE(is_model_folder(path));
    const int64_t bytes = save_model(*network, data_, &vocabulary_, path, Existing::refuse, encoding);
    EXPECT_EQ(bytes, static_cast<int64_t>(fs::file_size(path / "weights.safetensors")));
    EXPECT_TRUE(is_model_folder(path));
    const ModelDescription description = read_model(path);
    EXPECT_EQ(description.model.cell, "gru");
    EXPECT_EQ(description.model.embedding, 5);
    EXPECT_EQ(description.model.hidden, 7);
    EXPECT_EQ(description.model.layers, 2);
    EXPECT_FALSE(description.model.bidirectional);
    EXPECT_EQ(description.model.dropout, 0.25);
    EXPECT_EQ(description.model.init, "keras");
    EXPECT_EQ(description.model.loss, "softmax");
    EXPECT_EQ(description.shape.task, Task::language_model);
    EXPECT_EQ(description.shape.vocabulary, 6);
    EXPECT_EQ(description.shape.classes, 6);
    EXPECT_TRUE(description.data.lowercase);
    EXPECT_EQ(description.data.steps, 13);
    ASSERT_TRUE(description.vocabulary);
    EXPECT_EQ(description.vocabulary->entries, vocabulary_.entries);
    EXPECT_EQ(description.vocabulary->unknown, 1);
    EXPECT_EQ(description.vocabulary->end_of_line, 2);
    EXPECT_EQ(model_vocabulary(path)->entries, vocabulary_.entries);
    expect_same_values(*load_model(*backend_, path), *network);
    expect_error([&] { save_model(*network, data_, &vocabulary_, path); }, {"exists"});
    save_model(*network, data_, nullptr, path, Existing::replace);
    EXPECT_FALSE(read_model(path).vocabulary);
  }
}

TEST_F(ModelFolder, SparseEncodingIsSmallerAndExact) {
  config_.hidden = 64;
  const auto network = make();
  for (const Segment& segment : network->store().segments()) {
    if (!segment.prunable) continue;
    std::vector<float> values = network->store().download(segment);
    for (size_t i = 0; i < values.size(); ++i) values[i] = i % 10 == 3 ? values[i] : 0.0f;
    network->store().upload(segment, values);
  }
  const int64_t plain = save_model(*network, data_, &vocabulary_, folder_ / "plain");
  const int64_t sparse =
      save_model(*network, data_, &vocabulary_, folder_ / "sparse", Existing::refuse, WeightEncoding::sparse);
  EXPECT_LT(sparse, plain / 3);
  expect_same_values(*load_model(*backend_, folder_ / "sparse"), *network);
}

TEST_F(ModelFolder, AClassifierKeepsItsClasses) {
  shape_ = {.task = Task::classification, .inputs = 3, .classes = 2, .class_names = {"no", "yes"}};
  config_.bidirectional = true;
  const auto network = make();
  save_model(*network, data_, nullptr, folder_ / "classifier");
  const ModelDescription description = read_model(folder_ / "classifier");
  EXPECT_EQ(description.shape.task, Task::classification);
  EXPECT_EQ(description.shape.inputs, 3);
  EXPECT_EQ(description.shape.class_names, shape_.class_names);
  EXPECT_TRUE(description.model.bidirectional);
  expect_same_values(*load_model(*backend_, folder_ / "classifier"), *network);
}

TEST_F(ModelFolder, BadDescriptionsNameTheMatter) {
  save_model(*make(), data_, &vocabulary_, folder_ / "model");
  const fs::path path = folder_ / "model" / "model.json";
  const std::string good = read_file(path.string());
  const auto expect = [&](const std::string& from, const std::string& to,
                          std::initializer_list<const char*> parts) {
    std::string text = good;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    std::ofstream(path) << text;
    expect_error([&] { load_model(*backend_, folder_ / "model"); }, parts);
  };
  expect("\"schema\": 1", "\"schema\": 99", {"model.json", "schema", "99"});
  expect("\"cell\": \"gru\"", "\"cell\": \"qrnn\"", {"qrnn", "expected one of"});
  expect("\"cell\": \"gru\",", "", {"\"cell\" is missing"});
  expect("\"hidden\": 7", "\"hidden\": \"7\"", {"\"hidden\" has the wrong type"});
  expect("\"hidden\": 7", "\"hidden\": 7.5", {"\"hidden\" has the wrong type"});
  expect("\"hidden\": 7", "\"hidden\": 8", {"another architecture", "[24, 5]", "hidden = 7"});
  expect("\"order\": \"rzn\"", "\"order\": \"zrn\"", {"\"zrn\"", "expected \"rzn\""});
  expect("\"unknown\": 1", "\"unknown\": 6", {"id 6", "vocabulary"});
  expect("\"the\",", "", {"5 entries"});
  expect("{", "{{", {"model.json"});
  expect_error([&] { read_model(folder_ / "nowhere"); }, {"nowhere", "model.json"});
}

TEST_F(ModelFolder, OtherPeoplesNames) {
  const auto network = make();
  for (const std::map<std::string, std::string>& renamed :
       {std::map<std::string, std::string>{},
        {{"embedding.weight", "encoder.weight"},
         {"decoder.weight", "fc.weight"},
         {"decoder.bias", "fc.bias"}},
        {{"embedding.weight", "model.emb.weight"},
         {"rnn.weight_ih_l0", "model.gru.weight_ih_l0"},
         {"rnn.weight_hh_l0", "model.gru.weight_hh_l0"},
         {"decoder.weight", "model.to_tokens.weight"},  // unusual: known by its shape
         {"decoder.bias", "model.to_tokens.bias"}}}) {
    const std::string path = write_checkpoint(*network, renamed);
    const auto other = make(config_, 2);
    load_weights(*other, path);
    expect_same_values(*other, *network);
    ModelConfig found;  // the defaults: another architecture
    found = model_of_weights(path, found);
    EXPECT_EQ(found.cell, "gru");
    EXPECT_EQ(found.hidden, 7);
    EXPECT_EQ(found.layers, 2);
    EXPECT_EQ(found.embedding, 5);
    EXPECT_FALSE(found.bidirectional);
    fs::remove(path);
  }
}

TEST_F(ModelFolder, ArchitectureOfWeights) {
  for (const char* cell : {"rnn_relu", "lstm", "gru"}) {
    for (const bool bidirectional : {false, true}) {
      ModelConfig config = config_;
      config.cell = cell;
      config.bidirectional = bidirectional;
      shape_.task = Task::classification;
      const std::string path = write_checkpoint(*make(config), {});
      ModelConfig recipe;
      recipe.cell = "rnn_relu";  // what a simple RNN squashes with can't be seen
      const ModelConfig found = model_of_weights(path, recipe);
      EXPECT_EQ(found.cell, cell);
      EXPECT_EQ(found.bidirectional, bidirectional);
      fs::remove(path);
    }
  }
  save_model(*make(), data_, nullptr, folder_ / "model");
  ModelConfig recipe;
  recipe.dropout = 0.5;
  const ModelConfig found = model_of_weights(folder_ / "model", recipe);
  EXPECT_EQ(found.cell, "gru");
  EXPECT_EQ(found.dropout, 0.5);  // the recipe's: what training needs is not the model's business
}

TEST_F(ModelFolder, WeightsForAnotherArchitecture) {
  const auto network = make();
  const std::string path = write_checkpoint(*network, {});
  const auto expect = [&](auto&& change, std::initializer_list<const char*> parts) {
    ModelConfig config = config_;
    change(config);
    expect_error([&] { load_weights(*make(config), path); }, parts);
  };
  expect([](ModelConfig& c) { c.hidden = 8; }, {"rnn.weight_ih_l0", "[21, 5]", "[24, 5]", "hidden = 7"});
  expect([](ModelConfig& c) { c.layers = 3; }, {"rnn.weight_ih_l2", "layers = 2"});
  expect([](ModelConfig& c) { c.layers = 1; }, {"no place for", "_l1", "layers = 2"});
  expect([](ModelConfig& c) { c.cell = "lstm"; }, {"rnn.weight_ih_l0", "cell = gru"});
  shape_.vocabulary = 9;
  expect([](ModelConfig&) {}, {"embedding.weight", "[6, 5]", "[9, 5]", "vocabulary"});
  const std::string nothing = (folder_ / "nothing.safetensors").string();
  const auto writer = create_weights(nothing, {{.name = "x", .dtype = DType::f32, .shape = {1}}});
  writer->write("x", "\0\0\0", 1);
  writer->finish();
  expect_error([&] { load_weights(*make(), nothing); }, {"nothing.safetensors", "weight_ih_l0"});
  expect_error([&] { model_of_weights(nothing, config_); }, {"\"x\"", "weight_hh_l0"});
}

TEST_F(ModelFolder, VocabularyBesideACheckpoint) {
  const std::string path = write_checkpoint(*make(), {});
  EXPECT_FALSE(model_vocabulary(path));
  const auto write = [&](const std::string& text) { std::ofstream(folder_ / "vocab.json") << text; };
  write(R"({"b": 1, "a": 0, "é": 2})");
  EXPECT_EQ(model_vocabulary(path)->entries, (std::vector<std::string>{"a", "b", "é"}));
  EXPECT_EQ(model_vocabulary(path)->token, "character");
  EXPECT_EQ(model_vocabulary(path)->unknown, -1);
  write(R"(["<eos>", "the", "<unk>"])");
  EXPECT_EQ(model_vocabulary(folder_)->token, "word");
  EXPECT_EQ(model_vocabulary(folder_)->unknown, 2);
  EXPECT_EQ(model_vocabulary(folder_)->end_of_line, 0);
  write(R"({"a": 0, "b": 2})");
  expect_error([&] { model_vocabulary(path); }, {"vocab.json", "\"b\"", "2"});
  write(R"({"a": 0, "b": 0})");
  expect_error([&] { model_vocabulary(path); }, {"vocab.json", "0 to 1"});
  write("[1]");
  expect_error([&] { model_vocabulary(path); }, {"vocab.json"});
  write("7");
  expect_error([&] { model_vocabulary(path); }, {"vocab.json"});
}

// A character model that others trained (ml5's charRNN on Charlotte Brontë). Its README's protocol: the first
// 64 × 500 characters of the corpus as 64 rows, the state carried along each, the first 50 of a row not
// counted.
TEST(TrainedModel, BrontesCharactersScoreAsPublished) {
  COPPICE_REQUIRE_DATA("charlm_bronte/model.safetensors");
  const std::string path = data_path("charlm_bronte/model.safetensors").string();
  const auto vocabulary = model_vocabulary(path);
  ASSERT_TRUE(vocabulary);
  ASSERT_EQ(vocabulary->entries.size(), 108u);
  EXPECT_EQ(vocabulary->token, "character");
  const std::vector<int32_t> ids = encode_text(
      "corpus.txt", read_file(data_path("charlm_bronte/corpus.txt").string()), DataConfig(), *vocabulary);

  const auto backend = open_test_backend();
  const ModelConfig config = model_of_weights(path, {});
  EXPECT_EQ(config.cell, "lstm");
  EXPECT_EQ(config.hidden, 128);
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.embedding, 128);
  Network network(*backend, config, {.vocabulary = 108, .classes = 108, .character = true});
  load_weights(network, path);

  const int64_t rows = 64, length = 500, chunk = 100, uncounted = 50;
  for (int64_t start = 0; start < length; start += chunk) {
    Batch batch;
    batch.batch = rows;
    batch.steps = chunk;
    batch.carries_state = start > 0;
    for (int64_t t = start; t < start + batch.steps; ++t) {
      for (int64_t b = 0; b < rows; ++b) {
        const auto at = static_cast<size_t>(b * length + t);
        batch.ids.push_back(ids[at]);
        batch.targets.push_back(t < uncounted ? -1 : ids[at + 1]);
      }
    }
    network.evaluate(batch);
  }
  EXPECT_NEAR(network.take_totals().mean() / std::numbers::ln2, 1.9265, 5e-5);
}

}  // namespace
}  // namespace coppice::test
