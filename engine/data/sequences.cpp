#include "engine/data/sequences.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "kernels/error.hpp"

namespace coppice {
namespace {

// Consumers of random numbers in this folder; far from the small numbers that layers use.
constexpr uint64_t kShuffleKey = 0x6461'7461'0000'0001;
constexpr uint64_t kFeatureKey = 0x6461'7461'0000'0002;

class SequenceSource final : public BatchSource {
 public:
  SequenceSource(std::shared_ptr<const SequenceData> data, int64_t batch, bool shuffled, uint64_t shuffle_key)
      : data_(std::move(data)),
        batch_(batch < 0 ? std::max<int64_t>(data_->count(), 1) : batch),
        shuffled_(shuffled),
        key_(shuffle_key),
        order_(static_cast<size_t>(data_->count())) {
    start_epoch(0);
  }

  int64_t batches() const override { return (data_->count() + batch_ - 1) / batch_; }
  int64_t targets() const override { return data_->count(); }

  void start_epoch(int64_t epoch) override {
    std::iota(order_.begin(), order_.end(), int64_t{0});
    if (shuffled_) shuffle(order_.data(), data_->count(), {key_, static_cast<uint64_t>(epoch)});
  }

  void read(int64_t index, Batch& batch) override {
    if (index < 0 || index >= batches()) bad_input("there is no batch {} among {}", index, batches());
    const int64_t first = index * batch_;
    const int64_t inputs = data_->inputs;
    batch.batch = std::min(batch_, data_->count() - first);
    batch.steps = 0;
    batch.carries_state = false;
    batch.ids.clear();
    batch.lengths.clear();
    batch.targets.clear();
    bool equal = true;
    for (int64_t b = 0; b < batch.batch; ++b) {
      const int64_t sequence = order_[static_cast<size_t>(first + b)];
      const int64_t length = data_->length(sequence);
      equal = equal && (b == 0 || length == batch.steps);
      batch.steps = std::max(batch.steps, length);
      batch.lengths.push_back(static_cast<int32_t>(length));
      batch.targets.push_back(data_->labels[static_cast<size_t>(sequence)]);
    }
    if (equal) batch.lengths.clear();
    batch.features.assign(static_cast<size_t>(batch.steps * batch.batch * inputs), 0.0f);
    for (int64_t b = 0; b < batch.batch; ++b) {
      const int64_t sequence = order_[static_cast<size_t>(first + b)];
      const float* from = data_->features.data() + data_->offsets[static_cast<size_t>(sequence)] * inputs;
      for (int64_t t = 0; t < data_->length(sequence); ++t) {
        std::copy_n(from + t * inputs, inputs, batch.features.data() + (t * batch.batch + b) * inputs);
      }
    }
  }

 private:
  std::shared_ptr<const SequenceData> data_;
  int64_t batch_;
  bool shuffled_;
  uint64_t key_;
  std::vector<int64_t> order_;
};

/// Sequences whose label is whether the first input sums above zero. Element e = (sequence · steps + step) ·
/// inputs + input is draw e of a standard normal (Box–Muller over pairs of uniforms).
std::shared_ptr<const SequenceData> generate(const DataConfig& config, int64_t count, RandomStream stream) {
  auto data = std::make_shared<SequenceData>();
  const int64_t steps = config.sequence_steps, inputs = config.inputs;
  data->inputs = inputs;
  data->features.resize(static_cast<size_t>(count * steps * inputs));
  for (size_t e = 0; e < data->features.size(); e += 2) {
    const double u = 1.0 - random_uniform_double(stream, e);  // in (0, 1]: its logarithm is finite
    const double angle = 2.0 * std::numbers::pi * random_uniform_double(stream, e + 1);
    const double radius = std::sqrt(-2.0 * std::log(u));
    data->features[e] = static_cast<float>(radius * std::cos(angle));
    if (e + 1 < data->features.size()) data->features[e + 1] = static_cast<float>(radius * std::sin(angle));
  }
  for (int64_t n = 0; n <= count; ++n) data->offsets.push_back(n * steps);
  for (int64_t n = 0; n < count; ++n) {
    double sum = 0.0;
    for (int64_t t = 0; t < steps; ++t) sum += data->features[static_cast<size_t>((n * steps + t) * inputs)];
    data->labels.push_back(sum > 0.0 ? 1 : 0);
  }
  return data;
}

}  // namespace

std::unique_ptr<BatchSource> make_sequence_source(std::shared_ptr<const SequenceData> data, int64_t batch,
                                                  bool shuffled, uint64_t shuffle_key) {
  if (batch == 0 || batch < -1) bad_input("data.batch_size is {}, expected at least 1, or -1 for all", batch);
  return std::make_unique<SequenceSource>(std::move(data), batch, shuffled, shuffle_key);
}

DataSet open_generated(const DataConfig& config, uint64_t seed, std::string_view loss) {
  const auto check = [](const char* key, int64_t value) {
    constexpr int64_t kMost = 100'000'000;  // a mistyped count must not ask for all memory
    if (value < 1 || value > kMost) bad_input("data.{} is {}, expected 1 to {}", key, value, kMost);
  };
  check("train_sequences", config.train_sequences);
  check("valid_sequences", config.valid_sequences);
  check("sequence_steps", config.sequence_steps);
  check("inputs", config.inputs);
  const double most = static_cast<double>(std::max(config.train_sequences, config.valid_sequences)) *
                      static_cast<double>(config.sequence_steps) * static_cast<double>(config.inputs);
  if (most > 4e9) {
    bad_input("data.train_sequences × sequence_steps × inputs is {:.0f} numbers, more than can be generated",
              most);
  }
  DataSet data;
  data.shape.task = Task::classification;
  data.shape.inputs = config.inputs;
  data.shape.classes = loss == "sigmoid" ? 1 : 2;
  data.shape.class_names = {"0", "1"};
  const uint64_t key = derive_key(seed, kFeatureKey);
  const uint64_t shuffle_key = derive_key(seed, kShuffleKey);
  const auto train = generate(config, config.train_sequences, {key, 0});
  const auto valid = generate(config, config.valid_sequences, {key, 1});
  data.train = make_sequence_source(train, config.batch_size, config.shuffle, shuffle_key);
  data.valid = make_sequence_source(valid, config.batch_size, false, 0);
  data.test = make_sequence_source(valid, config.batch_size, false, 0);
  data.test_is_valid = true;
  return data;
}

}  // namespace coppice
