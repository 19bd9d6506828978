#include <gtest/gtest.h>

#include <random>

#include "kernels/criteria.hpp"
#include "tests/prune/harness.hpp"

namespace coppice::test {
namespace {

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

std::string describe(const PruneConfig& config, Input input, uint64_t seed) {
  return fmt::format(
      "criterion {} scope {} pattern {} reduce {} min_density {} sparsity {} percentile {} input {} seed {}",
      config.criterion, config.scope, config.pattern, config.reduce, config.min_density, config.sparsity,
      config.percentile, static_cast<int>(input), seed);
}

/// Every criterion × scope × pattern × reduction × minimum density, with inputs and targets in turn.
TEST(Prune, EveryOptionAgainstFullSort) {
  const std::unique_ptr<Backend> backend = cpu_backend(2);
  const double sparsities[] = {0.0, 0.35, 0.6, 0.85, 1.0};
  const uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  size_t turn = 0;
  for (Criterion criterion : kCriteria) {
    for (const char* scope : {"global", "tensor", "gate"}) {
      for (const char* pattern : {"element", "row", "column"}) {
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
              expect_pruned(*backend, tensors, config, 7 + turn, turn % 2 == 0 ? 0 : 64, turn % 4 < 2);
              if (::testing::Test::HasFailure()) return;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace coppice::test
