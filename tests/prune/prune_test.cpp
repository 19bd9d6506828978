#include <gtest/gtest.h>

#include <random>

#include "engine/prune/plan.hpp"
#include "kernels/criteria.hpp"
#include "tests/prune/harness.hpp"

namespace coppice::test {
namespace {

class Prune : public OpsTest {};

/// Odd sizes, names whose byte order is not their order here, gates, an empty tensor, one that takes no part.
std::vector<PrunableTensor> small_model(Input input, bool mixed, std::mt19937_64& random) {
  const DType second = mixed ? DType::f64 : DType::f32;
  std::vector<PrunableTensor> tensors;
  tensors.push_back(make_tensor("rnn.weight_hh_l0", {12, 7}, 4, DType::f32, input, random));
  tensors.push_back(make_tensor("decoder.weight", {31, 3}, 1, second, input, random));
  tensors.push_back(make_tensor("rnn.bias", {33}, 1, DType::f32, input, random));
  tensors.push_back(make_tensor("Zeta", {0, 5}, 1, DType::f32, input, random));
  tensors.push_back(make_tensor("rnn.weight_hh_l0_reverse", {8, 33}, 4, second, input, random));
  tensors.push_back(make_tensor("rnn.weight_ih_l0", {257}, 1, DType::f32, input, random));
  tensors.push_back(make_tensor("embedding", {1}, 1, DType::f32, input, random));
  tensors.push_back(make_tensor("frozen", {5, 13}, 1, DType::f32, input, random));
  tensors.back().prunable = false;
  return tensors;
}

/// What a mask made earlier leaves.
void cut_some(std::vector<PrunableTensor>& tensors, std::mt19937_64& random) {
  for (PrunableTensor& tensor : tensors) {
    tensor.kept.assign(tensor.size(), true);
    for (size_t i = 0; i < tensor.size(); ++i) tensor.kept[i] = i > tensor.size() / 4 && random() % 3 != 0;
  }
}

std::string describe(const PruneConfig& config, Input input, uint64_t seed) {
  return fmt::format(
      "criterion {} scope {} pattern {} reduce {} min_density {} sparsity {} percentile {} input {} seed {}",
      config.criterion, config.scope, config.pattern, config.reduce, config.min_density, config.sparsity,
      config.percentile, static_cast<int>(input), seed);
}

/// Every criterion × scope × pattern × reduction × minimum density, with inputs and targets in turn.
TEST_P(Prune, EveryOptionAgainstFullSort) {
  const double sparsities[] = {0.0, 0.35, 0.6, 0.85, 1.0};
  const uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  size_t turn = 0;
  for (Criterion criterion : kCriteria) {
    for (const char* scope : {"global", "tensor", "gate", "row"}) {
      for (const char* pattern : {"element", "row", "column"}) {
        if (std::string(scope) == "row" && std::string(pattern) != "element") continue;
        for (const char* reduce : {"sum", "mean", "max", "l2", "product"}) {
          if (std::string(pattern) == "element" && std::string(reduce) != "sum") continue;
          for (double min_density : {0.0, 0.15}) {
            for (bool percentile : {false, true}) {
              PruneConfig config;
              config.criterion = to_string(criterion);
              config.scope = scope;
              config.pattern = pattern;
              config.reduce = reduce;
              config.min_density = min_density;
              config.sparsity = sparsities[turn % 5];
              if (percentile) config.percentile = 100.0 * sparsities[(turn / 5) % 5];
              Input input = kInputs[turn % std::size(kInputs)];
              // A sum of infinities of both signs, or infinity times zero, is NaN; that has its own test.
              if (input == Input::infinite && std::string(pattern) != "element") input = Input::few_values;
              const std::vector<PrunableTensor> tensors = small_model(input, turn % 3 == 0, random);
              ++turn;
              SCOPED_TRACE(describe(config, input, seed));
              expect_pruned(backend(), tensors, config, 7 + turn, turn % 2 == 0 ? 0 : 64, turn % 4 < 2);
              if (::testing::Test::HasFailure()) return;
            }
          }
        }
      }
    }
  }
}

/// Blocks: every criterion, scope, reduction and kind of input in turn, sides that divide no shape, weights
/// that are cut already, in runs that end anywhere.
TEST_P(Prune, BlocksAgainstFullSort) {
  const double sparsities[] = {0.0, 0.35, 0.6, 0.85, 1.0};
  const uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  size_t turn = 0;
  for (const char* pattern :
       {"block:16x1", "block:4x4", "block:1x8", "block:5x3", "block:1x1", "block:300x300"}) {
    for (const char* scope : {"global", "tensor", "gate"}) {
      for (const char* reduce : {"sum", "mean", "max", "l2", "product"}) {
        for (double min_density : {0.0, 0.15}) {
          for (bool percentile : {false, true}) {
            PruneConfig config;
            config.criterion = to_string(kCriteria[turn % std::size(kCriteria)]);
            config.scope = scope;
            config.pattern = pattern;
            config.reduce = reduce;
            config.min_density = min_density;
            config.sparsity = sparsities[turn % 5];
            if (percentile) config.percentile = 100.0 * sparsities[(turn / 3) % 5];
            Input input = kInputs[(turn / 2) % std::size(kInputs)];
            if (input == Input::infinite) input = Input::few_values;
            std::vector<PrunableTensor> tensors = small_model(input, turn % 3 == 0, random);
            if (turn % 4 == 1) cut_some(tensors, random);
            ++turn;
            SCOPED_TRACE(describe(config, input, seed));
            expect_pruned(backend(), tensors, config, 7 + turn, turn % 2 == 0 ? 0 : 64, turn % 4 < 2);
            if (::testing::Test::HasFailure()) return;
          }
        }
      }
    }
  }
}

/// n of m: groups that rows cut short, and none that is whole.
TEST_P(Prune, NOfMAgainstFullSort) {
  const uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  size_t turn = 0;
  for (const char* pattern : {"2:4", "1:2", "4:8", "6:64", "1:3", "31:32", "1:300"}) {
    for (const char* scope : {"global", "tensor", "gate", "row"}) {
      for (Input input : kInputs) {
        PruneConfig config;
        config.criterion = to_string(kCriteria[turn % std::size(kCriteria)]);
        config.scope = scope;
        config.pattern = pattern;
        config.sparsity = parse_pattern(pattern).implied_sparsity();
        std::vector<PrunableTensor> tensors = small_model(input, turn % 3 == 0, random);
        if (turn % 4 == 1) cut_some(tensors, random);
        ++turn;
        SCOPED_TRACE(describe(config, input, seed));
        expect_pruned(backend(), tensors, config, 7 + turn, turn % 2 == 0 ? 0 : 64, turn % 4 < 2);
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

/// Large enough for a sample and its bracket, for several stretches, and for rows that are stretches of
/// their own; on one thread and on several.
TEST_P(Prune, LargePatternsAgainstFullSort) {
  std::mt19937_64 random(std::random_device{}());
  std::vector<PrunableTensor> tensors;
  tensors.push_back(make_tensor("b", {1031, 331}, 1, DType::f32, Input::normal, random));
  tensors.push_back(make_tensor("a", {3, (1 << 18) + 77}, 1, DType::f32, Input::few_values, random));
  tensors.push_back(make_tensor("c", {256, 129}, 4, DType::f64, Input::normal, random));
  for (const char* pattern : {"block:3x1", "block:1x4", "block:2x2", "2:4", "6:64"}) {
    PruneConfig config;
    config.criterion = "taylor";
    config.pattern = pattern;
    const PatternText parsed = parse_pattern(pattern);
    config.sparsity = parsed.kind == Pattern::n_of_m ? parsed.implied_sparsity() : 0.7;
    SCOPED_TRACE(pattern);
    for (int64_t run : {int64_t{0}, int64_t{64} * 1001}) {
      // Once is enough where the device is executed on the host.
      if (run == 0 && backend().device().type != Device::Type::cpu) continue;
      expect_pruned(backend(), tensors, config, 1, run);
    }
    if (::testing::Test::HasFailure()) return;
  }
}

/// A stream that starts over where it is read again: a compressed file is read forwards alone.
TEST_P(Prune, PatternsOfWhatCannotGoBack) {
  struct Forwards final : MemorySource {
    using MemorySource::MemorySource;
    int64_t at = 0, turns = 0;
    bool random_access() const override { return false; }
    void read(size_t tensor, int64_t begin, int64_t count, Statistic statistic, bool writing,
              const std::function<void(const Run&)>& visit) override {
      turns += begin < at ? 1 : 0;
      MemorySource::read(tensor, begin, count, statistic, writing, visit);
      at = begin + count;
    }
  };
  std::mt19937_64 random(std::random_device{}());
  const std::vector<PrunableTensor> tensors = {
      make_tensor("w", {9001, 67}, 1, DType::f32, Input::normal, random)};
  for (const char* pattern : {"block:4x4", "2:4"}) {
    PruneConfig config;
    config.pattern = pattern;
    config.sparsity = 0.5;
    const Expected expected = expected_masks(tensors, config, 1);
    Arrays arrays(backend(), tensors, false);
    Forwards source(backend(), arrays.memory(), 64 * 100);
    prune(source, config, 1);
    arrays.expect(expected);
    EXPECT_LT(source.turns, 16) << pattern;
  }
}

/// The article's shape: the product of fifty |g| near 1e-3 is zero in float32, and so would be the
/// percentile; in our arithmetic nine of ten go, whether the products run along rows or columns.
TEST_P(Prune, UnderflowingProductsAreOrdered) {
  std::mt19937_64 random(std::random_device{}());
  for (const char* pattern : {"row", "column"}) {
    for (double scale : {1e-3, 1e-9, 1e9, 1e-30}) {
      PrunableTensor tensor;
      tensor.name = "rnn.weight_ih_l0";
      tensor.shape =
          std::string(pattern) == "row" ? std::vector<int64_t>{10, 50} : std::vector<int64_t>{50, 10};
      std::normal_distribution<double> normal;
      for (int i = 0; i < 500; ++i) {
        tensor.weights.push_back(static_cast<float>(normal(random)));
        tensor.sum.push_back(static_cast<float>(scale * normal(random)));
      }
      PruneConfig config;
      config.criterion = "gradient";
      config.pattern = pattern;
      config.reduce = "product";
      config.percentile = 95.0;
      SCOPED_TRACE(fmt::format("{} scale {}", pattern, scale));
      expect_pruned(backend(), {tensor}, config, 1);

      Arrays arrays(backend(), {tensor}, true);
      MemorySource source(backend(), arrays.memory());
      const PruneOutcome outcome = prune(source, config, 1);
      EXPECT_EQ(outcome.groups.front().units, 10u);
      EXPECT_EQ(outcome.groups.front().cut, 9u);
      EXPECT_EQ(outcome.kept, 50u);
      if (scale == 1e-9 || scale == 1e-30) {
        // Beyond what a double holds, the threshold is still told.
        EXPECT_NE(outcome.groups.front().threshold_text.find("·2^-"), std::string::npos)
            << outcome.groups.front().threshold_text;
      }
    }
  }
}

TEST_P(Prune, TiesGoByNameThenIndex) {
  std::vector<PrunableTensor> tensors;
  for (const char* name : {"b", "a.1", "a", "B", "a.10"}) {
    PrunableTensor tensor;
    tensor.name = name;
    tensor.shape = {4};
    tensor.weights = {1.0, -1.0, 1.0, 1.0};
    tensors.push_back(tensor);
  }
  Arrays arrays(backend(), tensors, true);
  MemorySource source(backend(), arrays.memory());
  PruneConfig config;
  config.sparsity = 0.5;  // 10 of 20: B, a, and half of a.1
  prune(source, config, 1);
  const std::vector<std::vector<bool>> kept = {{true, true, true, true},
                                               {false, false, true, true},
                                               {false, false, false, false},
                                               {false, false, false, false},
                                               {true, true, true, true}};
  for (size_t t = 0; t < tensors.size(); ++t) {
    for (size_t i = 0; i < 4; ++i)
      EXPECT_EQ(arrays.kept(t, i), kept[t][i]) << tensors[t].name << "[" << i << "]";
  }
}

TEST(UnitsToCut, RoundHalfToEven) {
  EXPECT_EQ(units_to_cut(0.5, 5), 2u);
  EXPECT_EQ(units_to_cut(0.5, 7), 4u);
  EXPECT_EQ(units_to_cut(0.9, 10), 9u);
  EXPECT_EQ(units_to_cut(0.25, 2), 0u);
  EXPECT_EQ(units_to_cut(0.75, 2), 2u);
  EXPECT_EQ(units_to_cut(1.0, (uint64_t{1} << 40) + 1), (uint64_t{1} << 40) + 1);
}

/// Protecting gates (and not only tensors) keeps some of every gate, also when all compete for one threshold.
TEST_P(Prune, MinimumDensityOfGates) {
  PrunableTensor tensor;
  tensor.name = "rnn.weight_hh_l0";
  tensor.shape = {8, 10};
  tensor.gates = 4;
  for (int i = 0; i < 80; ++i) tensor.weights.push_back(1.0 + i);  // gate 0 has the lowest
  PruneConfig config;
  config.sparsity = 0.5;
  config.min_density = 0.15;
  config.min_density_scope = "gate";
  Arrays arrays(backend(), {tensor}, true);
  MemorySource source(backend(), arrays.memory());
  const PruneOutcome outcome = prune(source, config, 1);
  EXPECT_EQ(outcome.tensors.front().gate_kept, (std::vector<uint64_t>{3, 3, 14, 20}));
  EXPECT_EQ(outcome.kept, 40u);
  config.pattern = "column";
  EXPECT_THROW(prune(source, config, 1), Error);
}

TEST_P(Prune, IncludeAndExcludeMatchWholeNames) {
  std::mt19937_64 random(1);
  std::vector<PrunableTensor> tensors = small_model(Input::normal, false, random);
  Arrays arrays(backend(), tensors, true);
  MemorySource source(backend(), arrays.memory());
  const auto pruned = [&](std::vector<std::string> include, std::vector<std::string> exclude) {
    PruneConfig config;
    config.include = std::move(include);
    config.exclude = std::move(exclude);
    std::string names;
    const Plan plan = make_plan(source.tensors(), config, 1);
    for (size_t t = 0; t < tensors.size(); ++t) {
      if (plan.selected[t]) names += tensors[t].name + " ";
    }
    return names;
  };
  EXPECT_EQ(pruned({"rnn\\.weight_.h_l0"}, {}), "rnn.weight_hh_l0 rnn.weight_ih_l0 ");
  EXPECT_EQ(pruned({"rnn.*", "frozen"}, {".*reverse", "rnn.bias"}),
            "rnn.weight_hh_l0 rnn.weight_ih_l0 frozen ");
  EXPECT_EQ(pruned({}, {"rnn.*"}), "decoder.weight Zeta embedding ");
}

std::string error_of(ParameterSource& source, const PruneConfig& config,
                     ErrorKind kind = ErrorKind::bad_input, double sparsity = -1.0) {
  try {
    prune(source, config, 1, sparsity);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "no error";
}

#define EXPECT_SAYS(message, ...)                                                      \
  do {                                                                                 \
    const std::string said = message;                                                  \
    for (const char* part : {__VA_ARGS__}) {                                           \
      EXPECT_NE(said.find(part), std::string::npos) << part << " is not in: " << said; \
    }                                                                                  \
  } while (false)

TEST_P(Prune, ErrorsNameWhatIsWrong) {
  std::mt19937_64 random(1);
  const std::vector<PrunableTensor> tensors = small_model(Input::normal, false, random);
  Arrays arrays(backend(), tensors, true);
  MemorySource source(backend(), arrays.memory());
  const auto with = [&](auto change) {
    PruneConfig config;
    config.criterion = "taylor";
    change(config);
    return error_of(source, config);
  };
  EXPECT_SAYS(with([](PruneConfig& c) { c.criterion = "snip"; }), "prune.criterion", "taylor", "'snip'");
  EXPECT_SAYS(with([](PruneConfig& c) { c.pattern = "block"; }), "prune.pattern", "element, row, column",
              "'block'");
  for (const char* wrong : {"block:", "block:0x4", "block:4x", "block:4x4x4", "block:-1x2", "4:2", "0:4",
                            "2:2", "2:99999", "2:4:8", ":4", "2:", "block:99999x1", "2.5:4"}) {
    EXPECT_SAYS(with([wrong](PruneConfig& c) { c.pattern = wrong; }), "prune.pattern", wrong);
  }
  const auto with_n_of_m = [&](auto change) {
    return with([&](PruneConfig& c) {
      c.pattern = "2:4";
      c.sparsity = 0.5;
      change(c);
    });
  };
  EXPECT_SAYS(with_n_of_m([](PruneConfig& c) { c.sparsity = 0.6; }), "'2:4'", "0.5", "prune.sparsity", "0.6");
  EXPECT_SAYS(with_n_of_m([](PruneConfig& c) { c.percentile = 50; }), "prune.percentile", "'2:4'");
  EXPECT_SAYS(with_n_of_m([](PruneConfig& c) { c.min_density = 0.1; }), "prune.min_density", "'2:4'");
  EXPECT_SAYS(with([](PruneConfig& c) { c.pattern = "block:4x4", c.scope = "row"; }), "prune.scope",
              "'block:4x4'");
  EXPECT_SAYS(with([](PruneConfig& c) { c.reduce = "median"; }), "prune.reduce", "'median'");
  EXPECT_SAYS(with([](PruneConfig& c) { c.scope = "layer"; }), "prune.scope", "'layer'");
  EXPECT_SAYS(with([](PruneConfig& c) { c.sparsity = 1.5; }), "prune.sparsity", "1.5");
  EXPECT_SAYS(with([](PruneConfig& c) { c.sparsity = NAN; }), "prune.sparsity", "nan");
  EXPECT_SAYS(with([](PruneConfig& c) { c.percentile = 101; }), "prune.percentile", "101");
  EXPECT_SAYS(with([](PruneConfig& c) { c.min_density = -1; }), "prune.min_density", "-1");
  EXPECT_SAYS(with([](PruneConfig& c) { c.include = {"lstm.*"}; }), "prune.include", "'lstm.*'", "no tensor");
  EXPECT_SAYS(with([](PruneConfig& c) { c.exclude = {"weight"}; }), "prune.exclude", "'weight'", "no tensor");
  EXPECT_SAYS(with([](PruneConfig& c) { c.include = {"(rnn"}; }), "prune.include", "'(rnn'", "missing )");
  EXPECT_SAYS(with([](PruneConfig& c) { c.exclude = {".*"}; }), "nothing to prune");
  EXPECT_SAYS(with([](PruneConfig& c) { c.min_density = 0.5; }), "prune.min_density", "'all'", "feasible");
  PruneConfig nan_sparsity;
  EXPECT_SAYS(error_of(source, nan_sparsity, ErrorKind::bad_input, NAN), "prune.sparsity");

  const auto broken = [&](auto change) {
    std::vector<MemoryTensor> memory = arrays.memory();
    change(memory);
    MemorySource bad(backend(), memory);
    PruneConfig config;
    config.criterion = "taylor";
    return error_of(bad, config);
  };
  EXPECT_SAYS(broken([](auto& m) { m[0].info.name = m[1].info.name; }), "two tensors", "'decoder.weight'");
  EXPECT_SAYS(broken([](auto& m) { m[0].info.gates = 5; }), "'rnn.weight_hh_l0'", "12 rows", "5 gates");
  EXPECT_SAYS(broken([](auto& m) { m[2].info.dtype = DType::i16; }), "'rnn.bias'", "i16");
  EXPECT_SAYS(broken([](auto& m) { m[2].sum = nullptr; }), "'rnn.bias'", "sum of the gradients");
}

/// A NaN score is an error that names its tensor and index, and nothing is written, whatever the sparsity.
TEST_P(Prune, NanScoresAreRefused) {
  for (const char* pattern : {"element", "row", "column", "block:4x4", "2:4"}) {
    for (double sparsity : {0.0, 0.5, 1.0}) {
      if (std::string(pattern) == "2:4" && sparsity != 0.5) continue;
      std::mt19937_64 random(1);
      std::vector<PrunableTensor> tensors = small_model(Input::normal, false, random);
      tensors[0].sum[3 * 7 + 2] = NAN;
      PruneConfig config;
      config.criterion = "taylor";
      config.pattern = pattern;
      config.sparsity = sparsity;
      Arrays arrays(backend(), tensors, true);
      MemorySource source(backend(), arrays.memory());
      EXPECT_SAYS(error_of(source, config, ErrorKind::bad_input), "'rnn.weight_hh_l0'",
                  "index 23 (row 3, column 2)", "NaN");
      for (size_t t = 0; t < tensors.size(); ++t) {
        if (tensors[t].size() == 0) continue;
        EXPECT_EQ(arrays.weight(t, 0), static_cast<float>(tensors[t].weights[0])) << tensors[t].name;
      }
      // Once it is cut, it may be anything.
      tensors[0].kept.assign(tensors[0].size(), true);
      tensors[0].kept[23] = false;
      if (sparsity > 0.0) expect_pruned(backend(), tensors, config, 1);
    }
  }
  // Infinities of both signs that cancel in a row.
  PrunableTensor tensor;
  tensor.name = "w";
  tensor.shape = {2, 2};
  tensor.weights = {1, 1, 1, 1};
  tensor.squared = {1, 1, INFINITY, -INFINITY};
  PruneConfig config;
  config.criterion = "fisher";
  config.pattern = "row";
  Arrays arrays(backend(), {tensor}, true);
  MemorySource source(backend(), arrays.memory());
  EXPECT_SAYS(error_of(source, config, ErrorKind::bad_input), "row 1 of 'w'", "NaN");
  config.pattern = "block:1x2";
  EXPECT_SAYS(error_of(source, config, ErrorKind::bad_input), "row 1, column 0 of 'w'", "NaN");
}

COPPICE_FOR_ALL_DEVICES(Prune);

}  // namespace
}  // namespace coppice::test
