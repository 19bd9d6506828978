#include "engine/prune/gradients.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "engine/files/safetensors.hpp"
#include "kernels/error.hpp"

namespace coppice {

namespace {

/// Cuts the sequences of one source anew into batches of another size.
class Rebatcher {
 public:
  Rebatcher(BatchSource& source, int64_t size) : source_(&source), size_(size) {}

  /// False when the source has no more.
  bool next(Batch& out) {
    if (size_ == 0) {
      if (read_ == source_->batches()) return false;
      source_->read(read_++, out);
      return true;
    }
    while (read_ < source_->batches() && (size_ < 0 || pending() < size_)) {
      source_->read(read_++, batch_);
      take(batch_);
    }
    const int64_t count = size_ < 0 ? pending() : std::min(size_, pending());
    if (count == 0) return false;
    join(count, out);
    return true;
  }

 private:
  struct Sequence {
    int64_t steps = 0;
    std::vector<int32_t> ids;
    std::vector<float> features;
    std::vector<int32_t> targets;  // one a step, or one
  };

  int64_t pending() const { return static_cast<int64_t>(sequences_.size()) - first_; }

  void take(const Batch& batch) {
    if (batch.carries_state) {
      bad_input(
          "prune.gradient_batch_size: text with carried state can't be cut into other batches; expected 0");
    }
    const bool per_step = static_cast<int64_t>(batch.targets.size()) == batch.steps * batch.batch &&
                          batch.steps > 0 && static_cast<int64_t>(batch.targets.size()) != batch.batch;
    const int64_t inputs = batch.features.empty()
                               ? 0
                               : static_cast<int64_t>(batch.features.size()) / (batch.steps * batch.batch);
    for (int64_t b = 0; b < batch.batch; ++b) {
      Sequence sequence;
      sequence.steps = batch.lengths.empty() ? batch.steps : batch.lengths[static_cast<size_t>(b)];
      for (int64_t t = 0; t < sequence.steps; ++t) {
        const int64_t row = t * batch.batch + b;
        if (!batch.ids.empty()) sequence.ids.push_back(batch.ids[static_cast<size_t>(row)]);
        const float* from = batch.features.data() + row * inputs;
        sequence.features.insert(sequence.features.end(), from, from + inputs);
        if (per_step) sequence.targets.push_back(batch.targets[static_cast<size_t>(row)]);
      }
      if (!per_step) sequence.targets.push_back(batch.targets[static_cast<size_t>(b)]);
      sequences_.push_back(std::move(sequence));
    }
    per_step_ = per_step;
    inputs_ = inputs;
    ids_ = !batch.ids.empty();
  }

  void join(int64_t count, Batch& out) {
    const auto begin = sequences_.begin() + first_, end = begin + count;
    out = {};
    out.batch = count;
    bool equal = true;
    for (auto s = begin; s != end; ++s) {
      equal = equal && s->steps == begin->steps;
      out.steps = std::max(out.steps, s->steps);
    }
    const auto rows = static_cast<size_t>(out.steps * count);
    if (ids_) out.ids.assign(rows, 0);
    out.features.assign(rows * static_cast<size_t>(inputs_), 0.0f);
    out.targets.assign(per_step_ ? rows : static_cast<size_t>(count), -1);
    for (int64_t b = 0; b < count; ++b) {
      const Sequence& s = begin[b];
      if (!equal) out.lengths.push_back(static_cast<int32_t>(s.steps));
      for (int64_t t = 0; t < s.steps; ++t) {
        const auto row = static_cast<size_t>(t * count + b), from = static_cast<size_t>(t);
        if (ids_) out.ids[row] = s.ids[from];
        std::copy_n(s.features.begin() + t * inputs_, inputs_,
                    out.features.begin() + static_cast<int64_t>(row) * inputs_);
        if (per_step_) out.targets[row] = s.targets[from];
      }
      if (!per_step_) out.targets[static_cast<size_t>(b)] = s.targets[0];
    }
    first_ += count;
    if (first_ * 2 > static_cast<int64_t>(sequences_.size())) {
      sequences_.erase(sequences_.begin(), sequences_.begin() + first_);
      first_ = 0;
    }
  }

  BatchSource* source_;
  int64_t size_;
  int64_t read_ = 0;
  Batch batch_;
  std::vector<Sequence> sequences_;
  int64_t first_ = 0;
  int64_t inputs_ = 0;
  bool per_step_ = false, ids_ = false;
};

}  // namespace

Criterion find_criterion(std::string_view name) {
  std::string known;
  for (Criterion criterion : kCriteria) {
    if (to_string(criterion) == name) return criterion;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", to_string(criterion));
  }
  bad_input("prune.criterion: expected one of {}; found \"{}\"", known, name);
}

VectorView<float> GradientStatistics::of(Statistic statistic) const {
  const Buffer* buffer = statistic == Statistic::sum        ? &sum
                         : statistic == Statistic::absolute ? &absolute
                         : statistic == Statistic::squared  ? &squared
                                                            : nullptr;
  return buffer && buffer->bytes() != 0 ? buffer->vector<float>(size) : VectorView<float>{};
}

GradientStatistics make_statistics(ParameterStore& store, std::optional<Statistic> only) {
  GradientStatistics statistics;
  statistics.size = store.size();
  const auto make = [&](Statistic kind, Buffer& buffer) {
    if (only && *only != kind) return;
    buffer =
        Buffer(store.backend(), store.size() * static_cast<int64_t>(sizeof(float)), "gradient statistics");
    store.backend().fill_zero(buffer.data(), buffer.bytes());
  };
  make(Statistic::sum, statistics.sum);
  make(Statistic::absolute, statistics.absolute);
  make(Statistic::squared, statistics.squared);
  return statistics;
}

GradientStatistics collect_gradients(Network& network, BatchSource& source, const PruneConfig& config,
                                     std::string_view loss_reduction, std::optional<Statistic> only,
                                     ProgressListener* listener, const StopToken* stop) {
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;
  ParameterStore& store = network.store();
  Backend& backend = network.backend();
  GradientStatistics statistics = make_statistics(store, only);
  if (config.gradient_batch_size < -1) {
    bad_input("prune.gradient_batch_size is {}; expected -1 (all sequences), 0 (the data's own) or a size",
              config.gradient_batch_size);
  }
  source.start_epoch(0);
  network.reset_state();
  network.take_totals();
  Rebatcher batches(source, config.gradient_batch_size);
  const int64_t limit =
      config.gradient_batches > 0 ? config.gradient_batches : std::numeric_limits<int64_t>::max();
  const int64_t expected = config.gradient_batch_size == 0 ? std::min(limit, source.batches()) : limit;
  Buffer norm(backend, sizeof(double), "gradient norm");
  const auto began = Clock::now();
  auto told = began;
  Batch batch;
  while (statistics.batches < limit && batches.next(batch)) {
    if (stop && stop->requested.load(std::memory_order_relaxed)) {
      throw Error(ErrorKind::interrupted, "interrupted in stage \"gradients\"");
    }
    network.zero_gradients();
    network.accumulate_gradients(batch, loss_reduction);
    backend.optimizer().accumulate_statistics(store.gradients(), statistics.of(Statistic::sum),
                                              statistics.of(Statistic::absolute),
                                              statistics.of(Statistic::squared));
    ++statistics.batches;
    const auto now = Clock::now();
    if (listener && Seconds(now - told).count() >= 0.1) {
      told = now;
      Progress progress{.stage = "gradients", .batch = statistics.batches, .batches = expected};
      progress.seconds = Seconds(now - began).count();
      if (expected != std::numeric_limits<int64_t>::max()) {
        progress.seconds_left = progress.seconds / static_cast<double>(statistics.batches) *
                                static_cast<double>(expected - statistics.batches);
      } else {
        progress.batches = 0;
      }
      listener->progress(progress);
    }
  }
  network.zero_gradients();
  network.reset_state();
  // Sums carry a value that is not finite to the end: one look there suffices.
  double total = 0.0;
  for (Statistic kind : {Statistic::sum, Statistic::absolute, Statistic::squared}) {
    if (statistics.of(kind).empty()) continue;
    backend.optimizer().gradient_norm(statistics.of(kind), {}, norm.vector<double>(1));
    total += backend.download(norm.vector<double>(1))[0];
  }
  const LossTotals totals = network.take_totals();
  if (!std::isfinite(total) || !std::isfinite(totals.loss)) {
    failure("stage \"gradients\": among {} batches there is a {} that is not finite", statistics.batches,
            std::isfinite(totals.loss) ? "gradient" : "loss");
  }
  return statistics;
}

namespace {

struct Part {
  const char* suffix;
  Statistic statistic;
};
constexpr Part kParts[] = {
    {".sum", Statistic::sum}, {".absolute", Statistic::absolute}, {".squared", Statistic::squared}};

}  // namespace

void save_gradients(const std::filesystem::path& path, ParameterStore& store,
                    const GradientStatistics& statistics, bool force) {
  std::vector<FileTensor> tensors;
  for (const Segment& segment : store.segments()) {
    for (const Part& part : kParts)
      tensors.push_back({segment.name + part.suffix, DType::f32, segment.shape});
  }
  SafetensorsWriter writer(path.string(), std::move(tensors), {{"count", std::to_string(statistics.batches)}},
                           force ? Existing::replace : Existing::refuse);
  for (const Segment& segment : store.segments()) {
    for (const Part& part : kParts) {
      const std::vector<float> host = store.backend().download(
          VectorView<const float>(statistics.of(part.statistic).slice(segment.offset, segment.size())));
      writer.write(segment.name + part.suffix, host.data(), segment.size());
    }
  }
  writer.finish();
}

GradientStatistics load_gradients(const std::filesystem::path& path, ParameterStore& store) {
  const std::unique_ptr<WeightFile> file = open_weights(path.string());
  GradientStatistics statistics = make_statistics(store);
  const auto count = file->metadata().find("count");
  statistics.batches = count == file->metadata().end() ? 1 : std::atoll(count->second.c_str());
  for (const Segment& segment : store.segments()) {
    for (const Part& part : kParts) {
      const std::string name = segment.name + part.suffix;
      if (!file->contains(name)) bad_input("{}: expected a tensor \"{}\", found none", path.string(), name);
      if (file->tensor(name).shape != segment.shape) {
        bad_input("{}: tensor \"{}\" has another shape than the model's \"{}\"", path.string(), name,
                  segment.name);
      }
      const std::vector<float> host = file->read_f32(name);
      store.backend().upload(host, statistics.of(part.statistic).slice(segment.offset, segment.size()));
    }
  }
  return statistics;
}

PruneOutcome prune_store(ParameterStore& store, const PruneConfig& config, uint64_t seed, Statistic kind,
                         VectorView<const float> statistic, double sparsity) {
  StoreStatistics views;
  if (kind == Statistic::sum) views.sum = statistic;
  if (kind == Statistic::absolute) views.absolute = statistic;
  if (kind == Statistic::squared) views.squared = statistic;
  const std::unique_ptr<ParameterSource> source = store_source(store, views);
  PruneOutcome outcome = prune(*source, config, seed, sparsity);
  store.values_changed();
  return outcome;
}

}  // namespace coppice
