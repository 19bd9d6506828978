// Arrays of a caller's: scores, masks and cuts against the oracle, in every type and layout.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <coppice/coppice.hpp>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/c_api/strided.hpp"
#include "tests/prune/harness.hpp"
#include "tests/prune/oracle.hpp"

namespace coppice::test {
namespace {

using ::testing::HasSubstr;

coppice_status prune(const std::vector<coppice_tensor>& tensors, const std::vector<const char*>& options,
                     uint64_t* kept = nullptr, char** report = nullptr) {
  return coppice_prune_tensors(tensors.data(), tensors.size(), options.data(), options.size(), nullptr, kept,
                               report);
}

struct Case {
  PrunableTensor values;  // as the types hold them
  StridedArray weights, sum, absolute, squared, output;
  std::vector<uint8_t> mask, kept;
  std::vector<std::vector<uint8_t>> before;

  Case(std::string name, std::vector<int64_t> shape, coppice_dtype dtype, Layout layout, Input input,
       std::mt19937_64& random) {
    values =
        make_tensor(std::move(name), shape, 1, dtype == COPPICE_F64 ? DType::f64 : DType::f32, input, random);
    const auto lay = [&](std::vector<double>& numbers, coppice_dtype type) {
      StridedArray array(type, shape, numbers, layout);
      for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = array.value(i);
      return array;
    };
    weights = lay(values.weights, dtype);
    // Gradients may be of another type and lie in another way.
    const coppice_dtype type = dtype == COPPICE_F64 ? COPPICE_F64 : COPPICE_F32;
    sum = lay(values.sum, type);
    absolute = lay(values.absolute, type);
    squared = lay(values.squared, type);
    mask.assign(values.size() + 1, 9);
    for (size_t i = 0; i < values.size(); ++i) before.push_back(weights.element(i));
  }

  coppice_tensor c() {
    coppice_tensor tensor = coppice_tensor_of(values.name.c_str(), weights.data(), weights.c().dtype,
                                              values.shape.size(), values.shape.data());
    tensor.weights = weights.c();
    tensor.gradients = sum.c();
    tensor.absolute = absolute.c();
    tensor.squared = squared.c();
    tensor.mask = mask.data();
    if (!kept.empty()) tensor.kept = kept.data();
    return tensor;
  }

  void expect(const std::vector<bool>& wanted, StridedArray& where) {
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(mask[i], wanted[i] ? 1 : 0) << values.name << " " << i;
      const std::vector<uint8_t> zero(before[i].size(), 0);
      ASSERT_EQ(where.element(i), wanted[i] ? before[i] : zero) << values.name << " " << i;
    }
    EXPECT_EQ(mask.back(), 9);
    where.expect_poison();
  }
};

std::vector<PrunableTensor> values_of(const std::vector<Case>& cases) {
  std::vector<PrunableTensor> values;
  for (const Case& c : cases) values.push_back(c.values);
  return values;
}

class Tensors : public testing::Test {
 protected:
  Random seed_;
  std::mt19937_64 random_{seed_.seed()};
  testing::ScopedTrace trace_{__FILE__, __LINE__, "COPPICE_TEST_SEED=" + std::to_string(seed_.seed())};
};

TEST_F(Tensors, EveryTypeAndLayoutIsCutAsTheOracleSays) {
  for (const coppice_dtype dtype : {COPPICE_F32, COPPICE_F64, COPPICE_F16, COPPICE_BF16}) {
    for (const Layout layout : kLayouts) {
      for (const Input input : {Input::normal, Input::mass_ties, Input::signed_zeros, Input::few_values}) {
        for (const char* criterion : {"magnitude", "taylor", "taylor-absolute", "fisher"}) {
          SCOPED_TRACE(testing::Message() << "dtype " << dtype << ", layout " << static_cast<int>(layout)
                                          << ", input " << static_cast<int>(input) << ", " << criterion);
          std::vector<Case> cases;
          cases.emplace_back("b", std::vector<int64_t>{7, 31}, dtype, layout, input, random_);
          cases.emplace_back("a", std::vector<int64_t>{3, 5, 11}, dtype, layout, input, random_);
          cases.emplace_back("c", std::vector<int64_t>{33}, dtype, layout, input, random_);
          cases.emplace_back("d", std::vector<int64_t>{}, dtype, layout, input, random_);
          cases.emplace_back("e", std::vector<int64_t>{0, 4}, dtype, layout, input, random_);
          PruneConfig config;
          config.criterion = criterion;
          config.sparsity = 0.7;
          const Expected expected = expected_masks(values_of(cases), config, 1);
          // In place, elsewhere, and masks alone.
          for (int way = 0; way < 3; ++way) {
            std::vector<Case> copies = cases;
            std::vector<coppice_tensor> tensors;
            for (Case& c : copies) {
              tensors.push_back(c.c());
              c.output = c.weights.blank();
              if (way == 1) tensors.back().output = c.output.data();
              if (way == 2) tensors.back().output = nullptr;
            }
            uint64_t kept = 0;
            const std::string option = std::string("criterion=") + criterion;
            ASSERT_EQ(prune(tensors, {option.c_str(), "sparsity=0.7"}, &kept), COPPICE_OK)
                << coppice_last_error();
            uint64_t wanted = 0;
            for (size_t t = 0; t < copies.size(); ++t) {
              const std::vector<bool>& mask = expected.kept[t];
              wanted += static_cast<uint64_t>(std::count(mask.begin(), mask.end(), true));
              if (way == 0) {
                ASSERT_NO_FATAL_FAILURE(copies[t].expect(mask, copies[t].weights));
              }
              if (way == 1) {
                ASSERT_NO_FATAL_FAILURE(copies[t].expect(mask, copies[t].output));
              }
              if (way != 0) {
                EXPECT_EQ(copies[t].weights.bytes(), cases[t].weights.bytes());
              }
              if (way == 2) {
                EXPECT_EQ(copies[t].output.bytes(), cases[t].weights.blank().bytes());
              }
              for (size_t i = 0; i < mask.size(); ++i) ASSERT_EQ(copies[t].mask[i] != 0, mask[i]);
              EXPECT_EQ(copies[t].sum.bytes(), cases[t].sum.bytes());
            }
            EXPECT_EQ(kept, wanted);
          }
        }
      }
    }
  }
}

TEST_F(Tensors, OddSizesAndScopes) {
  for (const int64_t size : {0, 1, 31, 33, 257, 70001}) {
    for (const char* scope : {"global", "tensor", "gate", "row"}) {
      SCOPED_TRACE(testing::Message() << size << " " << scope);
      std::vector<Case> cases;
      cases.emplace_back("x", std::vector<int64_t>{size}, COPPICE_F32, Layout::plain, Input::mass_ties,
                         random_);
      cases.emplace_back("y", std::vector<int64_t>{4, 31}, COPPICE_BF16, Layout::transposed, Input::normal,
                         random_);
      cases[1].values.gates = 4;
      PruneConfig config;
      config.scope = scope;
      config.sparsity = 0.5;
      std::vector<coppice_tensor> tensors = {cases[0].c(), cases[1].c()};
      tensors[1].gates = 4;
      tensors[1].gate_names = "ifgo";
      const std::string option = std::string("scope=") + scope;
      char* report = nullptr;
      ASSERT_EQ(prune(tensors, {option.c_str(), "sparsity=0.5"}, nullptr, &report), COPPICE_OK)
          << coppice_last_error();
      const auto json = nlohmann::json::parse(report);
      coppice_free_text(report);
      if (std::string(scope) == "gate") {
        EXPECT_EQ(json.at("groups")[1].at("name"), "y:i");
      }
      if (std::string(scope) == "row") continue;  // the oracle's rows are tests/prune's business
      const Expected expected = expected_masks(values_of(cases), config, 1);
      for (size_t t = 0; t < 2; ++t) cases[t].expect(expected.kept[t], cases[t].weights);
    }
  }
}

TEST_F(Tensors, WhatWasCutEarlierStaysCutAndCounts) {
  std::vector<Case> cases;
  cases.emplace_back("w", std::vector<int64_t>{9, 29}, COPPICE_F16, Layout::sliced, Input::normal, random_);
  for (size_t i = 0; i < cases[0].values.size(); ++i) {
    cases[0].kept.push_back(random_() % 3 == 0 ? 0 : 7);
    cases[0].values.kept.push_back(cases[0].kept.back() != 0);
  }
  PruneConfig config;
  config.sparsity = 0.5;
  const Expected expected = expected_masks(values_of(cases), config, 1);
  ASSERT_EQ(prune({cases[0].c()}, {"sparsity=0.5"}), COPPICE_OK) << coppice_last_error();
  cases[0].expect(expected.kept[0], cases[0].weights);
}

TEST_F(Tensors, OneGradientCountsAsABatch) {
  const std::vector<float> weights = {1.0f, 2.0f, 3.0f, 4.0f};
  const std::vector<float> gradients = {-4.0f, 3.0f, -0.5f, 0.1f};
  for (const char* criterion :
       {"gradient", "gradient-absolute", "gradient-squared", "taylor", "taylor-absolute", "fisher"}) {
    std::vector<float> cut = weights;
    coppice_api::Tensor tensor{"w", {4}, cut.data()};
    tensor.gradients = gradients.data();
    tensor.output = cut.data();
    const coppice_api::Pruned pruned =
        coppice_api::prune_tensors({tensor}, {std::string("criterion=") + criterion, "sparsity=0.5"});
    EXPECT_EQ(pruned.kept, 2u);
    EXPECT_EQ(cut, (std::vector<float>{1, 2, 0, 0})) << criterion;
  }
}

TEST_F(Tensors, WandaWeighsByTheNormsOfInputs) {
  std::vector<float> weights = {1, -2, 3, 4, 1, 1};
  const std::vector<double> norms = {10, 1, 0.5};
  coppice_api::Tensor tensor{"w", {2, 3}, weights.data()};
  tensor.activations = norms.data();
  tensor.output = weights.data();
  coppice_api::prune_tensors({tensor}, {"criterion=wanda", "sparsity=0.34"});
  EXPECT_EQ(weights, (std::vector<float>{1, -2, 0, 4, 1, 0}));  // within each row
  EXPECT_THROW(coppice_api::prune_tensors({{"w", {2, 3}, weights.data()}}, {"criterion=wanda"}),
               coppice_api::Error);
}

TEST_F(Tensors, ExcludedTensorsAreCarriedOver) {
  std::vector<float> a = {1, 2, 3, 4}, b = {5, 6}, out(2, 9);
  std::vector<uint8_t> mask(2, 9);
  coppice_api::Tensor first{"a", {4}, a.data()}, second{"b", {2}, b.data()};
  first.output = a.data();
  second.output = out.data();
  second.mask = mask.data();
  coppice_api::prune_tensors({first, second}, {"sparsity=0.5", "exclude=b"});
  EXPECT_EQ(a, (std::vector<float>{0, 0, 3, 4}));
  EXPECT_EQ(out, b);
  EXPECT_EQ(mask, (std::vector<uint8_t>{1, 1}));
}

TEST_F(Tensors, PlansSayWhatWouldBeCut) {
  const std::vector<float> a(10, 1.0f), b(6, 1.0f);
  const std::vector<coppice_api::Tensor> tensors = {{"a", {2, 5}, a.data()}, {"b", {6}, b.data()}};
  const auto plan = nlohmann::json::parse(coppice_api::plan_tensors(tensors, {"sparsity=0.25"}));
  EXPECT_EQ(plan.at("formula"), "|w|");
  EXPECT_EQ(plan.at("groups")[0].at("units"), 16);
  EXPECT_EQ(plan.at("groups")[0].at("cut"), 4);
  EXPECT_EQ(plan.at("groups")[0].at("tensors"), (std::vector<std::string>{"a", "b"}));
  const auto rows =
      nlohmann::json::parse(coppice_api::plan_tensors(tensors, {"percentile=10", "scope=tensor"}));
  EXPECT_EQ(rows.at("groups").size(), 2u);
  EXPECT_TRUE(rows.at("groups")[0].at("cut").is_null());
}

TEST_F(Tensors, ScoresAreThoseBySelectionsRule) {
  for (const Layout layout : kLayouts) {
    Case single("w", {5, 31}, COPPICE_F32, layout, Input::normal, random_);
    coppice_tensor tensor = single.c();
    std::vector<float> scores(single.values.size() + 1, -1.0f);
    const char* const options[] = {"criterion=fisher"};
    ASSERT_EQ(coppice_score_tensor(&tensor, options, 1, scores.data()), COPPICE_OK) << coppice_last_error();
    for (size_t i = 0; i < single.values.size(); ++i) {
      const float w = static_cast<float>(single.values.weights[i]);
      const float s = static_cast<float>(single.values.squared[i]);
      ASSERT_EQ(scores[i], s * (w * w)) << i;
    }
    EXPECT_EQ(scores.back(), -1.0f);
    Case wide("w", {257}, COPPICE_F64, layout, Input::normal, random_);
    tensor = wide.c();
    std::vector<double> magnitudes(257);
    ASSERT_EQ(coppice_score_tensor(&tensor, nullptr, 0, magnitudes.data()), COPPICE_OK);
    for (size_t i = 0; i < 257; ++i) ASSERT_EQ(magnitudes[i], std::fabs(wide.values.weights[i]));
  }
}

TEST_F(Tensors, ANanIsAnErrorThatNamesItAndChangesNothing) {
  for (const Layout layout : kLayouts) {
    Case bad("weight", {3, 4}, COPPICE_BF16, layout, Input::normal, random_);
    std::memcpy(bad.weights.at(7), encoded(COPPICE_BF16, NAN).data(), 2);
    const std::vector<uint8_t> before = bad.weights.bytes();
    for (const char* sparsity : {"sparsity=0.5", "sparsity=0"}) {
      EXPECT_EQ(prune({bad.c()}, {sparsity}), COPPICE_BAD_INPUT);
      EXPECT_THAT(coppice_last_error(), HasSubstr("'weight' is NaN at index 7 (row 1, column 3)"));
    }
    EXPECT_EQ(bad.weights.bytes(), before);
    EXPECT_EQ(bad.mask, std::vector<uint8_t>(13, 9));
    float scores[12];
    const coppice_tensor tensor = bad.c();
    EXPECT_EQ(coppice_score_tensor(&tensor, nullptr, 0, scores), COPPICE_BAD_INPUT);
  }
}

TEST_F(Tensors, WrongArgumentsSayWhich) {
  const float values[4] = {1, 2, 3, 4};
  float weights[4] = {1, 2, 3, 4};
  const int64_t shape[] = {2, 2}, negative[] = {2, -2}, huge[] = {int64_t{1} << 40, int64_t{1} << 40};
  const int64_t zero_stride[] = {0, 1};
  const coppice_tensor good = coppice_tensor_of("w", weights, COPPICE_F32, 2, shape);
  const auto fails = [&](const char* message, const auto& change) {
    coppice_tensor tensor = good;
    change(tensor);
    EXPECT_EQ(prune({tensor}, {"sparsity=0.5"}), COPPICE_BAD_INPUT) << message;
    EXPECT_THAT(coppice_last_error(), HasSubstr(message));
    EXPECT_EQ(std::memcmp(weights, values, sizeof values), 0);
  };
  fails("name is NULL", [](coppice_tensor& t) { t.name = nullptr; });
  fails("\"w\": shape is NULL", [](coppice_tensor& t) { t.shape = nullptr; });
  fails("\"w\": weights are NULL", [](coppice_tensor& t) { t.weights.data = nullptr; });
  fails("extent 1 of shape is -2", [&](coppice_tensor& t) { t.shape = negative; });
  fails("more elements than memory", [&](coppice_tensor& t) { t.shape = huge; });
  fails("dtype of weights is 4", [](coppice_tensor& t) { t.weights.dtype = COPPICE_I64; });
  fails("stride of 0", [&](coppice_tensor& t) { t.weights.strides = zero_stride; });
  fails("-1 gates", [](coppice_tensor& t) { t.gates = -1; });
  fails("3 gates don't share evenly", [](coppice_tensor& t) { t.gates = 3; });
  fails("names 2 gates of 1", [](coppice_tensor& t) { t.gate_names = "if"; });
  fails("first is 3", [](coppice_tensor& t) { t.first = 3; });
  fails("is a piece", [&](coppice_tensor& t) { t.whole_shape = shape, t.whole_rank = 2; });
  fails("rank 99", [](coppice_tensor& t) { t.rank = 99; });
  fails("its size is 0", [](coppice_tensor& t) { t.size = 0; });

  EXPECT_EQ(prune({good, good}, {}), COPPICE_BAD_INPUT);
  EXPECT_THAT(coppice_last_error(), HasSubstr("w"));
  EXPECT_EQ(coppice_prune_tensors(nullptr, 1, nullptr, 0, nullptr, nullptr, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_prune_tensors(&good, 1, nullptr, 1, nullptr, nullptr, nullptr), COPPICE_BAD_INPUT);
  for (const char* option : {"sparsty=0.5", "sparsity=2", "criterion=nonsense", "sparsity", "include=(",
                             "include=nothing", "keep_diagonal=x", "criterion=taylor"}) {
    EXPECT_EQ(prune({good}, {option}), COPPICE_BAD_INPUT) << option;
    EXPECT_STRNE(coppice_last_error(), "");
  }
  EXPECT_EQ(coppice_plan_tensors(&good, 1, nullptr, 0, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_score_tensor(&good, nullptr, 0, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_score_tensor(nullptr, nullptr, 0, weights), COPPICE_BAD_INPUT);
}

/// A struct that was compiled with an older header is shorter: what it does not have is not read.
TEST_F(Tensors, OlderStructsAreRead) {
  float weights[4] = {1, 2, 3, 4};
  const int64_t shape[] = {4};
  coppice_tensor tensor = coppice_tensor_of("w", weights, COPPICE_F32, 1, shape);
  tensor.size = offsetof(coppice_tensor, gates);
  tensor.gates = -5;
  EXPECT_EQ(prune({tensor}, {"sparsity=0.5"}), COPPICE_OK) << coppice_last_error();
  EXPECT_EQ(weights[1], 0.0f);
}

TEST_F(Tensors, TheProgressFunctionStopsBeforeAnythingIsCut) {
  std::vector<float> weights(1 << 21);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i + 1);
  const std::vector<float> before = weights;
  const int64_t size = static_cast<int64_t>(weights.size());
  coppice_api::Tensor tensor{"w", {size}, weights.data()};
  tensor.output = weights.data();
  std::vector<std::string> stages, lines;
  coppice_api::Control control;
  control.progress = [&](const coppice_progress& progress) {
    stages.emplace_back(progress.stage);
    return true;
  };
  control.log = [&](const char* message) { lines.emplace_back(message); };
  try {
    coppice_api::prune_tensors({tensor}, {"sparsity=0.5"}, control);
    FAIL() << "expected to be interrupted";
  } catch (const coppice_api::Error& error) {
    EXPECT_EQ(error.status(), COPPICE_INTERRUPTED);
  }
  EXPECT_EQ(weights, before);
  EXPECT_EQ(stages, std::vector<std::string>{"select"});
  EXPECT_EQ(lines, std::vector<std::string>{"select begins"});
  // What asks to stop once it cuts comes too late: arrays are cut all or not at all.
  control.progress = [](const coppice_progress& progress) { return std::string(progress.stage) == "cut"; };
  EXPECT_EQ(coppice_api::prune_tensors({tensor}, {"sparsity=0.5"}, control).kept, weights.size() / 2);
  EXPECT_EQ(std::count(weights.begin(), weights.end(), 0.0f), size / 2);
  weights = before;
  coppice_api::Tensor strided{
      "w", {size / 1024, 1024}, {weights.data(), std::vector<int64_t>{1, size / 1024}}};
  strided.output = weights.data();
  EXPECT_EQ(coppice_api::prune_tensors({strided}, {"sparsity=0.5"}, control).kept, weights.size() / 2);
  EXPECT_EQ(std::count(weights.begin(), weights.end(), 0.0f), size / 2);
}

}  // namespace
}  // namespace coppice::test
