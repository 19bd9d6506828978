#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "engine/config/recipe.hpp"
#include "engine/files/weight_file.hpp"
#include "engine/verbs.hpp"
#include "tests/test_device.hpp"

namespace coppice::test {

namespace fs = std::filesystem;

/// A folder that is gone after the test; in memory where there is such a place, because a run waits for the
/// disk some hundred times.
class Scratch {
 public:
  explicit Scratch(const std::string& name)
      : path_((::access("/dev/shm", W_OK) == 0 ? fs::path("/dev/shm") : fs::temp_directory_path()) /
              ("coppice-" + name + "-" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Scratch() { fs::remove_all(path_); }
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

/// Text with something to learn in it: sentences of a small grammar.
inline void write_text(const fs::path& file, int lines = 400) {
  static const char* const kSubjects[] = {"the cat", "a dog", "my bird", "the old man"};
  static const char* const kVerbs[] = {"sees", "hears", "likes"};
  static const char* const kObjects[] = {"a fish", "the house", "some bread", "no one"};
  std::mt19937_64 random(1);
  std::ofstream out(file);
  for (int i = 0; i < lines; ++i) {
    const auto subject = random() % 4;
    out << kSubjects[subject] << ' ' << kVerbs[random() % 3] << ' ' << kObjects[(subject + random() % 2) % 4]
        << '\n';
  }
}

inline Recipe text_recipe(const fs::path& text) {
  Recipe recipe;
  recipe.name = "tiny text";
  recipe.threads = 1;
  recipe.device = test_device();
  recipe.data.train = text.string();
  recipe.data.batch_size = 5;
  recipe.data.steps = 6;
  recipe.data.valid_fraction = recipe.data.test_fraction = 0.1;
  recipe.model.embedding = 9;
  recipe.model.hidden = 16;
  recipe.model.layers = 2;
  recipe.model.dropout = 0.1;
  recipe.train.epochs = 3;
  recipe.train.optimizer.kind = OptimizerKind::adam;
  recipe.train.optimizer.rate = 0.02f;
  recipe.train.clip = 1.0;
  recipe.prune.criterion = "taylor-absolute";
  recipe.prune.sparsity = 0.8;
  recipe.prune.gradient_batches = 20;
  recipe.retrain = recipe.train;
  recipe.retrain.epochs = 2;
  return recipe;
}

inline Recipe generated_recipe() {
  Recipe recipe;
  recipe.name = "tiny sequences";
  recipe.threads = 1;
  recipe.device = test_device();
  recipe.data.kind = "generated";
  recipe.data.train_sequences = 600;
  recipe.data.valid_sequences = 200;
  recipe.data.sequence_steps = 8;
  recipe.data.inputs = 10;
  recipe.data.batch_size = 16;
  recipe.model.cell = "rnn_tanh";
  recipe.model.embedding = 0;
  recipe.model.hidden = 12;
  recipe.model.init = "keras";
  recipe.model.loss = "sigmoid";
  recipe.train.epochs = 8;  // far from the optimum, where gradients are noise
  recipe.train.optimizer.kind = OptimizerKind::rmsprop;
  recipe.train.optimizer.rate = 0.002f;
  recipe.prune.criterion = "gradient";
  recipe.prune.pattern = "column";
  recipe.prune.reduce = "sum";
  recipe.prune.percentile = 95;
  recipe.prune.include = {"rnn\\.weight_ih_l0"};
  recipe.prune.gradient_batches = 0;
  recipe.prune.gradient_batch_size = -1;
  recipe.retrain = recipe.train;
  recipe.retrain.epochs = 4;
  return recipe;
}

inline std::string bytes_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

inline std::vector<float> tensor_of(const fs::path& folder, const std::string& name) {
  return open_weights(folder.string())->read_f32(name);
}

/// Everything in two runs' folders that must not depend on when they were interrupted.
inline void expect_same_run(const fs::path& a, const fs::path& b) {
  for (const char* file : {"dense/weights.safetensors", "retrained/weights.safetensors",
                           "sparse/weights.safetensors", "masks.safetensors", "dense/model.json"}) {
    ASSERT_TRUE(fs::exists(a / file)) << a / file;
    EXPECT_TRUE(bytes_of(a / file) == bytes_of(b / file)) << file;
  }
}

inline void expect_same_numbers(const RunReport& a, const RunReport& b) {
  const auto same = [](const std::optional<ModelMetrics>& x, const std::optional<ModelMetrics>& y,
                       const char* what) {
    ASSERT_EQ(x.has_value(), y.has_value()) << what;
    if (!x) return;
    EXPECT_EQ(x->loss, y->loss) << what;
    EXPECT_EQ(x->accuracy, y->accuracy) << what;
    EXPECT_EQ(x->optimizer_steps, y->optimizer_steps) << what;
  };
  same(a.dense, b.dense, "dense");
  same(a.dense_continued, b.dense_continued, "dense_continued");
  same(a.pruned, b.pruned, "pruned");
  same(a.retrained, b.retrained, "retrained");
  same(a.sparse, b.sparse, "sparse");
  ASSERT_EQ(a.epochs.size(), b.epochs.size());
  for (size_t i = 0; i < a.epochs.size(); ++i) {
    EXPECT_EQ(a.epochs[i].stage, b.epochs[i].stage);
    EXPECT_EQ(a.epochs[i].train_loss, b.epochs[i].train_loss) << i;
    EXPECT_EQ(a.epochs[i].valid_loss, b.epochs[i].valid_loss) << i;
  }
  EXPECT_EQ(a.cuts.size(), b.cuts.size());
  EXPECT_EQ(a.parameters.kept, b.parameters.kept);
}

}  // namespace coppice::test
