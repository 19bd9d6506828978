// Hidden units of recurrent layers, against a look at every element of every tensor.

#include <gtest/gtest.h>

#include <random>

#include "engine/prune/plan.hpp"
#include "kernels/criteria.hpp"
#include "tests/prune/harness.hpp"

namespace coppice::test {
namespace {

class Units : public OpsTest {};

struct Stack {
  int64_t gates, hidden, layers;
  bool two_directions, bias;
};

/// A stack in PyTorch's names, its decoder, and a tensor that has nothing to do with it.
std::vector<PrunableTensor> recurrent_stack(const Stack& s, Input input, bool mixed,
                                            std::mt19937_64& random) {
  std::vector<PrunableTensor> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, int64_t gates) {
    const DType dtype = mixed && tensors.size() % 2 == 1 ? DType::f64 : DType::f32;
    tensors.push_back(make_tensor(name, std::move(shape), gates, dtype, input, random));
  };
  const int64_t directions = s.two_directions ? 2 : 1, rows = s.gates * s.hidden;
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    for (int64_t d = 0; d < directions; ++d) {
      const std::string end = fmt::format("_l{}{}", layer, d == 1 ? "_reverse" : "");
      add("rnn.weight_ih" + end, {rows, layer == 0 ? 5 : directions * s.hidden}, s.gates);
      add("rnn.weight_hh" + end, {rows, s.hidden}, s.gates);
      if (!s.bias) continue;
      add("rnn.bias_ih" + end, {rows}, s.gates);
      add("rnn.bias_hh" + end, {rows}, s.gates);
    }
  }
  add("decoder.weight", {7, directions * s.hidden}, 1);
  add("embedding.weight", {9, 5}, 1);
  tensors.back().prunable = false;
  return tensors;
}

TEST_P(Units, EveryOptionAgainstFullSort) {
  const Stack stacks[] = {{4, 7, 2, false, true},
                          {3, 5, 2, true, true},
                          {1, 9, 1, false, false},
                          {4, 3, 1, true, false},
                          {1, 33, 3, false, true}};
  const double sparsities[] = {0.0, 0.35, 0.6, 0.85, 1.0};
  const uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  size_t turn = 0;
  for (const Stack& stack : stacks) {
    for (const char* scope : {"global", "tensor"}) {
      for (const char* reduce : {"sum", "mean", "max", "l2", "product"}) {
        for (double min_density : {0.0, 0.3}) {
          for (bool percentile : {false, true}) {
            PruneConfig config;
            config.criterion = to_string(kCriteria[turn % std::size(kCriteria)]);
            config.pattern = "unit";
            config.unit_readers = {"decoder.weight"};
            config.scope = scope;
            config.reduce = reduce;
            config.min_density = min_density;
            config.sparsity = sparsities[turn % 5];
            if (percentile) config.percentile = 100.0 * sparsities[(turn / 3) % 5];
            Input input = kInputs[(turn / 2) % std::size(kInputs)];
            if (input == Input::infinite) input = Input::few_values;
            std::vector<PrunableTensor> tensors = recurrent_stack(stack, input, turn % 3 == 0, random);
            for (PrunableTensor& tensor : tensors) {
              if (turn % 4 != 1) break;
              tensor.kept.assign(tensor.size(), true);
              for (size_t i = 0; i < tensor.size(); ++i) tensor.kept[i] = random() % 3 != 0;
            }
            ++turn;
            SCOPED_TRACE(fmt::format("turn {} seed {} reduce {} scope {}", turn, seed, reduce, scope));
            expect_pruned(backend(), tensors, config, 7 + turn, turn % 2 == 0 ? 0 : 64, turn % 4 < 2);
            if (::testing::Test::HasFailure()) return;
          }
        }
      }
    }
  }
}

/// Cut again, further: what was cut is cut, and of a chosen layer only its own units go.
TEST_P(Units, GoOnAndChooseLayers) {
  std::mt19937_64 random(std::random_device{}());
  std::vector<PrunableTensor> tensors = recurrent_stack({4, 8, 2, false, true}, Input::normal, false, random);
  PruneConfig config;
  config.pattern = "unit";
  config.unit_readers = {"decoder.weight"};
  config.sparsity = 0.25;
  for (size_t t = 0; const std::vector<bool>& kept : expected_masks(tensors, config, 1).kept)
    tensors[t++].kept = kept;
  config.sparsity = 0.5;
  expect_pruned(backend(), tensors, config, 1);
  Arrays arrays(backend(), tensors, true);
  MemorySource source(backend(), arrays.memory());
  const PruneOutcome outcome = prune(source, config, 1);
  ASSERT_EQ(outcome.layers.size(), 2u);
  EXPECT_EQ(outcome.layers[0].name, "rnn.weight_hh_l0");
  EXPECT_EQ(outcome.layers[0].hidden, 8u);
  EXPECT_EQ(outcome.layers[0].kept.size() + outcome.layers[1].kept.size(), 8u);

  config.include = {"rnn.weight_hh_l1"};
  EXPECT_EQ(make_plan(source.tensors(), config, 1).wiring.tensors.size(),
            5u);  // its own four and the decoder
}

TEST_P(Units, ErrorsNameWhatIsWrong) {
  std::mt19937_64 random(1);
  const auto error_of = [&](auto change) -> std::string {
    std::vector<PrunableTensor> tensors =
        recurrent_stack({4, 6, 2, true, true}, Input::normal, false, random);
    PruneConfig config;
    config.pattern = "unit";
    config.unit_readers = {"decoder.weight"};
    change(tensors, config);
    try {
      Arrays arrays(backend(), tensors, true);
      MemorySource source(backend(), arrays.memory());
      prune(source, config, 1);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input) << error.what();
      return error.what();
    }
    return "no error";
  };
  const auto says = [](const std::string& said, std::initializer_list<const char*> parts) {
    for (const char* part : parts)
      EXPECT_NE(said.find(part), std::string::npos) << part << " is not in: " << said;
  };
  using Tensors = std::vector<PrunableTensor>;
  says(error_of([](Tensors&, PruneConfig& c) { c.unit_readers.clear(); }),
       {"'rnn.weight_hh_l1'", "last layer", "unit_readers"});
  says(error_of([](Tensors&, PruneConfig& c) { c.unit_readers = {"head"}; }), {"unit_readers", "'head'"});
  says(error_of([](Tensors&, PruneConfig& c) { c.unit_readers = {"embedding.weight"}; }),
       {"'embedding.weight'", "5 columns", "12"});
  says(error_of([](Tensors&, PruneConfig& c) { c.include = {"decoder.weight"}; }), {"none is chosen"});
  says(error_of([](Tensors&, PruneConfig& c) { c.scope = "gate"; }), {"'unit'", "'gate'"});
  says(error_of([](Tensors&, PruneConfig& c) { c.scope = "row"; }), {"'unit'", "'row'"});
  says(error_of([](Tensors&, PruneConfig& c) { c.min_density_scope = "gate"; }),
       {"'unit'", "min_density_scope"});
  says(error_of([](Tensors& t, PruneConfig&) { t[0].name = "rnn.other"; }),
       {"'rnn.weight_hh_l0'", "weight_ih"});
  says(error_of([](Tensors& t, PruneConfig&) { t[2].name = "rnn.weight_hr_l0"; }), {"projection"});
  says(error_of([](Tensors& t, PruneConfig&) {
         t[1].shape = {12, 12}, t[1].gates = 1;
       }),
       {"'rnn.weight_ih_l0'", "24 rows", "12"});
  says(error_of([](Tensors& t, PruneConfig&) { t[5].sum[3] = t[5].weights[3] = NAN; }),
       {"'rnn.weight_hh_l0_reverse'", "index 3", "NaN"});
  says(error_of([&](Tensors& t, PruneConfig&) {
         for (PrunableTensor& other : recurrent_stack({4, 6, 1, true, true}, Input::normal, false, random)) {
           other.name = "second." + other.name;
           if (other.name.find("rnn.") != std::string::npos) t.push_back(other);
         }
       }),
       {"another", "'second.rnn.weight_hh_l0'"});
}

COPPICE_FOR_ALL_DEVICES(Units);

}  // namespace
}  // namespace coppice::test
