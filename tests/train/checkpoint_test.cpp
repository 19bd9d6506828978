#include "engine/train/checkpoint.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "kernels/error.hpp"
#include "tests/train/small_problem.hpp"

namespace coppice {
namespace {

namespace fs = std::filesystem;
using test::same_bits;
using test::small_network;
using test::SmallSource;
using test::values_of;

struct Folder {
  Folder() : path(fs::temp_directory_path() / ("coppice-checkpoint-" + std::to_string(::getpid()))) {
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  std::string file(const std::string& name) const { return (path / name).string(); }
  fs::path path;
};

struct Outcome {
  std::vector<float> values;
  std::vector<EpochRecord> epochs;
  std::vector<CutRecord> cuts;
  int64_t steps_kept = 0;
};

PruneConfig gradual_config() {
  PruneConfig prune;
  prune.criterion = "fisher";
  prune.sparsity = 0.8;
  prune.schedule = "gradual";
  prune.begin_step = 3;
  prune.end_step = 24;
  prune.frequency = 4;
  return prune;
}

/// Trains with everything that has a state: momentum, dropout, accumulation, a gradual schedule, keep_best.
/// Stopped at the reads listed in `stops` and taken up again from the file each time, in a network and a
/// trainer that are new.
Outcome train(Task task, const std::vector<int64_t>& stops, bool gradual, int threads, const Folder& folder) {
  const auto backend = test::open_test_backend(threads);
  const PruneConfig prune = gradual_config();
  Outcome outcome;
  Checkpoint checkpoint;
  size_t stopped = 0;
  for (bool first = true;; first = false) {
    SmallSource source(task, 7), valid(task, 2, 99);
    const auto network = small_network(*backend, task, 0.3);
    StopToken stop;
    int64_t reads = 0;
    source.on_read = [&](int64_t, int64_t) {
      if (stopped < stops.size() && ++reads == stops[stopped]) stop.requested = true;
    };
    TrainerSetup setup;
    setup.stage = "retrain";
    setup.train = &source;
    setup.valid = &valid;
    setup.seed = 5;
    setup.first_epoch = 3;
    setup.stop = &stop;
    setup.config.epochs = 9;
    setup.config.accumulate = 2;
    setup.config.clip = 1.0;
    setup.config.keep_best = true;
    setup.config.rate_schedule = "cosine";
    setup.config.optimizer.kind = OptimizerKind::adamw;
    setup.config.optimizer.rate = 0.02f;
    if (gradual) setup.gradual = &prune;
    std::unique_ptr<Trainer> trainer;
    setup.epoch_done = [&](const EpochRecord& epoch) { checkpoint.report.epochs.push_back(epoch); };
    setup.cut_done = [&](const CutRecord& cut, const PruneOutcome&, bool) {
      checkpoint.report.cuts.push_back(cut);
      evaluate(*network, valid);  // must not disturb the training
    };
    setup.save_checkpoint = [&] {
      capture(checkpoint, *network, trainer.get());
      write_checkpoint(folder.file("state.safetensors"), checkpoint);
    };
    trainer = std::make_unique<Trainer>(*network, std::move(setup));
    if (!first) {
      checkpoint = read_checkpoint(folder.file("state.safetensors"));
      restore(checkpoint, *network, trainer.get());
    }
    try {
      trainer->run();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::interrupted) << error.what();
      ++stopped;
      continue;
    }
    EXPECT_EQ(stopped, stops.size());
    outcome.values = values_of(*network);
    outcome.epochs = checkpoint.report.epochs;
    outcome.cuts = checkpoint.report.cuts;
    outcome.steps_kept = trainer->steps_kept();
    return outcome;
  }
}

void expect_equal(const Outcome& a, const Outcome& b) {
  EXPECT_TRUE(same_bits(a.values, b.values));
  EXPECT_EQ(a.steps_kept, b.steps_kept);
  ASSERT_EQ(a.epochs.size(), b.epochs.size());
  for (size_t i = 0; i < a.epochs.size(); ++i) {
    EXPECT_EQ(a.epochs[i].train_loss, b.epochs[i].train_loss) << i;
    EXPECT_EQ(a.epochs[i].valid_loss, b.epochs[i].valid_loss) << i;
    EXPECT_EQ(a.epochs[i].steps, b.epochs[i].steps) << i;
    EXPECT_EQ(a.epochs[i].sparsity, b.epochs[i].sparsity) << i;
  }
  ASSERT_EQ(a.cuts.size(), b.cuts.size());
  for (size_t i = 0; i < a.cuts.size(); ++i) {
    EXPECT_EQ(a.cuts[i].step, b.cuts[i].step) << i;
    EXPECT_EQ(a.cuts[i].kept, b.cuts[i].kept) << i;
    EXPECT_EQ(a.cuts[i].statistics, b.cuts[i].statistics) << i;
  }
}

TEST(Checkpoint, TakenUpAnywhereTheBitsAreTheSame) {
  const Folder folder;
  for (Task task : {Task::language_model, Task::classification}) {
    for (bool gradual : {false, true}) {
      const Outcome straight = train(task, {}, gradual, 1, folder);
      for (const std::vector<int64_t>& stops : std::vector<std::vector<int64_t>>{
               {1}, {2}, {7}, {8}, {31}, {63}, {3, 5, 17}, {1, 1, 1, 1, 1}, {14, 14}}) {
        SCOPED_TRACE(testing::Message() << "task " << static_cast<int>(task) << ", gradual " << gradual
                                        << ", stops " << testing::PrintToString(stops));
        expect_equal(straight, train(task, stops, gradual, 1, folder));
      }
    }
  }
}

TEST(Checkpoint, AnyNumberOfThreadsGivesTheSameBits) {
  const Folder folder;
  expect_equal(train(Task::language_model, {}, true, 1, folder),
               train(Task::language_model, {9}, true, 2, folder));
}

TEST(Checkpoint, KeepsEveryFieldAndNumber) {
  const Folder folder;
  Checkpoint written;
  written.verb = "run";
  written.next = "retrain 2";
  written.threads = 3;
  written.data = {1, -2, int64_t{1} << 60};
  written.steps = 17;
  written.dense_steps = 12;
  written.retrain_steps = {5, 6};
  TrainerState state;
  state.epoch = 4;
  state.totals = {0.1 + 0.2, 3.0, 7.0};
  state.observed = ~uint64_t{0};
  written.trainer = state;  // best_loss is infinite
  written.report.name = "näme \"quoted\"\n";
  written.report.dense = ModelMetrics{.split = "test", .loss = 1.0 / 3.0};
  EpochRecord epoch;
  epoch.stage = "train";  // valid_loss is NaN
  written.report.epochs = {epoch};
  written.report.groups = {{"all", ~uint64_t{0}, 5, std::numeric_limits<double>::quiet_NaN(), "m·2^e"}};
  written.report.tensors = {
      {"rnn.weight_hh_l0", {4, 1}, true, 4, 2, {"i", "f", "g", "o"}, {1, 1, 1, 1}, {1, 0, 1, 0}}};
  written.report.seconds = {{"train", 0.1}};
  written.report.versions = {{"coppice", "0"}};
  written.arrays.push_back({"values", DType::f32, 0, {}});
  written.arrays.push_back({"mask", DType::u64, 1, std::vector<std::byte>(8, std::byte{0xa5})});
  write_checkpoint(folder.file("c.safetensors"), written);
  const Checkpoint read = read_checkpoint(folder.file("c.safetensors"));
  EXPECT_EQ(read.next, written.next);
  EXPECT_EQ(read.data, written.data);
  EXPECT_EQ(read.retrain_steps, written.retrain_steps);
  ASSERT_TRUE(read.trainer);
  EXPECT_EQ(read.trainer->totals.loss, 0.1 + 0.2);
  EXPECT_EQ(read.trainer->observed, ~uint64_t{0});
  EXPECT_TRUE(std::isinf(read.trainer->best_loss));
  EXPECT_EQ(read.report.name, written.report.name);
  ASSERT_TRUE(read.report.dense);
  EXPECT_FALSE(read.report.pruned);
  EXPECT_EQ(read.report.dense->loss, 1.0 / 3.0);
  EXPECT_TRUE(std::isnan(read.report.epochs.at(0).valid_loss));
  EXPECT_EQ(read.report.groups.at(0).units, ~uint64_t{0});
  EXPECT_TRUE(std::isnan(read.report.groups.at(0).threshold));
  EXPECT_EQ(read.report.tensors.at(0).gate_kept, written.report.tensors[0].gate_kept);
  ASSERT_TRUE(read.find("mask"));
  EXPECT_EQ(read.find("mask")->bytes, written.arrays[1].bytes);
}

TEST(Checkpoint, RefusesWhatIsNone) {
  const Folder folder;
  std::ofstream(folder.file("x.safetensors")) << "not a checkpoint";
  EXPECT_THROW(read_checkpoint(folder.file("x.safetensors")), Error);
  EXPECT_THROW(read_checkpoint(folder.file("absent.safetensors")), Error);
}

}  // namespace
}  // namespace coppice
