#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/prune/prune.hpp"
#include "engine/prune/source.hpp"
#include "tests/prune/harness.hpp"

namespace coppice::test {
namespace {

class Goldens : public OpsTest {};

/// Masks and thresholds that NumPy made (make_goldens.py): ours must be the same, to the last bit of the
/// threshold.
TEST_P(Goldens, NumPyCutsTheSame) {
  const char* folder = std::getenv("COPPICE_SOURCE_DIR");
  std::ifstream file(std::string(folder != nullptr ? folder : ".") + "/tests/prune/goldens.json");
  ASSERT_TRUE(file) << "tests/prune/goldens.json";
  const nlohmann::json goldens = nlohmann::json::parse(file);
  ASSERT_GE(goldens["cases"].size(), 30u);
  for (const nlohmann::json& golden : goldens["cases"]) {
    SCOPED_TRACE(golden["name"].get<std::string>());
    PruneConfig config;
    config.criterion = golden["criterion"];
    config.pattern = golden["pattern"];
    config.reduce = golden["reduce"];
    config.scope = golden["scope"];
    if (golden.contains("percentile")) config.percentile = golden["percentile"];
    if (golden.contains("sparsity")) config.sparsity = golden["sparsity"];

    struct GoldenArrays {
      DeviceArray<uint64_t> w, s, mask;  // elements of either width, packed
    };
    std::vector<GoldenArrays> arrays(golden["tensors"].size());
    std::vector<MemoryTensor> tensors;
    for (size_t t = 0; t < arrays.size(); ++t) {
      const nlohmann::json& tensor = golden["tensors"][t];
      const bool wide = tensor["dtype"] == "f64";
      const auto packed = [&](const nlohmann::json& bits) {
        std::vector<uint64_t> words(bits.size());
        for (size_t i = 0; i < bits.size(); ++i) {
          const uint64_t value = bits[i];
          std::memcpy(reinterpret_cast<char*>(words.data()) + i * (wide ? 8 : 4), &value, wide ? 8 : 4);
        }
        return words;
      };
      arrays[t] = {{backend(), packed(tensor["w"])},
                   {backend(), packed(tensor["s"])},
                   {backend(), std::vector<uint64_t>(tensor["w"].size() / 64 + 1)}};
      MemoryTensor memory;
      memory.info = {tensor["name"], tensor["shape"], wide ? DType::f64 : DType::f32, 1, "", true};
      memory.weights = memory.output = arrays[t].w.data();
      memory.sum = memory.absolute = memory.squared = arrays[t].s.data();
      memory.mask = arrays[t].mask.data();
      tensors.push_back(memory);
    }
    MemorySource source(backend(), tensors);
    const PruneOutcome outcome = prune(source, config, 1);
    for (size_t t = 0; t < arrays.size(); ++t) {
      const std::string expected = golden["tensors"][t]["mask"];
      std::string found;
      const std::vector<uint64_t>& mask = arrays[t].mask.values();
      for (size_t i = 0; i < expected.size(); ++i) {
        found += (mask[i / 64] >> (i % 64) & 1) != 0 ? '1' : '0';
      }
      EXPECT_EQ(found, expected) << golden["tensors"][t]["name"];
    }
    ASSERT_EQ(outcome.groups.size(), golden["thresholds"].size());
    for (size_t g = 0; g < outcome.groups.size(); ++g) {
      const double expected = std::strtod(golden["thresholds"][g].get<std::string>().c_str(), nullptr);
      EXPECT_EQ(std::bit_cast<uint64_t>(outcome.groups[g].threshold + 0.0),
                std::bit_cast<uint64_t>(expected + 0.0))
          << outcome.groups[g].name << ": " << outcome.groups[g].threshold << " instead of " << expected;
    }
  }
}

COPPICE_FOR_ALL_DEVICES(Goldens);

}  // namespace
}  // namespace coppice::test
