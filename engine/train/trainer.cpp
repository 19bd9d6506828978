#include "engine/train/trainer.hpp"

#include <algorithm>
#include <cmath>

#include "engine/prune/gradients.hpp"
#include "engine/train/schedule.hpp"
#include "kernels/error.hpp"

namespace coppice {

namespace {

using Seconds = std::chrono::duration<double>;
constexpr double kTellSeconds = 0.1;

std::string_view unit_name(const DataShape& shape) {
  if (shape.task == Task::classification) return "sequences";
  return shape.character ? "characters" : "words";
}

}  // namespace

double units_of(const Batch& batch, Task task) {
  if (task == Task::classification) return static_cast<double>(batch.batch);
  return static_cast<double>(
      std::count_if(batch.targets.begin(), batch.targets.end(), [](int32_t target) { return target >= 0; }));
}

Evaluation evaluate(Network& network, BatchSource& source, std::string_view stage, ProgressListener* listener,
                    const StopToken* stop) {
  using Clock = std::chrono::steady_clock;
  Evaluation result;
  Batch batch;
  network.reset_state();
  network.take_totals();  // whatever was left there belongs to somebody else
  source.start_epoch(0);
  const auto began = Clock::now();
  auto told = began;
  for (int64_t b = 0; b < source.batches(); ++b) {
    if (stop && stop->requested.load(std::memory_order_relaxed)) {
      throw Error(ErrorKind::interrupted, fmt::format("interrupted in stage \"{}\"", stage));
    }
    source.read(b, batch);
    network.evaluate(batch);
    result.units += units_of(batch, network.data_shape().task);
    const auto now = Clock::now();
    if (listener && Seconds(now - told).count() >= kTellSeconds) {
      told = now;
      const double elapsed = Seconds(now - began).count();
      Progress progress{.stage = stage, .batch = b + 1, .batches = source.batches()};
      progress.unit = unit_name(network.data_shape());
      progress.seconds = elapsed;
      progress.units_per_second = result.units / elapsed;
      progress.seconds_left =
          elapsed / static_cast<double>(b + 1) * static_cast<double>(source.batches() - b - 1);
      listener->progress(progress);
    }
  }
  result.totals = network.take_totals();
  result.seconds = Seconds(Clock::now() - began).count();
  network.reset_state();
  if (!std::isfinite(result.totals.loss)) {
    failure("stage \"{}\": the loss of the evaluation is {}", stage, result.totals.loss);
  }
  return result;
}

Trainer::Trainer(Network& network, TrainerSetup setup) : network_(&network), setup_(std::move(setup)) {
  ParameterStore& store = network.store();
  Backend& backend = network.backend();
  const TrainConfig& config = setup_.config;
  const int64_t batches = setup_.train->batches();
  if (batches == 0) {
    bad_input("stage \"{}\": the training data make no batch; expected at least one", setup_.stage);
  }
  if (config.epochs < 0)
    bad_input("stage \"{}\": epochs is {}, expected 0 or more", setup_.stage, config.epochs);
  steps_total_ = total_steps(config, batches);
  rate_at(config, 0, 0, batches);  // refuses an unknown schedule before an hour of training

  const int64_t bytes = store.size() * static_cast<int64_t>(sizeof(float));
  for (int slot = 0; slot < optimizer_slots(config.optimizer); ++slot) {
    optimizer_state_[slot] = Buffer(backend, bytes, "optimizer state");
    backend.fill_zero(optimizer_state_[slot].data(), bytes);
  }
  if (config.keep_best && setup_.valid) {
    best_ = Buffer(backend, bytes, "the best epoch's weights");
    backend.copy(store.values().data, best_.data(), bytes);
  }
  if (setup_.gradual) {
    gradual_ = std::make_unique<GradualPruner>(store, *setup_.gradual, setup_.seed, steps_total_);
    if (!store.masked()) store.enable_mask();
  }
  // A read waits for the device: on the CPU there is nothing to wait for, and the error names its very batch.
  read_every_ = backend.device().type == Device::Type::cpu ? 1 : 32;
  norms_ = Buffer(backend, read_every_ * static_cast<int64_t>(sizeof(double)), "gradient norms");
  backend.fill_zero(norms_.data(), norms_.bytes());
}

Trainer::~Trainer() = default;

std::vector<StateArray> Trainer::arrays() {
  std::vector<StateArray> list;
  const int64_t size = network_->store().size();
  auto add = [&](std::string name, const Buffer& buffer, int64_t count) {
    if (buffer.bytes() != 0)
      list.push_back({std::move(name), DType::f32, buffer.data(), count, buffer.device()});
  };
  add("optimizer.0", optimizer_state_[0], size);
  add("optimizer.1", optimizer_state_[1], size);
  add("best", best_, size);
  if (gradual_ && gradual_->statistic().size != 0) {
    const VectorView<float> statistic = gradual_->statistic();
    list.push_back({"statistic", DType::f32, statistic.data, statistic.size, statistic.device});
  }
  return list;
}

void Trainer::restore(const TrainerState& state) {
  state_ = state;
  if (gradual_) gradual_->restore(state.sparsity, state.cuts_complete, state.observed);
}

int64_t Trainer::steps_kept() const {
  return best_.bytes() != 0 && state_.best_epoch >= 0 ? state_.best_step : state_.step;
}

std::string Trainer::where(int64_t batch) const {
  return fmt::format("stage \"{}\", epoch {} of {}, batch {} of {}", setup_.stage, state_.epoch + 1,
                     setup_.config.epochs, batch + 1, setup_.train->batches());
}

void Trainer::run() {
  began_ = told_ = saved_ = Clock::now();
  // Whoever comes next may change masks, or want the gradients of what is cut.
  struct DenseAgain {
    Network* network;
    ~DenseAgain() {
      if (network != nullptr) network->use_layout("dense");
    }
  } dense_again{setup_.sparse_layout.empty() ? nullptr : network_};
  use_masks();
  if (gradual_ && state_.step == 0 && gradual_->cuts_after(0)) cut_along(0);
  while (!state_.finished && state_.epoch < setup_.config.epochs && state_.step < steps_total_) {
    train_epoch();
  }
  if (best_.bytes() != 0 && state_.best_epoch >= 0) {
    ParameterStore& store = network_->store();
    network_->backend().copy(best_.data(), store.values().data, best_.bytes());
    store.values_changed();
  }
  state_.finished = true;
}

// Until its last cut a gradual schedule scores by gradients of everything.
void Trainer::use_masks() {
  if (setup_.sparse_layout.empty() || !network_->store().masked()) return;
  if (gradual_ && !gradual_->complete()) return;
  matrices_ = network_->use_masks(setup_.sparse_layout, setup_.sparse_from);
}

void Trainer::train_epoch() {
  const TrainConfig& config = setup_.config;
  const int64_t batches = setup_.train->batches();
  const int64_t group = std::max<int64_t>(config.accumulate, 1);
  const uint64_t key = derive_key(setup_.seed, 0x64726f706f7574);  // dropout's
  setup_.train->start_epoch(setup_.first_epoch + state_.epoch);
  if (state_.batch == 0) network_->reset_state();
  network_->put_totals(state_.totals);
  epoch_began_ = Clock::now();
  epoch_seconds_before_ = state_.epoch_seconds;

  Batch batch;
  for (int64_t b = state_.batch; b < batches; ++b) {
    if (b % group == 0) {
      if (state_.step >= steps_total_) break;
      network_->zero_gradients();
    }
    setup_.train->read(b, batch);
    const auto counter = static_cast<uint64_t>((setup_.first_epoch + state_.epoch) * batches + b);
    network_->accumulate_gradients(batch, config.loss_reduction, RandomStream{key, counter});
    const double units = units_of(batch, network_->data_shape().task);
    state_.units += units;
    units_here_ += units;
    batches_here_ += 1;
    if ((b + 1) % group != 0 && b + 1 != batches) continue;

    rate_ = rate_at(config, state_.epoch, state_.step, batches);
    step(rate_);
    state_.batch = b + 1;
    const auto now = Clock::now();
    state_.epoch_seconds = epoch_seconds_before_ + Seconds(now - epoch_began_).count();
    if (Seconds(now - told_).count() >= kTellSeconds) tell(false, std::numeric_limits<double>::quiet_NaN());
    if (b + 1 == batches) break;
    const bool stop = setup_.stop && setup_.stop->requested.load(std::memory_order_relaxed);
    const bool save = config.checkpoint_seconds > 0 &&
                      Seconds(now - saved_).count() >= static_cast<double>(config.checkpoint_seconds);
    if (setup_.save_checkpoint && (stop || save)) {
      read_back();
      setup_.save_checkpoint();
      saved_ = Clock::now();
    }
    if (stop) {
      throw Error(ErrorKind::interrupted, fmt::format("interrupted after {}", where(b)));
    }
  }
  read_back();
  finish_epoch();
}

void Trainer::step(double rate) {
  ParameterStore& store = network_->store();
  OptimizerOps& optimizer = network_->backend().optimizer();
  if (gradual_) {
    gradual_->observe(state_.step + 1);
    state_.observed = gradual_->observed();
  }

  const VectorView<double> norm = norms_.vector<double>(1, norms_used_);
  optimizer.gradient_norm(store.gradients(), store.mask(), norm);
  ++norms_used_;
  OptimizerSettings settings = setup_.config.optimizer;
  settings.rate = static_cast<float>(rate);
  settings.step = state_.step + 1;
  auto slot = [&](int i) {
    return optimizer_state_[i].bytes() != 0 ? optimizer_state_[i].vector<float>(store.size())
                                            : VectorView<float>{};
  };
  optimizer.update(settings, static_cast<float>(setup_.config.clip), norm, store.values(), store.gradients(),
                   store.mask(), slot(0), slot(1));
  store.values_changed();
  ++state_.step;
  if (norms_used_ == read_every_) read_back();
  if (gradual_ && gradual_->cuts_after(state_.step)) cut_along(state_.step);
}

// Losses and norms of the steps since the last read. A step whose norm is not finite has changed nothing, so
// the weights that a checkpoint holds are still good.
void Trainer::read_back() {
  if (norms_used_ == 0) return;
  const LossTotals totals = network_->take_totals();
  const std::vector<double> norms = network_->backend().download(norms_.vector<double>(norms_used_));
  const int64_t first = state_.step - norms_used_ + 1;
  norms_used_ = 0;
  const auto bad = std::find_if(norms.begin(), norms.end(), [](double n) { return !std::isfinite(n); });
  if (std::isfinite(totals.loss) && bad == norms.end()) {
    // They go on where they are: a sum taken up from a checkpoint is made of the same additions.
    state_.totals = totals;
    network_->put_totals(totals);
    return;
  }
  const int64_t per_epoch = steps_per_epoch(setup_.config, setup_.train->batches());
  const int64_t group = std::max<int64_t>(setup_.config.accumulate, 1);
  const int64_t step = bad == norms.end() ? state_.step : first + (bad - norms.begin());
  const auto batches_end = [&](int64_t s) {
    return std::min(((s - 1) % per_epoch + 1) * group, setup_.train->batches());
  };
  const int64_t b = (step - 1) % per_epoch * group;
  refuse_unless_finite(bad == norms.end() ? (first - 1) % per_epoch * group : b, batches_end(step));
  if (!std::isfinite(totals.loss)) {
    failure("{}: the loss is {}; a lower rate, or clip, may help", where(b), totals.loss);
  }
  failure("{}: the norm of the gradient is {}; a lower rate, or clip, may help", where(b), *bad);
}

// Where several steps are read back at once, the batch at fault is long gone: they are read again.
void Trainer::refuse_unless_finite(int64_t first, int64_t last) {
  Batch batch;
  for (int64_t b = first; b < last; ++b) {
    setup_.train->read(b, batch);
    const auto value =
        std::find_if(batch.features.begin(), batch.features.end(), [](float f) { return !std::isfinite(f); });
    if (value == batch.features.end()) continue;
    const int64_t inputs = std::max<int64_t>(network_->data_shape().inputs, 1);
    const int64_t row = (value - batch.features.begin()) / inputs;
    bad_input("{}: the data hold {} (step {}, sequence {} of the batch, feature {}); expected finite numbers",
              where(b), *value, row / batch.batch, row % batch.batch,
              (value - batch.features.begin()) % inputs);
  }
}

void Trainer::cut_along(int64_t step) {
  if (norms_used_ != 0) read_back();
  // What follows may run the network over other data.
  const std::vector<float> state = network_->download_state();
  const int64_t state_batch = network_->state_batch();
  uint64_t had = gradual_->observed();
  const PruneOutcome outcome = gradual_->cut(step, [&] {
    PruneConfig pass = *setup_.gradual;
    pass.gradient_batch_size = 0;
    const GradientStatistics statistics =
        collect_gradients(*network_, *setup_.train, pass, setup_.config.loss_reduction, gradual_->kind(),
                          setup_.listener, setup_.stop);
    had = static_cast<uint64_t>(statistics.batches);
    gradual_->observe_statistics(statistics.of(gradual_->kind()), static_cast<uint64_t>(statistics.batches));
  });
  state_.sparsity = gradual_->sparsity();
  state_.observed = gradual_->observed();
  state_.cuts_complete = gradual_->complete();
  if (setup_.cut_done) {
    const CutRecord record{setup_.stage, step, gradual_->sparsity(), outcome.kept, had};
    setup_.cut_done(record, outcome, gradual_->complete());
  }
  use_masks();
  setup_.train->start_epoch(setup_.first_epoch + state_.epoch);
  network_->upload_state(state, state_batch);
  network_->put_totals(state_.totals);
}

void Trainer::finish_epoch() {
  const TrainConfig& config = setup_.config;
  ParameterStore& store = network_->store();
  state_.epoch_seconds = epoch_seconds_before_ + Seconds(Clock::now() - epoch_began_).count();
  EpochRecord record{.stage = setup_.stage, .epoch = state_.epoch, .steps = state_.step, .rate = rate_};
  record.train_loss = state_.totals.mean();
  record.train_accuracy = state_.totals.count > 0 ? state_.totals.correct / state_.totals.count : 0.0;
  record.sparsity = state_.sparsity;
  record.seconds = state_.epoch_seconds;
  record.units_per_second = state_.epoch_seconds > 0 ? state_.units / state_.epoch_seconds : 0.0;
  if (setup_.valid) {
    const Evaluation valid = evaluate(
        *network_, *setup_.valid,
        fmt::format("{}, validation after epoch {} of {}", setup_.stage, state_.epoch + 1, config.epochs));
    record.valid_loss = valid.totals.mean();
    record.valid_accuracy = valid.totals.count > 0 ? valid.totals.correct / valid.totals.count : 0.0;
    // Before the last cut of a gradual schedule the model is not yet what was asked for: it can't be the
    // best.
    if (!gradual_ || gradual_->complete()) {
      if (record.valid_loss < state_.best_loss) {
        state_.best_loss = record.valid_loss;
        state_.best_epoch = state_.epoch;
        state_.best_step = state_.step;
        state_.stale = 0;
        if (best_.bytes() != 0) network_->backend().copy(store.values().data, best_.data(), best_.bytes());
      } else if (++state_.stale >= config.patience && config.patience > 0) {
        state_.finished = true;
      }
    }
  }
  tell(true, record.valid_loss);
  if (setup_.epoch_done) setup_.epoch_done(record);
  ++state_.epoch;
  state_.batch = 0;
  state_.totals = {};
  state_.units = 0.0;
  state_.epoch_seconds = 0.0;

  const auto now = Clock::now();
  const bool stop = setup_.stop && setup_.stop->requested.load(std::memory_order_relaxed);
  // Epochs of milliseconds would spend their time on fsync: those wait for a twentieth of the interval.
  const double wait = static_cast<double>(config.checkpoint_seconds) / 20.0;
  if (setup_.save_checkpoint && (stop || Seconds(now - saved_).count() >= wait)) {
    setup_.save_checkpoint();
    saved_ = Clock::now();
  }
  if (stop) {
    throw Error(ErrorKind::interrupted, fmt::format("interrupted after stage \"{}\", epoch {} of {}",
                                                    setup_.stage, state_.epoch, config.epochs));
  }
}

void Trainer::tell(bool at_end_of_epoch, double valid_loss) {
  told_ = Clock::now();
  if (!setup_.listener) return;
  const int64_t batches = setup_.train->batches();
  Progress progress{.stage = setup_.stage, .epoch = state_.epoch, .epochs = setup_.config.epochs};
  progress.batch = state_.batch;
  progress.batches = batches;
  if (state_.totals.count > 0) progress.loss = state_.totals.mean();
  progress.valid_loss = valid_loss;
  progress.rate = rate_;
  if (gradual_) progress.sparsity = state_.sparsity;
  progress.unit = unit_name(network_->data_shape());
  progress.seconds = Seconds(told_ - began_).count();
  if (progress.seconds > 0) progress.units_per_second = units_here_ / progress.seconds;
  const double left = static_cast<double>(steps_total_ - state_.step) *
                      static_cast<double>(std::max<int64_t>(setup_.config.accumulate, 1));
  if (batches_here_ > 0) progress.seconds_left = progress.seconds / batches_here_ * left;
  if (at_end_of_epoch) {
    setup_.listener->epoch_ends(progress);
  } else {
    setup_.listener->progress(progress);
  }
}

}  // namespace coppice
