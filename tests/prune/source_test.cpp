#include "engine/prune/source.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <random>
#include <vector>

#include "engine/model/parameter_store.hpp"
#include "engine/prune/prune.hpp"
#include "tests/prune/harness.hpp"

namespace coppice::test {
namespace {

class StoreSource : public OpsTest {};

/// A store of odd segments with values and the statistics of all three kinds.
struct StoreModel {
  ParameterStore store;
  std::vector<float> sum, absolute, squared;
  DeviceArray<float> device_sum, device_absolute, device_squared;

  explicit StoreModel(Backend& backend)
      : store(backend, {{"rnn.weight_hh_l0", {12, 7}, 0, true, 4, "ifgo"},
                        {"rnn.bias_hh_l0", {12}, 0, false, 4, "ifgo"},
                        {"decoder.weight", {33, 5}, 0, true, 1, ""},
                        {"embedding.weight", {257, 31}, 0, true, 1, ""}}) {
    std::mt19937_64 random(1);
    for (std::vector<float>* v : {&sum, &absolute, &squared}) {
      v->resize(static_cast<size_t>(store.size()));
      for (float& x : *v) x = static_cast<float>(draw(Input::normal, random));
    }
    device_sum = {backend, sum};
    device_absolute = {backend, absolute};
    device_squared = {backend, squared};
    fill(2);
  }

  void fill(uint64_t seed) {
    std::mt19937_64 random(seed);
    for (const Segment& segment : store.segments()) {
      std::vector<float> values(static_cast<size_t>(segment.size()));
      for (float& x : values) x = static_cast<float>(draw(Input::normal, random));
      store.upload(segment, values);
    }
  }

  StoreStatistics statistics() {
    const auto view = [&](DeviceArray<float>& v) {
      return VectorView<const float>{v.data(), store.size(), store.backend().device()};
    };
    return {view(device_sum), view(device_absolute), view(device_squared)};
  }

  /// The same as tensors for the oracle, with the store's mask as what is cut already.
  std::vector<PrunableTensor> tensors() const {
    std::vector<PrunableTensor> list;
    for (const Segment& segment : store.segments()) {
      PrunableTensor tensor;
      tensor.name = segment.name;
      tensor.shape = segment.shape;
      tensor.gates = segment.gates;
      tensor.prunable = segment.prunable;
      for (float x : store.download(segment)) tensor.weights.push_back(x);
      for (size_t i = 0; i < tensor.size(); ++i) {
        const size_t at = static_cast<size_t>(segment.offset) + i;
        tensor.sum.push_back(sum[at]);
        tensor.absolute.push_back(absolute[at]);
        tensor.squared.push_back(squared[at]);
      }
      if (store.masked()) {
        const std::vector<uint64_t> words = store.download_mask(segment);
        for (size_t i = 0; i < tensor.size(); ++i)
          tensor.kept.push_back((words[i / 64] >> (i % 64) & 1) != 0);
      }
      list.push_back(std::move(tensor));
    }
    return list;
  }
};

TEST_P(StoreSource, CutsTheStoreInPlace) {
  for (const char* criterion : {"magnitude", "taylor", "taylor-absolute", "fisher"}) {
    StoreModel model(backend());
    PruneConfig config;
    config.criterion = criterion;
    config.sparsity = 0.8;
    const std::vector<PrunableTensor> before = model.tensors();
    const Expected expected = expected_masks(before, config, 1);
    const uint64_t version = model.store.version();
    const std::unique_ptr<ParameterSource> source = store_source(model.store, model.statistics());
    const PruneOutcome outcome = prune(*source, config, 1);
    EXPECT_GT(model.store.version(), version);
    ASSERT_TRUE(model.store.masked());
    for (size_t t = 0; t < before.size(); ++t) {
      const Segment& segment = model.store.segments()[t];
      const std::vector<float> values = model.store.download(segment);
      const std::vector<uint64_t> mask = model.store.download_mask(segment);
      for (size_t i = 0; i < values.size(); ++i) {
        ASSERT_EQ((mask[i / 64] >> (i % 64) & 1) != 0, expected.kept[t][i]) << segment.name << i;
        const float want = expected.kept[t][i] ? static_cast<float>(before[t].weights[i]) : 0.0f;
        ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(want));
      }
    }
    // The padding stays zero and kept.
    const std::vector<uint64_t> words = backend().download(model.store.mask());
    const std::vector<float> values = backend().download(model.store.values());
    const Segment& first = model.store.segments()[0];
    for (size_t i = static_cast<size_t>(first.size()); i < 128; ++i) {
      EXPECT_EQ(words[i / 64] >> (i % 64) & 1, 1u);
      EXPECT_EQ(values[i], 0.0f);
    }
    EXPECT_EQ(outcome.total, static_cast<uint64_t>(model.store.parameter_count()));
    EXPECT_FALSE(outcome.tensors[1].pruned);
    EXPECT_EQ(outcome.tensors[1].kept, 12u);
    EXPECT_EQ(outcome.tensors[0].gate_names, (std::vector<std::string>{"i", "f", "g", "o"}));
  }
}

/// A schedule with any criterion only ever cuts more, whatever the weights become in between, and exactly as
/// much as asked.
TEST_P(StoreSource, SchedulesAreMonotone) {
  for (Criterion criterion : kCriteria) {
    for (const char* pattern : {"element", "row", "column"}) {
      for (double min_density : {0.0, 0.05}) {
        StoreModel model(backend());
        PruneConfig config;
        config.criterion = to_string(criterion);
        config.pattern = pattern;
        config.min_density = min_density;
        if (std::string(pattern) == "column") config.scope = "tensor";
        uint64_t step = 0;
        for (double sparsity : {0.0, 0.2, 0.2, 0.5, 0.45, 0.7}) {
          SCOPED_TRACE(
              fmt::format("{} {} min_density {} step {}", config.criterion, pattern, min_density, step));
          model.fill(10 + step);  // training moved every weight, cut ones included: they must not come back
          const std::vector<PrunableTensor> before = model.tensors();
          config.sparsity = sparsity;
          const Expected expected = expected_masks(before, config, 100 + step);
          ASSERT_FALSE(expected.infeasible);
          const std::unique_ptr<ParameterSource> source = store_source(model.store, model.statistics());
          prune(*source, config, 100 + step);
          const std::vector<PrunableTensor> after = model.tensors();
          for (size_t t = 0; t < before.size(); ++t) {
            if (!before[t].prunable) continue;
            for (size_t i = 0; i < before[t].size(); ++i) {
              ASSERT_EQ(after[t].kept[i], expected.kept[t][i]) << before[t].name << "[" << i << "]";
              if (!before[t].kept.empty() && !before[t].kept[i]) {
                ASSERT_FALSE(after[t].kept[i]);
              }
              if (!after[t].kept[i]) {
                ASSERT_EQ(after[t].weights[i], 0.0);
              }
            }
          }
          ++step;
        }
      }
    }
  }
}

TEST_P(StoreSource, MissingStatisticNamesTensorAndKind) {
  StoreModel model(backend());
  PruneConfig config;
  config.criterion = "fisher";
  StoreStatistics statistics = model.statistics();
  statistics.squared = {};
  const std::unique_ptr<ParameterSource> source = store_source(model.store, statistics);
  try {
    prune(*source, config, 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    EXPECT_NE(std::string(error.what()).find("squared gradients"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("decoder.weight"), std::string::npos) << error.what();
  }
  EXPECT_FALSE(model.store.masked());
}

COPPICE_FOR_ALL_DEVICES(StoreSource);

}  // namespace
}  // namespace coppice::test
