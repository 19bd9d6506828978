#include "engine/data/sequences.hpp"

#include <algorithm>
#include <cmath>

#include "tests/data_path.hpp"
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

using test::Scratch;

std::string ts_file(const std::string& lines, const std::string& labels = "true b a") {
  return "# a comment\n@problemName x\n@timeStamps false\n@dimensions 2\n\n@classLabel " + labels +
         "\n@data\n" + lines;
}

DataConfig ts_config(const std::string& path) {
  DataConfig config;
  config.kind = "sequences";
  config.train = config.valid = config.test = path;
  config.batch_size = 2;
  config.shuffle = false;
  return config;
}

TEST(Ts, SequencesOfUnequalLength) {
  const Scratch scratch;
  const std::string path = scratch.put("t.ts", ts_file("1,2.5,-3e1:4,+5,6:b\r\n7:8:a\n\n9,10:11,12:b"));
  const DataSet data = open_data(ts_config(path), 1);
  EXPECT_EQ(data.shape.inputs, 2);
  EXPECT_EQ(data.shape.classes, 2);
  EXPECT_EQ(data.shape.class_names, (std::vector<std::string>{"a", "b"}));
  EXPECT_FALSE(data.test_is_valid);
  Batch batch;
  data.train->read(0, batch);
  EXPECT_EQ(batch.steps, 3);
  EXPECT_EQ(batch.lengths, (std::vector<int32_t>{3, 1}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{1, 0}));
  EXPECT_EQ(batch.features, (std::vector<float>{1, 4, 7, 8, 2.5f, 5, 0, 0, -30, 6, 0, 0}));
  EXPECT_EQ(open_data(ts_config(path), 1, nullptr, "sigmoid").shape.classes, 1);
  const auto split = open_split(ts_config(""), path, data.shape, nullptr);
  split->read(1, batch);
  EXPECT_EQ(batch.features, (std::vector<float>{9, 11, 10, 12}));
  EXPECT_TRUE(batch.lengths.empty());
}

TEST(Ts, LabelsGoInNumericOrder) {
  const Scratch scratch;
  const std::string path = scratch.put("t.ts", ts_file("1:1:10\n1:1:9\n1:1:-2\n", "true 10 9 -2"));
  EXPECT_EQ(open_data(ts_config(path), 1).shape.class_names, (std::vector<std::string>{"-2", "9", "10"}));
  EXPECT_ERROR(open_data(ts_config(path), 1, nullptr, "sigmoid"), bad_input, "t.ts", "3 classes", "sigmoid");
}

TEST(Ts, BadFilesNameFileAndLine) {
  const Scratch scratch;
  const auto refused = [&](const std::string& text, std::initializer_list<std::string> words) {
    const std::string path = scratch.put("bad.ts", text);
    try {
      open_data(ts_config(path), 1);
      ADD_FAILURE() << "accepted: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      for (const std::string& word : words) {
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << word << " in " << error.what();
      }
    }
  };
  refused("", {"bad.ts", "empty"});
  refused(std::string("@data\0", 6), {"bad.ts", "NUL"});
  refused("1,2:a\n", {"bad.ts:1", "@data"});
  refused("@dimensions 2\n", {"bad.ts", "no @data"});
  refused("@dimensions 2\n@data\n1:2:a\n", {"bad.ts:2", "@classLabel"});
  refused(ts_file(""), {"bad.ts", "no sequence"});
  refused(ts_file("", "false"), {"bad.ts:6", "@classLabel"});
  refused(ts_file("", "true a b a"), {"bad.ts:6", "\"a\" twice"});
  refused("@timeStamps true\n", {"bad.ts:1", "@timeStamps"});
  refused("@missing true\n", {"bad.ts:1", "@missing"});
  refused("@dimensions 1.5\n", {"bad.ts:1", "@dimensions"});
  refused("@univariate true\n@dimensions 2\n", {"bad.ts:2", "2 dimensions, but 1"});
  refused(ts_file("1:2:a\n1:2:c\n"), {"bad.ts:9", "\"c\"", "@classLabel"});
  refused(ts_file("1:2:\n"), {"bad.ts:8", "label is empty"});
  refused(ts_file("1:a\n"), {"bad.ts:8", "1 dimensions, but 2"});
  refused(ts_file("a\n"), {"bad.ts:8", "separated by ':'"});
  refused(ts_file("1:2:3:a\n"), {"bad.ts:8", "3 dimensions, but 2"});
  refused(ts_file("1,2:3:a\n"), {"bad.ts:8", "dimension 2 has 1 values", "has 2"});
  refused("@equalLength true\n" + ts_file("1:2:a\n1,2:3,4:b\n"), {"bad.ts:10", "2 steps", "@equalLength"});
  refused(ts_file(":2:a\n"), {"bad.ts:8", "length 0"});
  refused(ts_file("1,x:2,3:a\n"), {"bad.ts:8", "value 2 of dimension 1", "\"x\""});
  for (const char* odd : {"?", "", "nan", "inf", "1e39", "1.2.3", "0x1p", "1 2", "--1"}) {
    refused(ts_file(fmt::format("5,{}:2,3:a\n", odd)),
            {"bad.ts:8", "value 2 of dimension 1", "expected a number"});
  }
  refused(ts_file("1:2:a\n", "true a"), {"bad.ts", "at least two classes"});
}

TEST(Ts, OtherFilesMustFit) {
  const Scratch scratch;
  DataConfig config = ts_config(scratch.put("t.ts", ts_file("1:1:a\n2:2:b\n")));
  const DataShape shape = open_data(config, 1).shape;
  const std::string wide = scratch.put("wide.ts", "@classLabel true a b\n@data\n1:1:1:a\n");
  const std::string odd = scratch.put("odd.ts", ts_file("1:1:b\n1:1:z\n", "true a b z"));
  EXPECT_ERROR(open_split(config, wide, shape, nullptr), bad_input, "wide.ts", "3 inputs", "expected 2");
  EXPECT_ERROR(open_split(config, odd, shape, nullptr), bad_input, "odd.ts:9", "label z is out of range");
  config.valid = odd;
  EXPECT_ERROR(open_data(config, 1), bad_input, "odd.ts:9");
}

TEST(Sequences, PartsSplitOffAreDrawnBySeed) {
  const Scratch scratch;
  std::string lines;
  for (int i = 0; i < 20; ++i) lines += fmt::format("{}:0:{}\n", i, i < 10 ? "a" : "b");
  DataConfig config = ts_config(scratch.put("t.ts", ts_file(lines)));
  config.valid = config.test = "";
  config.valid_fraction = 0.2;
  config.test_fraction = 0.25;
  config.batch_size = -1;
  const auto values = [](BatchSource& source) {
    Batch batch;
    source.read(0, batch);
    std::vector<float> first;
    for (size_t b = 0; b < batch.features.size(); b += 2) first.push_back(batch.features[b]);
    return first;
  };
  const DataSet data = open_data(config, 1);
  std::vector<float> all = values(*data.train);
  EXPECT_EQ(all.size(), 11u);
  EXPECT_EQ(data.valid->targets(), 4);
  EXPECT_EQ(data.test->targets(), 5);
  for (float value : values(*data.valid)) all.push_back(value);
  for (float value : values(*data.test)) all.push_back(value);
  std::sort(all.begin(), all.end());
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], static_cast<float>(i));  // each once
  EXPECT_EQ(values(*open_data(config, 1).valid), values(*data.valid));
  EXPECT_NE(values(*open_data(config, 2).valid), values(*data.valid));
  config.valid_fraction = 0.01;
  EXPECT_ERROR(open_data(config, 1), bad_input, "t.ts", "data.valid_fraction");
  config.valid_fraction = 0.9;
  EXPECT_ERROR(open_data(config, 1), bad_input, "data.valid_fraction");
}

TEST(Sequences, FromNumPy) {
  DataConfig config;
  config.kind = "sequences";
  config.train = test::golden_file("sequences.npz");
  config.shuffle = false;
  config.batch_size = 3;
  const DataSet data = open_data(config, 1, nullptr, "sigmoid");
  EXPECT_EQ(data.shape.inputs, 2);
  EXPECT_EQ(data.shape.classes, 1);
  EXPECT_EQ(data.shape.class_names, (std::vector<std::string>{"0", "1"}));
  EXPECT_EQ(data.train->targets(), 5);
  EXPECT_EQ(data.valid->targets(), 2);
  EXPECT_TRUE(data.test_is_valid);  // no x_test in the file
  Batch batch;
  data.train->read(0, batch);
  EXPECT_EQ(batch.lengths, (std::vector<int32_t>{3, 1, 2}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{1, 0, 1}));
  const std::vector<double> x = test::golden_values(30, DType::f32);
  for (int64_t b = 0; b < 3; ++b) {
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t i = 0; i < 2; ++i) {
        const double expected =
            t < batch.lengths[static_cast<size_t>(b)] ? x[static_cast<size_t>((b * 3 + t) * 2 + i)] : 0;
        EXPECT_EQ(batch.features[static_cast<size_t>((t * 3 + b) * 2 + i)], expected);
      }
    }
  }
  data.valid->read(0, batch);
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{0, 1}));
  DataShape shape = data.shape;
  EXPECT_EQ(open_split(config, config.train, shape, nullptr)->targets(), 2);
  shape.class_names.clear();
  EXPECT_EQ(open_split(config, config.train, shape, nullptr)->targets(), 2);
}

TEST(Sequences, BadArrays) {
  const Scratch scratch;
  struct Array {
    FileTensor info;
    std::vector<float> values;
  };
  const auto refused = [&](const std::vector<Array>& arrays, std::initializer_list<std::string> words) {
    std::vector<FileTensor> infos;
    for (const Array& array : arrays) infos.push_back(array.info);
    const auto writer = create_weights(scratch.path("bad.npz"), infos, {}, Existing::replace);
    for (const Array& array : arrays) writer->write(array.info.name, array.values.data(), array.info.size());
    writer->finish();
    DataConfig config;
    config.kind = "sequences";
    config.train = scratch.path("bad.npz");
    try {
      open_data(config, 1);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      EXPECT_NE(std::string(error.what()).find("bad.npz"), std::string::npos) << error.what();
      for (const std::string& word : words) {
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << word << " in " << error.what();
      }
    }
  };
  const Array x{{"x_train", DType::f32, {2, 2, 1}}, {1, 2, 3, 4}}, y{{"y_train", DType::f32, {2}}, {0, 1}};
  const Array lengths{{"lengths_train", DType::f32, {2}}, {2, 0}};
  const float nan = std::nanf("");
  refused({y}, {"\"x_train\""});
  refused({x}, {"\"y_train\""});
  refused({{{"x_train", DType::f32, {2, 2}}, {1, 2, 3, 4}}, y}, {"[2, 2]", "[sequences, steps, inputs]"});
  refused({{{"x_train", DType::f32, {0, 2, 1}}, {}}, {{"y_train", DType::f32, {0}}, {}}},
          {"nothing to read"});
  refused({{{"x_train", DType::f32, {2, 0, 1}}, {}}, y}, {"nothing to read"});
  refused({x, {{"y_train", DType::f32, {3}}, {0, 1, 2}}}, {"\"y_train\"", "[3]", "[2]"});
  refused({x, {{"y_train", DType::f32, {2}}, {0, 0.5f}}},
          {"\"y_train\"", "element 1 is 0.5", "whole number"});
  refused({x, {{"y_train", DType::f32, {2}}, {nan, 0}}}, {"\"y_train\"", "element 0 is nan"});
  refused({x, {{"y_train", DType::f32, {2}}, {1, 1}}}, {"two classes"});
  refused({x, y, lengths}, {"\"lengths_train\"", "element 1 is 0", "1 to 2"});
  refused({x, y, {{"lengths_train", DType::f32, {2}}, {2, 3}}}, {"element 1 is 3"});
  refused({{{"x_train", DType::f32, {2, 2, 1}}, {1, 2, nan, 4}}, y}, {"\"x_train\"", "sequence 1", "nan"});
  refused({x, y, {{"x_valid", DType::f32, {1, 1, 1}}, {1}}, {{"y_valid", DType::f32, {1}}, {7}}},
          {"\"y_valid\"", "element 0", "label 7 is out of range"});
  refused({x, y, {{"x_valid", DType::f32, {1, 1, 2}}, {1, 1}}, {{"y_valid", DType::f32, {1}}, {1}}},
          {"\"y_valid\"", "2 inputs"});
}

TEST(Ts, JapaneseVowels) {
  COPPICE_REQUIRE_DATA("japanese_vowels");
  DataConfig config;
  config.kind = "sequences";
  config.train = test::data_path("japanese_vowels/JapaneseVowels_TRAIN.ts").string();
  config.test = test::data_path("japanese_vowels/JapaneseVowels_TEST.ts").string();
  config.valid_fraction = 0.1;
  config.batch_size = -1;
  const DataSet data = open_data(config, 1);
  EXPECT_EQ(data.train->targets(), 243);
  EXPECT_EQ(data.valid->targets(), 27);
  EXPECT_EQ(data.test->targets(), 370);
  EXPECT_EQ(data.shape.inputs, 12);
  EXPECT_EQ(data.shape.classes, 9);
  EXPECT_EQ(data.shape.class_names.front(), "1");
  EXPECT_EQ(data.shape.class_names.back(), "9");
  Batch batch;
  int32_t least = 100, most = 0;
  for (BatchSource* source : {data.train.get(), data.valid.get(), data.test.get()}) {
    source->read(0, batch);
    for (int32_t length : batch.lengths) {
      least = std::min(least, length);
      most = std::max(most, length);
    }
  }
  EXPECT_EQ(least, 7);
  EXPECT_EQ(most, 29);
}

}  // namespace
}  // namespace coppice
