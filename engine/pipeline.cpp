#include "engine/pipeline.hpp"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <ctime>
#include <fstream>
#include <memory>
#include <span>

#include "engine/config/schema.hpp"
#include "engine/data/data.hpp"
#include "engine/files/atomic_write.hpp"
#include "engine/files/input_file.hpp"
#include "engine/files/safetensors.hpp"
#include "engine/model/model_folder.hpp"
#include "engine/prune/gradients.hpp"
#include "engine/prune/gradual.hpp"
#include "engine/prune/mask_file.hpp"
#include "engine/prune/plan.hpp"
#include "engine/report/html.hpp"
#include "engine/report/json.hpp"
#include "engine/report/metrics.hpp"
#include "engine/sparse/layout_policy.hpp"
#include "engine/train/checkpoint.hpp"
#include "engine/train/schedule.hpp"
#include "engine/train/trainer.hpp"
#include "engine/verbs.hpp"
#include "kernels/error.hpp"

namespace coppice {

BackendOptions backend_options(const Recipe& recipe) {
  const MatmulPrecision matmul = recipe.matmul == "tf32"   ? MatmulPrecision::tf32
                                 : recipe.matmul == "bf16" ? MatmulPrecision::bf16
                                                           : MatmulPrecision::fp32;
  return {.threads = static_cast<int>(recipe.threads), .matmul = matmul};
}

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

// Work that is lost when a process is killed costs no more than this to do again.
constexpr double kSaveSeconds = 2.0;

// From this share of zeros on, a retraining step of a matrix is faster sparse on a processor: the gradient is
// what decides (bench/NOTES.md).
constexpr double kSparsityThatTrainsFaster = 0.75;

// The sparse layout adds the same products in another order: float32 sums over a few thousand terms, over a
// sequence.
constexpr double kProbeTolerance = 1e-4;

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string describe(const ModelConfig& model, const DataShape& shape) {
  std::string cell = model.cell == "lstm" ? "LSTM" : model.cell == "gru" ? "GRU" : "SimpleRNN";
  if (cell == "SimpleRNN") cell += fmt::format(" ({})", model.cell.substr(4));
  std::string text = fmt::format("{}{}{} {}", model.layers > 1 ? fmt::format("{} x ", model.layers) : "",
                                 model.bidirectional ? "bidirectional " : "", cell, model.hidden);
  if (shape.vocabulary > 0 && model.embedding > 0) text += fmt::format(", embedding {}", model.embedding);
  if (shape.vocabulary > 0) text += fmt::format(", vocabulary {}", shape.vocabulary);
  if (shape.inputs > 0) text += fmt::format(", {} inputs", shape.inputs);
  if (shape.task == Task::classification)
    text += fmt::format(", {} classes", std::max<int64_t>(shape.classes, 2));
  return text;
}

RunReport::Machine machine_of(const DeviceInfo& info) {
  RunReport::Machine machine;
  machine.name = info.name;
  machine.detail = info.detail;
  utsname system{};
  if (uname(&system) == 0)
    machine.system = fmt::format("{} {} {}", system.sysname, system.release, system.machine);
  machine.cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  machine.memory_bytes = info.memory_bytes;
  return machine;
}

/// What tells one text from another, well enough to notice that a file was exchanged.
std::vector<int64_t> fingerprint(const DataSet& data) {
  std::vector<int64_t> numbers = {data.shape.inputs, data.shape.vocabulary, data.shape.classes};
  for (const auto* split : {&data.train, &data.valid, &data.test}) {
    numbers.push_back(*split ? (*split)->batches() : 0);
    numbers.push_back(*split ? (*split)->targets() : 0);
  }
  return numbers;
}

bool has_batches(const std::unique_ptr<BatchSource>& source) {
  return source && source->batches() > 0;
}

/// The split on which models are compared.
std::pair<BatchSource*, std::string> held_out(DataSet& data) {
  if (has_batches(data.test)) return {data.test.get(), data.test_is_valid ? "valid" : "test"};
  if (has_batches(data.valid)) return {data.valid.get(), "valid"};
  return {data.train.get(), "train"};
}

bool is_gradual(const Recipe& recipe) {
  return recipe.prune.schedule == "gradual";
}
int64_t rounds_of(const Recipe& recipe) {
  return recipe.prune.schedule == "iterative" ? std::max<int64_t>(recipe.prune.rounds, 1) : 1;
}

bool trains(std::string_view stage) {
  return stage.starts_with("train") || stage.starts_with("retrain") || stage.starts_with("dense_continued");
}

/// Held while a process works on a run's folder: two at once would write into each other's files.
class FolderLock {
 public:
  FolderLock() = default;
  ~FolderLock() { release(); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  void take(const fs::path& folder) {
    descriptor_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor_ >= 0 && ::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      release();
      bad_input("{}: another process is working on this run", folder.string());
    }
  }
  void release() {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = -1;
  }

 private:
  int descriptor_ = -1;
};

/// A run in its folder: stages in a row, each of which leaves its files complete before the checkpoint names
/// the next one.
class Run {
 public:
  Run(const std::string& verb, Recipe recipe, const fs::path& folder, const RunOptions& options,
      const fs::path& output = {}, const fs::path& source = {});
  Run(const fs::path& folder, const RunOptions& options);  // takes a run up again

  RunReport execute();

 private:
  RunReport execute_stages();
  void open();
  void check();
  std::vector<std::string> stages() const;
  void run_stage(const std::string& stage);
  void save(Trainer* trainer);

  void load_weights_of_recipe();
  void load_source();
  void train_dense();
  void prune_round(int64_t round);
  void retrain_round(const std::string& stage, int64_t round);
  void continue_dense(const std::string& stage, int64_t round);
  void run_sparse();
  LayoutPolicy layout_policy() const;
  void resolve_layouts(const Network& sparse);
  void export_model();
  void write_report();

  /// Trains to the end; returns the steps done, and adds those behind the result to the checkpoint's.
  int64_t train(const std::string& stage, const TrainConfig& config, int64_t first_epoch,
                const PruneConfig* gradual, bool masks_hold = false);
  ModelMetrics measure(const std::string& stage, Network& network, int64_t steps);
  void record(const CutRecord& cut, const PruneOutcome& outcome);
  void save_model_folder(const std::string& name, WeightEncoding encoding = WeightEncoding::plain);
  const Vocabulary* vocabulary() const { return data_.vocabulary ? &*data_.vocabulary : nullptr; }
  uint64_t weight_file_bytes(const std::string& name) const;
  void write_metrics() const;
  double& seconds_of(const std::string& stage);
  double seconds_so_far(const std::string& stage) const;
  std::string path(std::string_view name) const { return (folder_ / name).string(); }
  std::string checkpoint_path() const { return path("checkpoint/state.safetensors"); }
  RunReport& report() { return checkpoint_.report; }

  Recipe recipe_;
  fs::path folder_;
  FolderLock lock_;
  RunOptions options_;
  std::unique_ptr<Backend> backend_;
  DataSet data_;
  std::unique_ptr<Network> network_;
  Checkpoint checkpoint_;
  bool fresh_ = false;  // begun by this process, and no checkpoint saved yet
  std::string stage_;
  double stage_seconds_before_ = 0.0;
  Clock::time_point stage_began_{};
  Clock::time_point saved_{};
};

Run::Run(const std::string& verb, Recipe recipe, const fs::path& folder, const RunOptions& options,
         const fs::path& output, const fs::path& source)
    : recipe_(with_absolute_paths(std::move(recipe))), folder_(folder), options_(options) {
  const Existing existing = options_.force ? Existing::replace : Existing::refuse;
  check_output(folder_.string(), existing);
  if (!output.empty()) {
    check_output(output.string(), existing);
    AtomicFolder(output.string(), existing);  // may it be replaced? Known now, not after hours of training
  }
  checkpoint_.verb = verb;
  checkpoint_.output = output.empty() ? "" : fs::absolute(output).string();
  checkpoint_.source = source.empty() ? "" : fs::absolute(source).string();
  checkpoint_.threads = recipe_.threads;
  open();
  recipe_.threads = checkpoint_.threads = std::max(backend_->info().threads, 0);
  recipe_.device = to_string(backend_->device());
  checkpoint_.data = fingerprint(data_);
  checkpoint_.next = stages().front();
  check();
  report().started = now_utc();
  report().name = recipe_.name;
  report().folder = folder.string();

  // Only now, with recipe, data and model known to be good, does the folder appear.
  {
    AtomicFolder building(folder_.string(), existing);
    write_file((fs::path(building.building()) / "recipe.toml").string(), write_recipe(recipe_));
    fs::create_directory(fs::path(building.building()) / "checkpoint");
    write_checkpoint((fs::path(building.building()) / "checkpoint/state.safetensors").string(), checkpoint_);
    building.commit();
  }
  lock_.take(folder_);
  fresh_ = true;
  network_->initialise(recipe_.seed);
}

Run::Run(const fs::path& folder, const RunOptions& options) : folder_(folder), options_(options) {
  if (!fs::is_directory(folder_))
    bad_input("{}: no such folder; expected one that a run has made", folder_.string());
  for (const char* needed : {"recipe.toml", "checkpoint/state.safetensors"}) {
    if (!fs::exists(folder_ / needed))
      bad_input("{}: not the folder of a run: it has no {}", folder_.string(), needed);
  }
  lock_.take(folder_);
  recipe_ = read_recipe(folder_ / "recipe.toml");
  checkpoint_ = read_checkpoint(checkpoint_path());
  report().folder = folder.string();
  if (checkpoint_.next.empty()) return;
  ++report().resumed;
  open();
  if (const int64_t threads = backend_->info().threads; threads != checkpoint_.threads) {
    bad_input(
        "{}: the run was begun with {} threads and needs as many to go on bit for bit, but this device has "
        "{}",
        folder_.string(), checkpoint_.threads, threads);
  }
  if (fingerprint(data_) != checkpoint_.data) {
    bad_input("{}: the data of [data] have changed since the run was begun", folder_.string());
  }
  if (checkpoint_.find("values")) {
    restore(checkpoint_, *network_, nullptr);
  } else {
    network_->initialise(recipe_.seed);
  }
}

void Run::open() {
  std::string note;
  BackendOptions backend = backend_options(recipe_);
  backend.threads = static_cast<int>(checkpoint_.threads);
  backend_ = open_backend(recipe_.device, backend, &note);
  std::optional<Vocabulary> fixed;
  if (!checkpoint_.source.empty()) {
    const ModelDescription source = read_model(checkpoint_.source);
    recipe_.model = source.model;
    fixed = source.vocabulary;
  } else if (!recipe_.model.weights.empty()) {
    const ModelConfig found = model_of_weights(recipe_.model.weights, recipe_.model);
    check_model_is_meant(recipe_, found);
    recipe_.model = found;
    fixed = model_vocabulary(recipe_.model.weights);
  }
  data_ = open_data(recipe_.data, recipe_.seed, fixed ? &*fixed : nullptr, recipe_.model.loss);
  network_ = std::make_unique<Network>(*backend_, recipe_.model, data_.shape);
  if (!checkpoint_.source.empty()) {
    check_same_shape(read_model(checkpoint_.source).shape, data_.shape, checkpoint_.source);
  }

  recipe_.prune = with_decoder(std::move(recipe_.prune));
  RunReport& r = report();
  r.task = data_.shape.task == Task::classification ? "classification" : "language_model";
  r.metric = metric_of(data_.shape);
  r.unit = unit_of(data_.shape);
  r.model = describe(recipe_.model, data_.shape);
  r.parameters.total = static_cast<uint64_t>(network_->store().parameter_count());
  r.criterion = recipe_.prune.criterion;
  r.formula = formula(find_criterion(recipe_.prune.criterion));
  r.scope = recipe_.prune.scope;
  r.pattern = recipe_.prune.pattern;
  r.schedule = recipe_.prune.schedule;
  r.sparsity = recipe_.prune.sparsity;
  r.percentile = recipe_.prune.percentile;
  r.layout = backend_->layout_of(recipe_.layout);
  r.seed = recipe_.seed;
  const DeviceInfo info = backend_->info();
  r.device = to_string(backend_->device());
  r.device_note = note;
  r.threads = info.threads;
  r.machine = machine_of(info);
  r.versions = {{"coppice", COPPICE_VERSION}, {"compiler", __VERSION__}};
}

/// What would otherwise be found out after the training.
void Run::check() {
  const int64_t batches = data_.train->batches();
  for (const TrainConfig* config : {&recipe_.train, &recipe_.retrain}) rate_at(*config, 0, 0, batches);
  if (checkpoint_.verb != "run") return;
  make_plan(store_source(network_->store())->tensors(), recipe_.prune, recipe_.seed);
  if (is_gradual(recipe_)) {
    const GradualPruner pruner(network_->store(), recipe_.prune, recipe_.seed,
                               total_steps(recipe_.retrain, batches));
  }
  const std::vector<std::string_view> layouts = backend_->layouts();
  const auto check_layout = [&](const std::string& key, std::string_view layout) {
    if (std::find(layouts.begin(), layouts.end(), backend_->layout_of(layout)) == layouts.end()) {
      bad_input("{}: expected one of {}, found \"{}\"", key, fmt::join(layouts, ", "), layout);
    }
  };
  check_layout("sparse.layout", recipe_.layout);
  const std::map<std::string, std::string> matrices = network_->layouts();
  for (const auto& [tensor, layout] : layout_policy().tensors) {
    if (!matrices.contains(tensor)) bad_input("sparse.layouts: no matrix \"{}\" in the model", tensor);
    check_layout("sparse.layouts of " + tensor, layout);
  }
}

std::vector<std::string> Run::stages() const {
  const int64_t rounds = rounds_of(recipe_);
  const auto numbered = [&](const char* name, int64_t round) {
    return rounds > 1 ? fmt::format("{} {}", name, round) : std::string(name);
  };
  if (checkpoint_.verb == "retrain") return {"load", "retrain", "evaluate retrained", "export"};
  std::vector<std::string> list = {recipe_.model.weights.empty() ? "train" : "load", "evaluate dense"};
  if (checkpoint_.verb == "train") {
    list.push_back("export");
    return list;
  }
  for (int64_t round = 1; round <= rounds; ++round) {
    if (!is_gradual(recipe_)) {
      list.push_back(numbered("prune", round));
      if (round == rounds) list.push_back("evaluate pruned");
    }
    list.push_back(numbered("retrain", round));
  }
  list.insert(list.end(), {"evaluate retrained", "sparse"});
  if (recipe_.dense_continued) {
    for (int64_t round = 1; round <= rounds; ++round) list.push_back(numbered("dense_continued", round));
    list.push_back("evaluate dense_continued");
  }
  return list;
}

RunReport Run::execute() {
  try {
    return execute_stages();
  } catch (const Error& error) {
    // What was begun here and failed before a checkpoint is nothing that could be gone on with.
    if (fresh_ && error.kind() != ErrorKind::interrupted) {
      std::error_code ignored;
      fs::remove_all(folder_, ignored);
    }
    throw;
  }
}

RunReport Run::execute_stages() {
  if (checkpoint_.next.empty()) return report();
  write_metrics();
  const std::vector<std::string> list = stages();
  auto at = std::find(list.begin(), list.end(), checkpoint_.next);
  if (at == list.end()) {
    bad_input("{}: the checkpoint's stage \"{}\" is none of this recipe's", folder_.string(),
              checkpoint_.next);
  }
  saved_ = Clock::now();
  for (; at != list.end(); ++at) {
    stage_ = *at;
    stage_began_ = Clock::now();
    stage_seconds_before_ = seconds_so_far(stage_);
    if (options_.stop && options_.stop->requested.load()) {
      save(nullptr);
      throw Error(ErrorKind::interrupted, fmt::format("interrupted before stage \"{}\"", stage_));
    }
    if (options_.listener) options_.listener->stage_begins(stage_);
    try {
      run_stage(stage_);
    } catch (const Error& error) {
      // A training stage has saved itself where it stood; the others begin anew, from here.
      if (error.kind() == ErrorKind::interrupted && !trains(stage_)) save(nullptr);
      throw;
    }
    const double seconds = Seconds(Clock::now() - stage_began_).count();
    seconds_of(stage_) = stage_seconds_before_ + seconds;
    if (options_.listener) options_.listener->stage_ends(stage_, seconds);
    checkpoint_.trainer.reset();
    if (at + 1 != list.end()) {
      checkpoint_.next = *(at + 1);
      // Stages of milliseconds would spend their time on fsync; those are done again after a kill.
      if (Seconds(Clock::now() - saved_).count() >= kSaveSeconds) save(nullptr);
    }
  }
  checkpoint_.next.clear();
  checkpoint_.arrays.clear();
  if (checkpoint_.verb == "run") {
    write_report();
    write_checkpoint(checkpoint_path(), checkpoint_);
  } else {
    fs::remove_all(folder_);  // the model stands under its own name
  }
  return report();
}

void Run::run_stage(const std::string& stage) {
  const size_t space = stage.rfind(' ');
  const bool numbered = space != std::string::npos && stage[space + 1] >= '0' && stage[space + 1] <= '9';
  const int64_t round = numbered ? std::stoll(stage.substr(space + 1)) : 1;
  const std::string name = numbered ? stage.substr(0, space) : stage;
  if (name == "load") {
    checkpoint_.verb == "retrain" ? load_source() : load_weights_of_recipe();
  } else if (name == "train") {
    train_dense();
  } else if (name == "prune") {
    prune_round(round);
  } else if (name == "retrain") {
    retrain_round(stage, round);
  } else if (name == "dense_continued") {
    continue_dense(stage, round);
  } else if (name == "sparse") {
    run_sparse();
  } else if (name == "export") {
    export_model();
  } else {
    std::optional<ModelMetrics>& place = name == "evaluate dense"       ? report().dense
                                         : name == "evaluate pruned"    ? report().pruned
                                         : name == "evaluate retrained" ? report().retrained
                                                                        : report().dense_continued;
    place = measure(stage, *network_, checkpoint_.steps);
  }
}

void Run::save(Trainer* trainer) {
  if (trainer) seconds_of(stage_) = stage_seconds_before_ + Seconds(Clock::now() - stage_began_).count();
  capture(checkpoint_, *network_, trainer);
  write_checkpoint(checkpoint_path(), checkpoint_);
  fresh_ = false;
  saved_ = Clock::now();
}

double Run::seconds_so_far(const std::string& stage) const {
  for (const auto& [name, seconds] : checkpoint_.report.seconds) {
    if (name == stage) return seconds;
  }
  return 0.0;
}

double& Run::seconds_of(const std::string& stage) {
  for (auto& [name, seconds] : report().seconds) {
    if (name == stage) return seconds;
  }
  return report().seconds.emplace_back(stage, 0.0).second;
}

int64_t Run::train(const std::string& stage, const TrainConfig& config, int64_t first_epoch,
                   const PruneConfig* gradual, bool masks_hold) {
  TrainerSetup setup;
  setup.stage = stage;
  setup.config = config;
  setup.train = data_.train.get();
  setup.valid = has_batches(data_.valid) ? data_.valid.get() : nullptr;
  setup.seed = recipe_.seed;
  setup.first_epoch = first_epoch;
  setup.gradual = gradual;
  const bool on_cpu = backend_->device().type == Device::Type::cpu;
  if (masks_hold && (recipe_.retrain_sparse == "on" || (recipe_.retrain_sparse == "auto" && on_cpu))) {
    setup.sparse_layout = backend_->sparse_layout();
    setup.sparse_from = recipe_.retrain_sparse == "on" ? 0.0 : kSparsityThatTrainsFaster;
  }
  setup.listener = options_.listener;
  setup.stop = options_.stop;
  std::unique_ptr<Trainer> trainer;
  setup.save_checkpoint = [&] {
    save(trainer.get());
    if (options_.listener) options_.listener->checkpoint_saved(folder_.string());
  };
  setup.epoch_done = [&](const EpochRecord& epoch) {
    report().epochs.push_back(epoch);
    std::ofstream(path("metrics.jsonl"), std::ios::app) << epoch_line(epoch) << '\n';
  };
  setup.cut_done = [&](const CutRecord& cut, const PruneOutcome& outcome, bool last) {
    record(cut, outcome);
    if (last) report().pruned = measure("evaluate pruned", *network_, checkpoint_.steps + cut.step);
  };
  trainer = std::make_unique<Trainer>(*network_, std::move(setup));
  if (checkpoint_.trainer) restore(checkpoint_, *network_, trainer.get());
  trainer->run();
  checkpoint_.steps += trainer->steps_kept();
  if (masks_hold) {
    const MatrixCount count = trainer->matrices();
    report().retraining = count.sparse == 0 ? "dense"
                                            : fmt::format("{} of {} matrices in {}", count.sparse, count.all,
                                                          backend_->sparse_layout());
  }
  return trainer->steps_done();
}

void Run::load_weights_of_recipe() {
  load_weights(*network_, recipe_.model.weights);
  save_model_folder("dense");
  report().bytes.dense = weight_file_bytes("dense");
}

// A model that was cut, trained on: what is zero in it stays zero.
void Run::load_source() {
  load_weights(*network_, checkpoint_.source);
  const fs::path masks = fs::path(checkpoint_.source) / "masks.safetensors";
  if (fs::exists(masks)) {
    load_masks(masks, network_->store());
  } else {
    masks_of_zeros(network_->store());
  }
}

void Run::train_dense() {
  checkpoint_.steps = 0;
  train("train", recipe_.train, 0, nullptr);
  checkpoint_.dense_steps = checkpoint_.steps;
  save_model_folder("dense");
  report().bytes.dense = weight_file_bytes("dense");
}

void Run::prune_round(int64_t round) {
  const int64_t rounds = rounds_of(recipe_);
  const Statistic kind = statistic_of(find_criterion(recipe_.prune.criterion));
  GradientStatistics statistics;
  if (kind != Statistic::none) {
    const auto began = Clock::now();
    if (options_.listener) options_.listener->stage_begins("gradients");
    statistics = collect_gradients(*network_, *data_.train, recipe_.prune, recipe_.train.loss_reduction, kind,
                                   options_.listener, options_.stop);
    const auto taken = Clock::now() - began;
    stage_began_ += taken;  // a figure of its own
    seconds_of("gradients") += Seconds(taken).count();
    if (options_.listener) options_.listener->stage_ends("gradients", Seconds(taken).count());
  }
  ParameterStore& store = network_->store();
  if (!store.masked()) store.enable_mask();
  // One shot takes what the recipe says, which may be a percentile.
  const double sparsity = rounds > 1 ? round_sparsity(recipe_.prune.sparsity, round, rounds) : -1.0;
  const PruneOutcome outcome =
      prune_store(store, recipe_.prune, recipe_.seed, kind, statistics.of(kind), sparsity);
  const double cut = outcome.prunable == 0
                         ? 0.0
                         : 1.0 - static_cast<double>(outcome.kept) / static_cast<double>(outcome.prunable);
  record({stage_, 0, cut, outcome.kept, static_cast<uint64_t>(statistics.batches)}, outcome);
}

void Run::record(const CutRecord& cut, const PruneOutcome& outcome) {
  RunReport& r = report();
  r.cuts.push_back(cut);
  r.tensors = outcome.tensors;
  r.groups = outcome.groups;
  r.parameters = {outcome.total, outcome.prunable, outcome.kept};
  network_->store().values_changed();
}

void Run::retrain_round(const std::string& stage, int64_t round) {
  const int64_t done =
      train(stage, recipe_.retrain, recipe_.train.epochs + (round - 1) * recipe_.retrain.epochs,
            is_gradual(recipe_) && checkpoint_.verb == "run" ? &recipe_.prune : nullptr, true);
  checkpoint_.retrain_steps.resize(static_cast<size_t>(round));
  checkpoint_.retrain_steps.back() = done;
  if (checkpoint_.verb != "run" || round != rounds_of(recipe_)) return;
  save_masks(path("masks.safetensors"), network_->store(), Existing::replace);
  save_model_folder("retrained");
  report().bytes.pruned = weight_file_bytes("retrained");
}

// The honest comparison: the same steps, rates and batches without a mask.
void Run::continue_dense(const std::string& stage, int64_t round) {
  if (round == 1 && !checkpoint_.trainer) {
    network_->store().disable_mask();
    load_weights(*network_, path("dense"));
    checkpoint_.steps = checkpoint_.dense_steps;
  }
  TrainConfig config = recipe_.retrain;
  config.patience = 0;
  config.max_steps = checkpoint_.retrain_steps[static_cast<size_t>(round - 1)];
  if (config.max_steps == 0) return;
  train(stage, config, recipe_.train.epochs + (round - 1) * recipe_.retrain.epochs, nullptr);
}

LayoutPolicy Run::layout_policy() const {
  LayoutPolicy policy = recipe_.layout;
  for (const std::string& text : recipe_.layouts) {
    const size_t equals = text.rfind('=');
    if (equals == std::string::npos) bad_input("sparse.layouts: expected tensor=layout, found \"{}\"", text);
    policy.tensors[text.substr(0, equals)] = text.substr(equals + 1);
  }
  policy.measured = options_.measured;
  policy.batch = recipe_.data.batch_size;
  return policy;
}

/// What "auto" came to goes into the recipe, so that the run's own recipe names it.
void Run::resolve_layouts(const Network& sparse) {
  report().layouts.clear();
  for (auto& [tensor, layout] : sparse.layouts()) report().layouts.emplace_back(tensor, layout);
  if (recipe_.layout != "auto") return;
  recipe_.layout = backend_->layout_of("auto");
  if (options_.measured != nullptr && !options_.measured->entries().empty()) {
    for (const auto& [tensor, layout] : report().layouts) {
      const auto is_named = [&](const std::string& text) { return text.starts_with(tensor + "="); };
      const bool named = std::any_of(recipe_.layouts.begin(), recipe_.layouts.end(), is_named);
      if (layout != recipe_.layout && !named) recipe_.layouts.push_back(tensor + "=" + layout);
    }
  }
  write_file(path("recipe.toml"), write_recipe(recipe_), Existing::replace);
}

// From the disk into a network of its own, as a user of the model would.
void Run::run_sparse() {
  save_model_folder("sparse", WeightEncoding::sparse);
  report().bytes.sparse = weight_file_bytes("sparse");
  Network sparse(*backend_, recipe_.model, data_.shape);
  load_weights(sparse, path("sparse"));
  report().execution_bytes.dense = static_cast<uint64_t>(network_->weight_bytes());
  sparse.use_layout(layout_policy());
  resolve_layouts(sparse);
  report().execution_bytes.sparse = static_cast<uint64_t>(sparse.weight_bytes());

  Batch probe;
  const auto [source, split] = held_out(data_);
  source->start_epoch(0);
  source->read(0, probe);
  network_->reset_state();
  const std::vector<float> expected = network_->logits(probe), found = sparse.logits(probe);
  double largest = 0.0;
  report().probe_difference = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
    const double difference = std::abs(static_cast<double>(expected[i]) - static_cast<double>(found[i]));
    // Written so that a NaN fails.
    if (!(difference <= report().probe_difference)) report().probe_difference = difference;
  }
  if (!(report().probe_difference <= kProbeTolerance * std::max(1.0, largest))) {
    failure(
        "stage \"sparse\": in the layout \"{}\" the model's logits differ from the masked model's by {} on a "
        "probe "
        "batch; expected at most {}",
        recipe_.layout, report().probe_difference, kProbeTolerance * std::max(1.0, largest));
  }
  report().sparse = measure("evaluate sparse", sparse, checkpoint_.steps);
}

void Run::export_model() {
  AtomicFolder folder(checkpoint_.output, options_.force ? Existing::replace : Existing::refuse);
  write_model(*network_, recipe_.data, vocabulary(), folder.building());
  if (network_->store().masked())
    save_masks(fs::path(folder.building()) / "masks.safetensors", network_->store());
  folder.commit();
}

void Run::save_model_folder(const std::string& name, WeightEncoding encoding) {
  save_model(*network_, recipe_.data, vocabulary(), folder_ / name, Existing::replace, encoding);
}

ModelMetrics Run::measure(const std::string& stage, Network& network, int64_t steps) {
  const auto [source, split] = held_out(data_);
  return metrics_of(evaluate(network, *source, stage, options_.listener, options_.stop), split, steps);
}

void Run::write_metrics() const {
  if (checkpoint_.report.epochs.empty() && !fs::exists(folder_ / "metrics.jsonl")) return;
  std::string text;
  for (const EpochRecord& epoch : checkpoint_.report.epochs) text += epoch_line(epoch) + "\n";
  write_file(path("metrics.jsonl"), text, Existing::replace);
}

void Run::write_report() {
  write_file(path("report.json"), report_json(report()), Existing::replace);
  write_file(path("report.html"), report_html(report()), Existing::replace);
}

uint64_t Run::weight_file_bytes(const std::string& name) const {
  return static_cast<uint64_t>(fs::file_size(folder_ / name / "weights.safetensors"));
}

}  // namespace

RunReport run_recipe(const Recipe& recipe, const fs::path& folder, const RunOptions& options) {
  return Run("run", recipe, folder, options).execute();
}

RunReport resume_run(const fs::path& folder, const RunOptions& options) {
  return Run(folder, options).execute();
}

RunReport train_model(const Recipe& recipe, const fs::path& output, const RunOptions& options) {
  return Run("train", recipe, output.string() + ".run", options, output).execute();
}

RunReport retrain_model(const fs::path& model, const Recipe& recipe, const fs::path& output,
                        const RunOptions& options) {
  return Run("retrain", recipe, output.string() + ".run", options, output, model).execute();
}

}  // namespace coppice
