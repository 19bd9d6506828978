// The committed corpora of the fuzzers, as they are and damaged in ways that a seed names: no crash, no
// sanitizer's report, no error but of bad input. Longer hunts: see CMakeLists.txt here.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/targets.hpp"

namespace coppice::fuzz {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> corpus(const char* name) {
  const char* source = std::getenv("COPPICE_SOURCE_DIR");
  std::vector<std::string> inputs;
  for (const auto& entry :
       fs::directory_iterator(fs::path(source ? source : ".") / "tests/fuzz/corpus" / name)) {
    std::ifstream file(entry.path(), std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  std::sort(inputs.begin(), inputs.end());
  return inputs;
}

void run(const Target& target, const std::string& bytes) {
  target.run(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

std::string damaged(std::string bytes, const std::vector<std::string>& others, std::mt19937_64& random) {
  for (uint64_t times = 1 + random() % 4; times > 0 && !bytes.empty(); --times) {
    const size_t at = random() % bytes.size();
    switch (random() % 6) {
      case 0:
        bytes[at] = static_cast<char>(random());
        break;
      case 1:
        bytes[at] = static_cast<char>(bytes[at] ^ 1 << random() % 8);
        break;
      case 2:
        bytes.resize(at);
        break;
      case 3:
        bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 40));
        break;
      case 4:
        bytes.erase(at, 1 + random() % 8);
        break;
      default: {
        const std::string& other = others[random() % others.size()];
        if (!other.empty()) bytes.replace(at, 8, other.substr(random() % other.size(), 8));
      }
    }
  }
  return bytes;
}

TEST(Fuzz, CorporaAndTheirDamage) {
  for (const Target& target : kTargets) {
    SCOPED_TRACE(target.name);
    const std::vector<std::string> inputs = corpus(target.name);
    ASSERT_GE(inputs.size(), 5u);
    std::mt19937_64 random(20261124);
    for (const std::string& input : inputs) run(target, input);
    for (int i = 0; i < 4000; ++i) run(target, damaged(inputs[random() % inputs.size()], inputs, random));
  }
}

}  // namespace
}  // namespace coppice::fuzz
