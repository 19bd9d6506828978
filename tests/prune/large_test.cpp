#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <vector>

#include "engine/prune/plan.hpp"
#include "engine/prune/select.hpp"
#include "tests/prune/harness.hpp"

namespace coppice::test {
namespace {

class Large : public OpsTest {};

/// Large enough for sampled brackets, several chunks a thread and runs that end anywhere.
std::vector<PrunableTensor> large_model(Input input, std::mt19937_64& random) {
  std::vector<PrunableTensor> tensors;
  tensors.push_back(make_tensor("rnn.weight_hh_l0", {256, 257}, 4, DType::f32, input, random));
  tensors.push_back(make_tensor("embedding.weight", {4097}, 1, DType::f32, input, random));
  tensors.push_back(make_tensor("decoder.weight", {33, 31}, 1, DType::f32, input, random));
  return tensors;
}

std::vector<std::vector<uint64_t>> pruned_masks(Backend& backend, const std::vector<PrunableTensor>& tensors,
                                                const PruneConfig& config, int64_t run) {
  Arrays arrays(backend, tensors, true);
  MemorySource source(backend, arrays.memory(), run);
  prune(source, config, 3);
  return arrays.masks();
}

TEST_P(Large, EveryInputAgainstFullSort) {
  const uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  for (Input input : kInputs) {
    const std::vector<PrunableTensor> tensors = large_model(input, random);
    for (const char* criterion : {"taylor", "fisher", "random"}) {
      if (std::string(criterion) != "taylor" && input != Input::normal) continue;
      for (double min_density : {0.0, 0.02}) {
        PruneConfig config;
        config.criterion = criterion;
        config.sparsity = 0.9;
        config.min_density = min_density;
        SCOPED_TRACE(fmt::format("{} input {} min_density {} seed {}", criterion, static_cast<int>(input),
                                 min_density, seed));
        expect_pruned(backend(), tensors, config, 3, 4096 * 5, false);
        config.percentile = 70.0;
        expect_pruned(backend(), tensors, config, 3);
        config.scope = "row";
        expect_pruned(backend(), tensors, config, 3, 4096 * 5, false);
        config.percentile = -1.0;
        expect_pruned(backend(), tensors, config, 3);
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

/// The same bits on any device, and for any instruction set, thread count and run size.
TEST(LargeAnywhere, SameBitsHoweverItRuns) {
  std::mt19937_64 random(17);
  std::string reason;
  for (Input input : {Input::normal, Input::mass_ties}) {
    const std::vector<PrunableTensor> tensors = large_model(input, random);
    for (const char* scope : {"global", "gate"}) {
      PruneConfig config;
      config.criterion = "taylor";
      config.scope = scope;
      std::vector<std::vector<uint64_t>> expected;
      for (const BackendCase& c : backend_cases()) {
        for (int threads : {1, 2, 3}) {
          if (c.device != "cpu" && threads != 1) continue;
          const std::unique_ptr<Backend> backend = open_case(c, threads, reason);
          if (backend == nullptr) continue;
          for (int64_t run : {0, 64, 4096, 65'536, 100'032}) {
            if (run == 64 && threads != 1) continue;
            const auto found = pruned_masks(*backend, tensors, config, run);
            if (expected.empty()) expected = found;
            EXPECT_EQ(found, expected) << backend_name({c, 0}) << " " << threads << " " << run;
          }
        }
      }
    }
  }
}

/// Any rank, by bracket and by histogram, is the unit that a full sort finds there; a group spread over two
/// sources whose histograms are added too.
TEST_P(Large, BracketAndHistogramAndShardsAgree) {
  std::mt19937_64 random(std::random_device{}());
  for (Input input : kInputs) {
    std::vector<PrunableTensor> tensors = large_model(input, random);
    if (input == Input::few_values) {
      tensors.push_back(make_tensor("extra", {301, 3}, 1, DType::f64, input, random));  // wide keys
    }
    Arrays arrays(backend(), tensors, true);
    MemorySource source(backend(), arrays.memory());
    PruneConfig config;
    config.criterion = "gradient";
    const Plan plan = make_plan(source.tensors(), config, 1);
    const PlanGroup& group = plan.groups.front();

    std::vector<Place> sorted;
    for (const PlanPart& part : group.parts) {
      for (int64_t i = 0; i < part.count; ++i) {
        const double score = std::fabs(tensors[part.tensor].sum[static_cast<size_t>(i)]);
        sorted.push_back({key_of(plan.scoring, score), part.position + static_cast<uint64_t>(i)});
      }
    }
    std::sort(sorted.begin(), sorted.end());

    // Each machine holds some of the tensors; names and positions are those of the whole.
    std::vector<MemoryTensor> memory = arrays.memory();
    for (uint64_t rank : {uint64_t{0}, group.units * 9 / 10, group.units - 1}) {
      SCOPED_TRACE(fmt::format("input {} rank {}", static_cast<int>(input), rank));
      ReadingCost cost;
      EXPECT_EQ(find_places(source, plan, group, std::vector{rank}, {}, cost).front(), sorted[rank]);
      EXPECT_EQ(find_places_by_histogram(source, plan, group, std::vector{rank}, {}, cost).front(),
                sorted[rank]);

      RankSearch search(plan.scoring, rank);
      while (!search.found()) {
        Histogram total(search.window(), 1);
        for (const PlanPart& part : group.parts) {
          PlanGroup shard;
          shard.parts = {part};
          shard.units = part.units;
          total.add(count(source, plan, shard, search.window(), {}));
        }
        search.refine(total);
      }
      EXPECT_EQ(locate(source, plan, group, search.key(), search.tie(), {}), sorted[rank]);
    }
  }
}

/// Neighbours that resemble each other (dead rows) must not make the bracket miss more often than by chance.
TEST_P(Large, BracketsHoldOnClusteredInput) {
  uint64_t misses = 0;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    PrunableTensor tensor;
    tensor.name = "w";
    tensor.shape = {1000, 300};
    for (int row = 0; row < 1000; ++row) {
      const double scale = std::exp(2.0 * normal(random));
      for (int col = 0; col < 300; ++col)
        tensor.weights.push_back(static_cast<float>(scale * (1.0 + 0.01 * normal(random))));
    }
    Arrays arrays(backend(), {tensor}, true);
    MemorySource source(backend(), arrays.memory());
    PruneConfig config;
    config.sparsity = 0.5;
    misses += prune(source, config, 1).bracket_misses;
  }
  EXPECT_LE(misses, 1u);
}

/// A source that leaves a search little room: it counts at pivots and narrows its bracket instead of logging.
class CrampedSource final : public ParameterSource {
 public:
  explicit CrampedSource(ParameterSource& source) : source_(source) {}
  Backend& backend() override { return source_.backend(); }
  std::span<const SourceTensor> tensors() const override { return source_.tensors(); }
  void read(size_t tensor, int64_t begin, int64_t count, Statistic statistic, bool writing,
            const std::function<void(const Run&)>& visit) override {
    source_.read(tensor, begin, count, statistic, writing, visit);
  }
  uint64_t scratch_bytes() const override { return 1; }

 private:
  ParameterSource& source_;
};

TEST_P(Large, LittleRoomChangesNoBit) {
  std::mt19937_64 random(11);
  for (const bool few_values : {false, true}) {
    // 65536 places always fit: more than these must lie in the bracket, so the values resemble one another.
    PrunableTensor tensor;
    tensor.name = "w";
    tensor.shape = {4000, 600};
    std::normal_distribution<double> normal;
    for (int row = 0; row < 4000; ++row) {
      const double scale = std::exp(2.0 * normal(random));
      for (int col = 0; col < 600; ++col) {
        const double value = scale * (1.0 + 0.01 * normal(random));
        tensor.weights.push_back(static_cast<float>(few_values ? std::floor(4.0 * value) : value));
      }
    }
    for (double min_density : {0.0, 0.02}) {
      PruneConfig config;
      config.sparsity = 0.5;
      config.min_density = min_density;
      Arrays roomy(backend(), {tensor}, true), cramped(backend(), {tensor}, true);
      MemorySource source(backend(), roomy.memory()), other(backend(), cramped.memory(), 1 << 16);
      prune(source, config, 1);
      CrampedSource little(other);
      const PruneOutcome outcome = prune(little, config, 1);
      EXPECT_EQ(outcome.bracket_misses, 0u);
      EXPECT_EQ(roomy.masks(), cramped.masks()) << few_values << " " << min_density;
      config.percentile = 60.0;
      prune(source, config, 1);
      prune(little, config, 1);
      EXPECT_EQ(roomy.masks(), cramped.masks()) << few_values << " " << min_density;
    }
  }
}

/// No histogram where most scores are one value and the cut falls among them.
TEST_P(Large, MassTiesNeedNoHistogram) {
  std::mt19937_64 random(5);
  const std::vector<PrunableTensor> tensors = large_model(Input::mass_ties, random);
  Arrays arrays(backend(), tensors, true);
  MemorySource source(backend(), arrays.memory());
  PruneConfig config;
  config.criterion = "gradient";
  config.sparsity = 0.5;
  const PruneOutcome outcome = prune(source, config, 1);
  EXPECT_EQ(outcome.bracket_misses, 0u);
  EXPECT_LE(outcome.passes, 4u);
  EXPECT_EQ(outcome.groups.front().threshold, 0.0);
}

COPPICE_FOR_ALL_DEVICES(Large);

}  // namespace
}  // namespace coppice::test
