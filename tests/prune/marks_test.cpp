// The cut that the counting pass leaves as bits: what it saves, and that nothing is harmed where it fails.

#include "engine/prune/marks.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <limits>
#include <random>

#include "kernels/marking.hpp"
#include "tests/prune/harness.hpp"

namespace coppice::test {
namespace {

/// Arrays as a source that says how it was read, and that can be disturbed.
class WatchedSource final : public ParameterSource {
 public:
  explicit WatchedSource(MemorySource& source) : source_(source) {}
  Backend& backend() override { return source_.backend(); }
  std::span<const SourceTensor> tensors() const override { return source_.tensors(); }
  void read(size_t tensor, int64_t begin, int64_t count, Statistic statistic, bool writing,
            const std::function<void(const Run&)>& visit) override {
    if (writing && stops_before_writing) throw Error(ErrorKind::interrupted, "interrupted");
    (writing && statistic == Statistic::none ? written_by_bits : written_by_scores) += writing ? 1 : 0;
    source_.read(tensor, begin, count, statistic, writing, visit);
  }
  void read_lines(size_t tensor, int64_t begin, int64_t count, std::span<const int64_t> lines,
                  Statistic statistic,
                  const std::function<void(const Run&, std::span<const int64_t>)>& visit) override {
    source_.read_lines(sampled < tensors().size() ? sampled : tensor, begin, count, lines, statistic, visit);
  }
  uint64_t count_kept(size_t tensor, int64_t begin, int64_t count) override {
    return source_.count_kept(tensor, begin, count);
  }
  uint64_t scratch_bytes() const override { return scratch; }

  bool stops_before_writing = false;
  size_t sampled = ~size_t{0};  // the tensor of which samples are taken, whichever is asked for
  uint64_t scratch = ~uint64_t{0};
  int written_by_bits = 0, written_by_scores = 0;

 private:
  MemorySource& source_;
};

class MarksTest : public OpsTest {
 protected:
  bool marks() { return marking(backend().selection()) != nullptr; }
};

/// Gates and tensors that end anywhere in a word, large enough for a sample.
std::vector<PrunableTensor> odd_model(Input input, std::mt19937_64& random, DType second = DType::f32) {
  std::vector<PrunableTensor> tensors;
  tensors.push_back(make_tensor("b", {4 * 67, 253}, 4, DType::f32, input, random));
  tensors.push_back(make_tensor("a", {13, 255}, 1, second, input, random));
  tensors.push_back(make_tensor("c", {77}, 1, DType::f32, input, random));
  return tensors;
}

void cut_some(std::vector<PrunableTensor>& tensors, std::mt19937_64& random) {
  for (PrunableTensor& tensor : tensors) {
    tensor.kept.assign(tensor.size(), true);
    for (size_t i = 0; i < tensor.size(); ++i) tensor.kept[i] = random() % 3 != 0;
  }
}

std::vector<uint32_t> weight_bits(Arrays& arrays, const std::vector<PrunableTensor>& tensors) {
  std::vector<uint32_t> bits;
  for (size_t t = 0; t < tensors.size(); ++t) {
    for (size_t i = 0; i < tensors[t].size(); i += 7) {
      bits.push_back(std::bit_cast<uint32_t>(arrays.weight(t, i)));
    }
  }
  return bits;
}

/// Groups that begin and end anywhere, runs that do, weights that are cut already, both targets, both types.
TEST_P(MarksTest, CutAsAFullSortCuts) {
  const uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  int turn = 0;
  for (Input input : {Input::normal, Input::wide_range, Input::mass_ties, Input::few_values}) {
    for (const char* scope : {"global", "gate"}) {
      for (const char* criterion : {"taylor", "fisher", "random"}) {
        std::vector<PrunableTensor> tensors =
            odd_model(input, random, turn % 2 == 0 ? DType::f32 : DType::f64);
        if (turn % 3 == 1) cut_some(tensors, random);
        PruneConfig config;
        config.criterion = criterion;
        config.scope = scope;
        config.sparsity = 0.85;
        if (turn % 4 == 3) config.percentile = 77.7;
        if (turn % 5 == 4) config.min_density = 0.1;
        ++turn;
        SCOPED_TRACE(fmt::format("{} {} input {} seed {}", criterion, scope, static_cast<int>(input), seed));
        expect_pruned(backend(), tensors, config, 3, turn % 2 == 0 ? 0 : 64 * 333, turn % 3 == 0);
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

/// Where the bracket settles it no gradient is read again; where there is no room for bits it is.
TEST_P(MarksTest, NothingIsScoredTwice) {
  std::mt19937_64 random(1);
  const std::vector<PrunableTensor> tensors = odd_model(Input::normal, random);
  PruneConfig config;
  config.criterion = "taylor";
  config.sparsity = 0.9;
  for (const bool room : {true, false}) {
    Arrays arrays(backend(), tensors, true);
    MemorySource memory(backend(), arrays.memory(), 64 * 333);
    WatchedSource source(memory);
    // Half of it is theirs.
    if (!room) source.scratch = 2 * (4 * 67 * 253 / 8);
    const PruneOutcome outcome = prune(source, config, 1);
    EXPECT_EQ(outcome.bracket_misses, 0u);
    EXPECT_EQ(outcome.passes, 2u);
    EXPECT_EQ(source.written_by_bits > 0, room && marks());
    EXPECT_EQ(source.written_by_scores > 0, !room || !marks());
    arrays.expect(expected_masks(tensors, config, 1));
  }
}

/// A sample of a tensor that is not the one: the bracket misses, what it marked is forgotten.
TEST_P(MarksTest, AMissedBracketLeavesNoBits) {
  std::mt19937_64 random(1);
  std::vector<PrunableTensor> tensors = odd_model(Input::normal, random);
  tensors.push_back(make_tensor("other", {4 * 67, 253}, 1, DType::f32, Input::normal, random));
  tensors.back().prunable = false;
  for (const double scale : {1e-3, 1e6}) {  // a thousandth, then a thousand times as large
    for (double& g : tensors.back().sum) g = static_cast<float>(g * scale);
    for (double min_density : {0.0, 0.02}) {
      PruneConfig config;
      config.criterion = "taylor";
      config.sparsity = 0.9;
      config.min_density = min_density;
      Arrays arrays(backend(), tensors, true);
      MemorySource memory(backend(), arrays.memory());
      WatchedSource source(memory);
      source.sampled = tensors.size() - 1;
      EXPECT_GE(prune(source, config, 1).bracket_misses, 1u);
      EXPECT_EQ(source.written_by_bits, 0);
      arrays.expect(expected_masks(tensors, config, 1));
    }
  }
}

/// The last score of all is NaN, or somebody stops before the second pass: weights and masks are as they
/// were.
TEST_P(MarksTest, ErrorsLeaveArraysWhole) {
  std::mt19937_64 random(1);
  for (const bool nan : {true, false}) {
    std::vector<PrunableTensor> tensors = odd_model(Input::normal, random);
    cut_some(tensors, random);
    tensors[2].kept.back() = true;
    if (nan) tensors[2].sum.back() = std::numeric_limits<double>::quiet_NaN();
    PruneConfig config;
    config.criterion = "taylor";
    config.sparsity = 0.9;
    Arrays arrays(backend(), tensors, true);
    const std::vector<uint32_t> weights = weight_bits(arrays, tensors);
    const std::vector<std::vector<uint64_t>> masks = arrays.masks();
    MemorySource memory(backend(), arrays.memory(), 64 * 333);
    WatchedSource source(memory);
    source.stops_before_writing = true;
    try {
      prune(source, config, 1);
      ADD_FAILURE() << "expected an error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), nan ? ErrorKind::bad_input : ErrorKind::interrupted) << error.what();
    }
    EXPECT_EQ(weight_bits(arrays, tensors), weights);
    EXPECT_EQ(arrays.masks(), masks);
    if (nan) continue;
    source.stops_before_writing = false;
    prune(source, config, 1);
    arrays.expect(expected_masks(tensors, config, 1));
  }
}

COPPICE_FOR_ALL_DEVICES(MarksTest);

/// Gates that begin inside of a word and are groups of their own, large enough for a sample; the same bits on
/// one thread and on several: no two of them write one word.
TEST(MarksThreads, GiveTheSameBits) {
  std::mt19937_64 random(9);
  const std::vector<PrunableTensor> tensors = {
      make_tensor("w", {4 * 3, 22'001}, 4, DType::f32, Input::normal, random)};
  PruneConfig config;
  config.criterion = "fisher";
  config.scope = "gate";
  config.sparsity = 0.8;
  const Expected expected = expected_masks(tensors, config, 1);
  std::string reason;
  for (const BackendCase& c : cpu_cases()) {
    for (int threads : {1, 2}) {
      const std::unique_ptr<Backend> one = open_case(c, threads, reason);
      if (one == nullptr) continue;
      Arrays arrays(*one, tensors, true);
      MemorySource source(*one, arrays.memory());
      prune(source, config, 1);
      arrays.expect(expected);
    }
  }
}

}  // namespace
}  // namespace coppice::test
