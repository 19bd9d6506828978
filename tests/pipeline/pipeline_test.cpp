#include "engine/pipeline.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/error.hpp"
#include "tests/pipeline/tiny.hpp"

namespace coppice {
namespace {

using test::Scratch;
namespace fs = std::filesystem;

void expect_complete_folder(const fs::path& run, const RunReport& report) {
  for (const char* file :
       {"recipe.toml", "dense/model.json", "dense/weights.safetensors", "retrained/weights.safetensors",
        "sparse/weights.safetensors", "masks.safetensors", "metrics.jsonl", "report.json", "report.html"}) {
    EXPECT_TRUE(fs::exists(run / file)) << file;
  }
  for (const auto& entry : fs::recursive_directory_iterator(run)) {
    EXPECT_EQ(entry.path().string().find(".partial"), std::string::npos) << entry.path();
  }
  EXPECT_EQ(report.bytes.dense, fs::file_size(run / "dense/weights.safetensors"));
  EXPECT_EQ(report.bytes.pruned, fs::file_size(run / "retrained/weights.safetensors"));
  EXPECT_EQ(report.bytes.sparse, fs::file_size(run / "sparse/weights.safetensors"));
  const auto json = nlohmann::json::parse(test::bytes_of(run / "report.json"));
  EXPECT_EQ(json.at("metrics").at("sparse").at("loss").get<double>(), report.sparse->loss);
  std::istringstream lines(test::bytes_of(run / "metrics.jsonl"));
  size_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    EXPECT_EQ(nlohmann::json::parse(line).at("stage").get<std::string>(), report.epochs.at(count).stage);
  }
  EXPECT_EQ(count, report.epochs.size());
}

/// Zeros of the retrained model are those of the masks, and the sparse one holds the same bits.
void expect_masks_held(const fs::path& run, const RunReport& report) {
  const auto masks = open_weights((run / "masks.safetensors").string());
  uint64_t cut = 0;
  for (const TensorOutcome& tensor : report.tensors) {
    const std::vector<float> values = test::tensor_of(run / "retrained", tensor.name);
    const std::vector<float> sparse = test::tensor_of(run / "sparse", tensor.name);
    ASSERT_EQ(values.size(), sparse.size());
    EXPECT_EQ(std::memcmp(values.data(), sparse.data(), values.size() * sizeof(float)), 0) << tensor.name;
    if (!tensor.pruned) continue;
    std::vector<uint8_t> bits(static_cast<size_t>((tensor.size + 7) / 8), 0xff);
    if (masks->contains(tensor.name))
      masks->read(masks->index(tensor.name), 0, static_cast<int64_t>(bits.size()), bits.data());
    uint64_t kept = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const bool keep = bits[i / 8] >> (i % 8) & 1;
      kept += keep;
      if (!keep) {
        ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), 0u) << tensor.name << ' ' << i;
      }
    }
    EXPECT_EQ(kept, tensor.kept) << tensor.name;
    cut += tensor.size - kept;
  }
  EXPECT_EQ(cut, report.parameters.prunable - report.parameters.kept);
}

TEST(Pipeline, TextFromTheFirstWordToTheSparseModel) {
  const Scratch scratch("text");
  test::write_text(scratch / "text.txt");
  Recipe recipe = test::text_recipe(scratch / "text.txt");
  recipe.dense_continued = true;
  const RunReport report = run_recipe(recipe, scratch / "run");
  ASSERT_TRUE(report.dense && report.pruned && report.retrained && report.sparse && report.dense_continued);
  EXPECT_EQ(report.metric, "perplexity");
  EXPECT_EQ(report.dense->split, "test");
  EXPECT_LT(report.dense->perplexity, 8.0);
  EXPECT_GT(report.pruned->loss, report.dense->loss);
  EXPECT_LT(report.retrained->loss, report.pruned->loss);
  EXPECT_NEAR(report.sparse->loss, report.retrained->loss, 1e-5);
  EXPECT_NEAR(report.dense->perplexity, std::exp(report.dense->loss), 1e-12);
  EXPECT_EQ(report.dense_continued->optimizer_steps, report.retrained->optimizer_steps);
  EXPECT_GT(report.retrained->optimizer_steps, report.dense->optimizer_steps);
  const double cut = static_cast<double>(report.parameters.prunable - report.parameters.kept);
  EXPECT_EQ(cut, std::nearbyint(0.8 * static_cast<double>(report.parameters.prunable)));
  EXPECT_LT(report.bytes.sparse, report.bytes.dense);
  EXPECT_EQ(report.epochs.size(), 3u + 2u + 2u);
  ASSERT_EQ(report.cuts.size(), 1u);
  EXPECT_EQ(report.cuts[0].statistics, 20u);
  expect_complete_folder(scratch / "run", report);
  expect_masks_held(scratch / "run", report);

  // A complete run gives its report again, and isn't overwritten unasked.
  test::expect_same_numbers(resume_run(scratch / "run"), report);
  EXPECT_THROW(run_recipe(recipe, scratch / "run"), Error);
  recipe.dense_continued = false;
  const RunReport again = run_recipe(recipe, scratch / "run", {.force = true});
  EXPECT_EQ(again.sparse->loss, report.sparse->loss);
  EXPECT_FALSE(again.dense_continued);
}

TEST(Pipeline, GeneratedSequencesLoseTheInputsThatSayNothing) {
  const Scratch scratch("generated");
  const RunReport report = run_recipe(test::generated_recipe(), scratch / "run");
  EXPECT_EQ(report.metric, "accuracy");
  EXPECT_GT(report.dense->accuracy, 0.8);
  EXPECT_GE(report.retrained->accuracy, report.dense->accuracy - 0.05);
  EXPECT_EQ(report.parameters.prunable, 120u);
  EXPECT_EQ(report.parameters.kept, 12u);  // one input of ten
  const std::vector<float> input = test::tensor_of(scratch / "run/retrained", "rnn.weight_ih_l0");
  for (size_t unit = 0; unit < 12; ++unit) {
    EXPECT_NE(input[unit * 10], 0.0f);
    for (size_t i = 1; i < 10; ++i) EXPECT_EQ(input[unit * 10 + i], 0.0f);
  }
  expect_complete_folder(scratch / "run", report);
  expect_masks_held(scratch / "run", report);
}

TEST(Pipeline, IterativeCutsInRounds) {
  const Scratch scratch("iterative");
  test::write_text(scratch / "text.txt");
  Recipe recipe = test::text_recipe(scratch / "text.txt");
  recipe.prune.schedule = "iterative";
  recipe.prune.rounds = 3;
  recipe.prune.criterion = "fisher";
  recipe.dense_continued = true;
  const RunReport report = run_recipe(recipe, scratch / "run");
  ASSERT_EQ(report.cuts.size(), 3u);
  for (size_t round = 0; round < 3; ++round) {
    const double asked = 1.0 - std::pow(0.2, static_cast<double>(round + 1) / 3.0);
    const auto n = static_cast<double>(report.parameters.prunable);
    EXPECT_EQ(n - static_cast<double>(report.cuts[round].kept), std::nearbyint(asked * n)) << round;
  }
  EXPECT_EQ(report.epochs.size(), 3u + 3 * 2u + 3 * 2u);
  EXPECT_EQ(report.dense_continued->optimizer_steps, report.retrained->optimizer_steps);
  EXPECT_GT(report.pruned->optimizer_steps,
            report.dense->optimizer_steps);  // cut for the last time after two rounds
  expect_masks_held(scratch / "run", report);
}

TEST(Pipeline, GradualCutsWhileItRetrains) {
  const Scratch scratch("gradual");
  test::write_text(scratch / "text.txt");
  Recipe recipe = test::text_recipe(scratch / "text.txt");
  recipe.prune.schedule = "gradual";
  recipe.prune.frequency = 7;
  const RunReport report = run_recipe(recipe, scratch / "run");
  ASSERT_TRUE(report.pruned);
  EXPECT_GT(report.cuts.size(), 3u);
  for (size_t i = 1; i < report.cuts.size(); ++i) EXPECT_LE(report.cuts[i].kept, report.cuts[i - 1].kept);
  EXPECT_EQ(report.cuts.back().sparsity, 0.8);
  EXPECT_EQ(report.pruned->optimizer_steps, report.dense->optimizer_steps + report.cuts.back().step);
  expect_complete_folder(scratch / "run", report);
  expect_masks_held(scratch / "run", report);
}

TEST(Pipeline, StartsFromWeights) {
  const Scratch scratch("weights");
  test::write_text(scratch / "text.txt");
  const Recipe recipe = test::text_recipe(scratch / "text.txt");
  const RunReport whole = run_recipe(recipe, scratch / "whole");
  Recipe from_weights = recipe;
  from_weights.model.weights = (scratch / "whole/dense").string();
  from_weights.model.hidden = 999;  // the folder knows better
  const RunReport report = run_recipe(from_weights, scratch / "run");
  EXPECT_EQ(report.dense->loss, whole.dense->loss);
  EXPECT_EQ(report.pruned->loss, whole.pruned->loss);
  EXPECT_EQ(report.retrained->loss, whole.retrained->loss);
  EXPECT_TRUE(test::bytes_of(scratch / "run/masks.safetensors") ==
              test::bytes_of(scratch / "whole/masks.safetensors"));
}

TEST(Pipeline, VerbByVerbIsTheRun) {
  const Scratch scratch("verbs");
  test::write_text(scratch / "text.txt");
  const Recipe recipe = test::text_recipe(scratch / "text.txt");
  const RunReport whole = run_recipe(recipe, scratch / "whole");
  const RunReport trained = train_model(recipe, scratch / "dense");
  EXPECT_EQ(trained.dense->loss, whole.dense->loss);
  EXPECT_FALSE(fs::exists(scratch / "dense.run"));
  EXPECT_EQ(gradients_of(scratch / "dense", recipe, scratch / "g.safetensors"), 20);
  PruneFiles files;
  files.gradients = {scratch / "g.safetensors"};
  const PruneReport pruned = prune_model(scratch / "dense", files, recipe.prune, recipe.seed,
                                         scratch / "pruned", test::test_device(), 1);
  EXPECT_EQ(pruned.outcome.kept, whole.parameters.kept);
  const EvaluateReport cut = evaluate_model(
      scratch / "pruned", {.data = scratch / "text.txt", .device = test::test_device(), .threads = 1});
  EXPECT_EQ(cut.metric, "perplexity");
  const RunReport retrained = retrain_model(scratch / "pruned", recipe, scratch / "retrained");
  EXPECT_EQ(retrained.retrained->loss, whole.retrained->loss);
  EXPECT_TRUE(test::bytes_of(scratch / "retrained/weights.safetensors") ==
              test::bytes_of(scratch / "whole/retrained/weights.safetensors"));
  const EvaluateOptions sparse{
      .data = scratch / "text.txt", .sparse = true, .device = test::test_device(), .threads = 1};
  EvaluateOptions dense = sparse;
  dense.sparse = false;
  EXPECT_NEAR(evaluate_model(scratch / "retrained", sparse).metrics.loss,
              evaluate_model(scratch / "retrained", dense).metrics.loss, 1e-5);
}

TEST(Pipeline, BadInputLeavesNothingBehind) {
  const Scratch scratch("bad");
  test::write_text(scratch / "text.txt");
  const auto refuses = [&](auto change) {
    Recipe recipe = test::text_recipe(scratch / "text.txt");
    change(recipe);
    try {
      run_recipe(recipe, scratch / "run");
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input) << error.what();
    }
    EXPECT_FALSE(fs::exists(scratch / "run"));
  };
  refuses([](Recipe& r) { r.data.train += ".absent"; });
  refuses([](Recipe& r) { r.model.cell = "lstn"; });
  refuses([](Recipe& r) { r.model.weights = "absent"; });
  refuses([](Recipe& r) { r.prune.criterion = "magic"; });
  refuses([](Recipe& r) { r.prune.include = {"nothing"}; });
  refuses([](Recipe& r) { r.train.rate_schedule = "sometimes"; });
  refuses([](Recipe& r) { r.prune.schedule = "gradual", r.prune.end_step = 1'000'000; });
}

}  // namespace
}  // namespace coppice
