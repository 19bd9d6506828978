#include "engine/data/sequences.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "engine/data/sequence_files.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

// Consumers of random numbers in this folder; far from the small numbers that layers use.
constexpr uint64_t kShuffleKey = 0x6461'7461'0000'0001;
constexpr uint64_t kFeatureKey = 0x6461'7461'0000'0002;
constexpr uint64_t kSplitKey = 0x6461'7461'0000'0003;

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

namespace {

using Sequences = std::shared_ptr<const SequenceData>;

/// Labels of `from` as classes of `class_names`; shares nothing with `from` afterwards.
Sequences as_classes(LabelledSequences from, const std::vector<std::string>& class_names, int64_t inputs) {
  if (from.data.inputs != inputs) {
    bad_input("{}: its sequences have {} inputs a step, expected {}", from.origin, from.data.inputs, inputs);
  }
  std::vector<int32_t> classes;  // by label of the file
  for (const std::string& name : from.label_names) {
    const auto found = std::find(class_names.begin(), class_names.end(), name);
    classes.push_back(found == class_names.end() ? -1 : static_cast<int32_t>(found - class_names.begin()));
  }
  for (size_t n = 0; n < from.data.labels.size(); ++n) {
    const size_t label = static_cast<size_t>(from.data.labels[n]);
    if (classes[label] < 0) {
      const std::string where = n < from.lines.size() ? fmt::format("{}:{}", from.origin, from.lines[n])
                                                      : fmt::format("{}: element {}", from.origin, n);
      bad_input("{}: the label {} is out of range: the {} classes are {} … {}", where,
                from.label_names[label], class_names.size(), class_names.front(), class_names.back());
    }
    from.data.labels[n] = classes[label];
  }
  return std::make_shared<const SequenceData>(std::move(from.data));
}

Sequences subset(const SequenceData& from, const std::vector<int64_t>& chosen) {
  auto data = std::make_shared<SequenceData>();
  data->inputs = from.inputs;
  data->offsets.push_back(0);
  for (int64_t n : chosen) {
    const float* first = from.features.data() + from.offsets[static_cast<size_t>(n)] * from.inputs;
    data->features.insert(data->features.end(), first, first + from.length(n) * from.inputs);
    data->offsets.push_back(data->offsets.back() + from.length(n));
    data->labels.push_back(from.labels[static_cast<size_t>(n)]);
  }
  return data;
}

/// One part of a file that [data] names, or that is to be evaluated: of an .npz the first of `parts` that it
/// has.
LabelledSequences read_sequences(const std::string& path, std::initializer_list<const char*> parts) {
  if (!is_npz(path)) return read_ts(path);
  for (const char* part : parts) {
    if (npz_has_part(path, part)) return read_npz(path, part);
  }
  return read_npz(path, *parts.begin());  // says what is missing
}

void check_fractions(double valid, double test) {
  if (!(valid >= 0.0) || !(test >= 0.0) || !(valid + test < 1.0)) {
    bad_input(
        "data.valid_fraction is {} and data.test_fraction {}, expected two fractions that leave some "
        "training "
        "data",
        valid, test);
  }
}

}  // namespace

DataSet open_sequences(const DataConfig& config, uint64_t seed, std::string_view loss) {
  if (config.train.empty()) bad_input("data.train names no file");
  LabelledSequences file = read_sequences(config.train, {"train", ""});
  DataSet data;
  data.shape.task = Task::classification;
  data.shape.inputs = file.data.inputs;
  data.shape.class_names = file.label_names;
  const int64_t classes = static_cast<int64_t>(file.label_names.size());
  if (classes < 2)
    bad_input("{}: all labels are {}, expected at least two classes", file.origin, file.label_names[0]);
  if (loss == "sigmoid" && classes != 2) {
    bad_input("{}: has {} classes, but the sigmoid loss takes two; choose softmax", file.origin, classes);
  }
  data.shape.classes = loss == "sigmoid" ? 1 : classes;
  const std::vector<std::string>& names = data.shape.class_names;
  const int64_t inputs = data.shape.inputs;
  Sequences train = as_classes(std::move(file), names, inputs);

  const auto given = [&](const std::string& path, const char* part) -> Sequences {
    if (!path.empty()) return as_classes(read_sequences(path, {part, "", "test", "valid"}), names, inputs);
    if (is_npz(config.train) && npz_has_part(config.train, part)) {
      return as_classes(read_npz(config.train, part), names, inputs);
    }
    return nullptr;
  };
  Sequences valid = given(config.valid, "valid"), test = given(config.test, "test");
  const bool valid_serves = test == nullptr && valid != nullptr && is_npz(config.train);
  const double valid_fraction = valid == nullptr ? config.valid_fraction : 0.0;
  const double test_fraction = test == nullptr && !valid_serves ? config.test_fraction : 0.0;
  check_fractions(valid_fraction, test_fraction);
  const auto share = [&](double fraction) {
    return static_cast<int64_t>(fraction * static_cast<double>(train->count()));
  };
  const int64_t valid_count = share(valid_fraction), test_count = share(test_fraction);
  if (valid == nullptr && valid_count == 0) {
    bad_input("{}: data.valid names no file, and data.valid_fraction = {} of {} sequences is none",
              config.train, config.valid_fraction, train->count());
  }
  if (valid_count + test_count > 0) {
    std::vector<int64_t> order(static_cast<size_t>(train->count()));
    std::iota(order.begin(), order.end(), int64_t{0});
    shuffle(order.data(), train->count(), {derive_key(seed, kSplitKey), 0});
    const auto first_test = order.end() - test_count, first_valid = first_test - valid_count;
    const auto part = [&](auto begin, auto end) {
      std::vector<int64_t> chosen(begin, end);
      std::sort(chosen.begin(), chosen.end());
      return subset(*train, chosen);
    };
    if (valid_count > 0) valid = part(first_valid, first_test);
    if (test_count > 0) test = part(first_test, order.end());
    train = part(order.begin(), first_valid);
  }
  data.test_is_valid = test == nullptr;
  if (test == nullptr) test = valid;
  data.train = make_sequence_source(train, config.batch_size, config.shuffle, derive_key(seed, kShuffleKey));
  data.valid = make_sequence_source(valid, config.batch_size, false, 0);
  data.test = make_sequence_source(test, config.batch_size, false, 0);
  return data;
}

std::unique_ptr<BatchSource> open_sequence_split(const DataConfig& config, const std::string& path,
                                                 const DataShape& shape) {
  LabelledSequences file = read_sequences(path, {"test", "valid", "", "train"});
  std::vector<std::string> names = shape.class_names;
  if (names.empty()) {  // a model that names no classes: they are numbered from 0
    for (int64_t c = 0; c < std::max<int64_t>(shape.classes, 2); ++c) names.push_back(std::to_string(c));
  }
  return make_sequence_source(as_classes(std::move(file), names, shape.inputs), config.batch_size, false, 0);
}

}  // namespace coppice
