#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "engine/config/schema.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::filesystem::path source_dir() {
  const char* folder = std::getenv("COPPICE_SOURCE_DIR");
  return folder ? folder : ".";
}

Recipe parse(const std::string& toml, const std::vector<std::string>& overrides = {}) {
  return parse_recipe(toml, "r.toml", overrides);
}

const std::string kText = "[data]\ntrain = \"t.txt\"\n";

std::string message_of(const std::string& toml, const std::vector<std::string>& overrides = {}) {
  try {
    parse(toml, overrides);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(RecipeKeys, AreUniqueAndDocumented) {
  std::set<std::string> names;
  for (const RecipeKey& key : recipe_keys()) {
    EXPECT_TRUE(names.insert(key.full_name()).second) << key.full_name();
    EXPECT_FALSE(key.doc.empty()) << key.full_name();
    EXPECT_NE(key.doc.back(), '.') << key.full_name();
  }
  EXPECT_GT(names.size(), 80u);
}

TEST(RecipeKeys, DefaultsPassTheirOwnRanges) {
  const Recipe recipe = parse(write_recipe(parse(kText)));
  EXPECT_EQ(write_recipe(recipe), write_recipe(parse(kText)));
}

TEST(RecipeKeys, MarkdownIsUpToDate) {
  std::ifstream file(source_dir() / "tools/recipes/KEYS.md");
  const std::string committed{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  EXPECT_EQ(committed, recipe_keys_markdown())
      << "renew it: coppice run --help-keys --markdown > tools/recipes/KEYS.md";
}

TEST(Recipe, EveryKeyComesBackFromTheResolvedRecipe) {
  Recipe recipe = parse(kText + R"(token = "character"
batch_size = 7
[model]
cell = "gru"
dropout = 0.25
[train]
optimizer = "adamw"
rate = 0.1
rate_schedule = "cosine"
[prune]
include = ['a\.b', "c\"d"]
sparsity = 0.123456789012345
[retrain]
rate = 3e-5
dense_continued = true
[sparse]
layout = "dense"
)");
  recipe.seed = 1234567890123456789ull;
  const Recipe back = parse(write_recipe(recipe));
  EXPECT_EQ(write_recipe(back), write_recipe(recipe));
  EXPECT_EQ(back.seed, recipe.seed);
  EXPECT_EQ(back.prune.sparsity, recipe.prune.sparsity);
  EXPECT_EQ(back.train.optimizer.rate, 0.1f);
  EXPECT_EQ(back.train.optimizer.kind, OptimizerKind::adamw);
  EXPECT_EQ(back.prune.include, (std::vector<std::string>{"a\\.b", "c\"d"}));
}

TEST(Recipe, RetrainInheritsWhatTrainWasTold) {
  const Recipe recipe =
      parse(kText + "[train]\nrate = 0.5\nclip = 3\nepochs = 9\nmax_steps = 70\n[retrain]\nclip = 4\n",
            {"train.momentum=0.5"});
  EXPECT_EQ(recipe.retrain.optimizer.rate, 0.5f);
  EXPECT_EQ(recipe.retrain.optimizer.momentum, 0.5f);
  EXPECT_EQ(recipe.retrain.clip, 4.0);
  EXPECT_EQ(recipe.train.clip, 3.0);
  EXPECT_EQ(recipe.retrain.epochs, 1);
  EXPECT_EQ(recipe.retrain.max_steps, 0);
}

TEST(Recipe, OverridesWinAndNeedNoQuotes) {
  const Recipe recipe = parse(kText, {"data.train=some file.txt", "model.cell=gru", "prune.include=a.*,b.*",
                                      "prune.sparsity=1", "seed=5", "data.lowercase=true", "name=x=y"});
  EXPECT_EQ(recipe.data.train, "some file.txt");
  EXPECT_EQ(recipe.model.cell, "gru");
  EXPECT_EQ(recipe.prune.include, (std::vector<std::string>{"a.*", "b.*"}));
  EXPECT_EQ(recipe.prune.sparsity, 1.0);
  EXPECT_EQ(recipe.seed, 5u);
  EXPECT_TRUE(recipe.data.lowercase);
  EXPECT_EQ(recipe.name, "x=y");
}

TEST(RecipeErrors, UnknownKeysNameTheNearest) {
  EXPECT_THAT(message_of(kText + "[train]\nepoch = 3\n"),
              AllOf(HasSubstr("r.toml:4"), HasSubstr("train.epoch"), HasSubstr("train.epochs")));
  EXPECT_THAT(message_of(kText + "hidden = 3\n"),
              AllOf(HasSubstr("data.hidden"), HasSubstr("\"model.hidden\"")));
  EXPECT_THAT(message_of(kText + "[modle]\nhidden = 3\n"), AllOf(HasSubstr("[modle]"), HasSubstr("[model]")));
  EXPECT_THAT(message_of(kText, {"prune.sparsty=0.5"}),
              AllOf(HasSubstr("--set"), HasSubstr("prune.sparsity")));
  EXPECT_THAT(message_of("treads = 2\n" + kText), HasSubstr("\"threads\""));
  EXPECT_THAT(message_of(kText + "[prune]\nzzzzzzzz = 1\n"), HasSubstr("criterion"));
}

TEST(RecipeErrors, WrongTypesSayExpectedAndFound) {
  EXPECT_THAT(message_of(kText + "[train]\nepochs = \"three\"\n"),
              AllOf(HasSubstr("r.toml:4"), HasSubstr("an integer"), HasSubstr("\"three\"")));
  EXPECT_THAT(message_of(kText + "[train]\nepochs = 1.5\n"), HasSubstr("1.5"));
  EXPECT_THAT(message_of(kText + "lowercase = 1\n"), HasSubstr("a boolean"));
  EXPECT_THAT(message_of(kText + "[prune]\ninclude = \"x\"\n"), HasSubstr("a list of strings"));
  EXPECT_THAT(message_of(kText + "[prune]\ninclude = [1]\n"), HasSubstr("the integer 1"));
  EXPECT_THAT(message_of("data = 3\n"), HasSubstr("must be a section"));
  EXPECT_THAT(message_of(kText, {"train.epochs=three"}), AllOf(HasSubstr("an integer"), HasSubstr("three")));
  EXPECT_THAT(message_of(kText, {"train.epochs"}), HasSubstr("section.key=value"));
}

TEST(RecipeErrors, RangesAndChoices) {
  EXPECT_THAT(message_of(kText + "[prune]\nsparsity = 1.5\n"), AllOf(HasSubstr("1.5"), HasSubstr("0 to 1")));
  EXPECT_THAT(message_of(kText + "[prune]\nsparsity = nan\n"), HasSubstr("finite"));
  EXPECT_THAT(message_of(kText + "[model]\ndropout = 1.0\n"), HasSubstr("below 1"));
  EXPECT_THAT(message_of(kText + "batch_size = 0\n"), HasSubstr("at least 1"));
  EXPECT_THAT(message_of(kText + "[prune]\ncriterion = \"magnitud\"\n"),
              HasSubstr("did you mean \"magnitude\""));
  EXPECT_THAT(message_of(kText + "[train]\noptimizer = \"adagrad\"\n"),
              HasSubstr("sgd, rmsprop, adam, adamw"));
}

TEST(RecipeErrors, KeysThatContradictEachOther) {
  EXPECT_THAT(message_of("[model]\nhidden = 3\n"), HasSubstr("data.train"));
  EXPECT_THAT(message_of(kText + "[model]\nembedding = 0\n"), HasSubstr("embedding"));
  EXPECT_THAT(message_of(kText + "valid_fraction = 0.5\ntest_fraction = 0.5\n"), HasSubstr("less than 1"));
  EXPECT_THAT(message_of(kText + "[prune]\nreduce = \"product\"\n"), HasSubstr("pattern"));
  EXPECT_THAT(message_of(kText + "[prune]\npattern = \"2:4\"\nsparsity = 0.9\n"),
              AllOf(HasSubstr("2:4"), HasSubstr("0.5"), HasSubstr("0.9")));
  EXPECT_THAT(message_of(kText + "[prune]\npattern = \"2:4\"\nschedule = \"iterative\"\n"),
              AllOf(HasSubstr("2:4"), HasSubstr("iterative")));
  EXPECT_THAT(message_of(kText + "[prune]\npattern = \"block:4\"\n"), HasSubstr("block:16x1"));
  EXPECT_EQ(parse_recipe(kText + "[prune]\npattern = \"6:64\"\n", "r.toml").prune.sparsity, 0.90625);
  EXPECT_THAT(message_of(kText + "[prune]\nschedule = \"gradual\"\nbegin_step = 5\nend_step = 5\n"),
              HasSubstr("end_step"));
}

TEST(RecipeErrors, FilesThatAreNotRecipes) {
  EXPECT_THAT(message_of("[data\n"), AllOf(HasSubstr("r.toml:1"), HasSubstr("TOML")));
  EXPECT_THAT(message_of("a = 1\na = 2\n"), HasSubstr("r.toml:2"));
  EXPECT_THROW(read_recipe("/nonexistent/recipe.toml"), Error);
  EXPECT_THROW(read_recipe("/tmp"), Error);
}

TEST(ShippedRecipes, AllParse) {
  for (const char* name : {"kjv_word_lm", "text_lm", "ptb_small_lm", "keras_simple_rnn", "japanese_vowels"}) {
    const std::vector<std::string> overrides = {"data.train=x"};
    const Recipe recipe =
        read_recipe(source_dir() / "tools/recipes" / (std::string(name) + ".toml"), overrides);
    EXPECT_EQ(recipe.name, name);
  }
}

}  // namespace
}  // namespace coppice
