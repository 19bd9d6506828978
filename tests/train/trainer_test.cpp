#include "engine/train/trainer.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/train/schedule.hpp"
#include "kernels/error.hpp"
#include "tests/train/small_problem.hpp"

namespace coppice {
namespace {

using test::small_network;
using test::SmallSource;
using test::values_of;

struct Case {
  const char* name;
  OptimizerSettings optimizer;
  double clip = 0.0;
  int64_t accumulate = 1;
  const char* schedule = "constant";
};

std::vector<Case> cases() {
  OptimizerSettings sgd, momentum, nesterov, rmsprop, keras, adam, adamw;
  sgd.rate = momentum.rate = nesterov.rate = 0.3f;
  sgd.weight_decay = 0.01f;
  momentum.momentum = nesterov.momentum = 0.9f;
  nesterov.nesterov = true;
  rmsprop.kind = keras.kind = OptimizerKind::rmsprop;
  keras.epsilon_inside_root = true;
  adam.kind = OptimizerKind::adam;
  adamw.kind = OptimizerKind::adamw;
  adamw.weight_decay = 0.1f;
  return {{"sgd", sgd, 0.05, 1, "halving"},
          {"momentum", momentum, 0.1, 2},
          {"nesterov", nesterov},
          {"rmsprop", rmsprop},
          {"keras", keras, 0.0, 3},
          {"adam", adam, 0.0, 1, "cosine"},
          {"adamw", adamw, 0.2}};
}

/// The optimizers as their papers write them, in double, with the gradients of the network at the float
/// values.
class Reference {
 public:
  Reference(Network& network, const Case& c) : network_(network), c_(c) {
    for (float v : values_of(network)) values_.push_back(v);
    first_.assign(values_.size(), 0.0);
    second_ = first_;
  }
  void step(double rate) {
    std::vector<double> g;
    for (float x : network_.backend().download(network_.store().gradients())) g.push_back(x);
    double norm = 0.0;
    for (double x : g) norm += x * x;
    norm = std::sqrt(norm);
    const double clip = static_cast<float>(c_.clip);
    const double scale = clip > 0.0 && norm > clip ? clip / norm : 1.0;
    const OptimizerSettings& o = c_.optimizer;
    ++t_;
    for (size_t i = 0; i < g.size(); ++i) {
      double& w = values_[i];
      double& m = first_[i];
      double& s = second_[i];
      double x = g[i] * scale;
      if (o.kind != OptimizerKind::adamw) x += static_cast<double>(o.weight_decay) * w;
      switch (o.kind) {
        case OptimizerKind::sgd:
          m = o.momentum * m + x;
          if (o.momentum != 0.0f) x = o.nesterov ? x + o.momentum * m : m;
          w -= rate * x;
          break;
        case OptimizerKind::rmsprop:
          s = o.decay_rate * s + (1.0 - o.decay_rate) * x * x;
          w -= rate * x / (o.epsilon_inside_root ? std::sqrt(s + o.epsilon) : std::sqrt(s) + o.epsilon);
          break;
        case OptimizerKind::adam:
        case OptimizerKind::adamw:
          if (o.kind == OptimizerKind::adamw) w -= rate * o.weight_decay * w;
          m = o.beta1 * m + (1.0 - o.beta1) * x;
          s = o.beta2 * s + (1.0 - o.beta2) * x * x;
          w -= rate * (m / (1.0 - std::pow(o.beta1, t_))) /
               (std::sqrt(s / (1.0 - std::pow(o.beta2, t_))) + o.epsilon);
          break;
      }
    }
    std::vector<float> rounded(values_.begin(), values_.end());
    network_.backend().upload(rounded, network_.store().values());
    network_.store().values_changed();
  }
  const std::vector<double>& values() const { return values_; }

 private:
  Network& network_;
  const Case& c_;
  std::vector<double> values_, first_, second_;
  int t_ = 0;
};

TrainerSetup setup_of(const Case& c, BatchSource& train, int64_t epochs) {
  TrainerSetup setup;
  setup.stage = "train";
  setup.train = &train;
  setup.config.epochs = epochs;
  setup.config.optimizer = c.optimizer;
  setup.config.clip = c.clip;
  setup.config.accumulate = c.accumulate;
  setup.config.rate_schedule = c.schedule;
  setup.seed = 5;
  return setup;
}

TEST(Trainer, FollowsEveryOptimizerInDouble) {
  const auto backend = test::open_test_backend(1);
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    constexpr int64_t kEpochs = 2, kBatches = 7;
    SmallSource source(Task::language_model, kBatches);
    const auto network = small_network(*backend, Task::language_model);
    Trainer trainer(*network, setup_of(c, source, kEpochs));
    trainer.run();

    const auto other = small_network(*backend, Task::language_model);
    Reference reference(*other, c);
    const TrainConfig& config = setup_of(c, source, kEpochs).config;
    int64_t step = 0;
    Batch batch;
    for (int64_t epoch = 0; epoch < kEpochs; ++epoch) {
      for (int64_t b = 0; b < kBatches; ++b) {
        source.start_epoch(epoch);
        source.read(b, batch);
        if (b % c.accumulate == 0) other->zero_gradients();
        other->accumulate_gradients(batch, "mean", {});
        if ((b + 1) % c.accumulate != 0 && b + 1 != kBatches) continue;
        reference.step(rate_at(config, epoch, step++, kBatches));
      }
    }
    EXPECT_EQ(trainer.steps_done(), step);
    const std::vector<float> found = values_of(*network);
    for (size_t i = 0; i < found.size(); ++i) {
      ASSERT_NEAR(found[i], reference.values()[i], 3e-4 * std::max(1.0, std::abs(reference.values()[i])))
          << i;
    }
  }
}

TEST(Trainer, LearnsAndReportsFallingLosses) {
  const auto backend = test::open_test_backend(1);
  for (Task task : {Task::language_model, Task::classification}) {
    SmallSource source(task, 9), valid(task, 3, 99);
    const auto network = small_network(*backend, task);
    Case adam{"adam", {}, 0.0};
    adam.optimizer.kind = OptimizerKind::adam;
    adam.optimizer.rate = 0.03f;
    TrainerSetup setup = setup_of(adam, source, 12);
    setup.valid = &valid;
    std::vector<EpochRecord> records;
    setup.epoch_done = [&](const EpochRecord& record) { records.push_back(record); };
    Trainer trainer(*network, std::move(setup));
    trainer.run();
    ASSERT_EQ(records.size(), 12u);
    EXPECT_LT(records.back().train_loss, 0.7 * records.front().train_loss);
    EXPECT_TRUE(std::isfinite(records.back().valid_loss));
    EXPECT_EQ(records.back().steps, 12 * 9);
    EXPECT_GT(records.back().train_accuracy, records.front().train_accuracy);
  }
}

TEST(Trainer, CutWeightsStayZeroThroughEveryOptimizer) {
  const auto backend = test::open_test_backend(1);
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    SmallSource source(Task::language_model, 6);
    const auto network = small_network(*backend, Task::language_model);
    ParameterStore& store = network->store();
    store.enable_mask();
    std::mt19937_64 random(11);
    for (const Segment& segment : store.segments()) {
      std::vector<uint64_t> words(static_cast<size_t>((segment.size() + 63) / 64));
      for (uint64_t& word : words) word = random() | random();
      store.upload_mask(segment, words);
    }
    backend->optimizer().apply_mask(store.values(), store.mask());
    store.values_changed();
    const std::vector<float> before = values_of(*network);
    TrainerSetup setup = setup_of(c, source, 3);
    Trainer trainer(*network, std::move(setup));
    trainer.run();
    const std::vector<float> after = values_of(*network);
    const std::vector<uint64_t> mask = backend->download(store.mask());
    size_t moved = 0;
    for (size_t i = 0; i < after.size(); ++i) {
      if ((mask[i / 64] >> (i % 64) & 1) == 0) {
        uint32_t bits;
        std::memcpy(&bits, &after[i], sizeof bits);
        ASSERT_EQ(bits, 0u) << i;
      } else {
        moved += after[i] != before[i];
      }
    }
    EXPECT_GT(moved, after.size() / 4);
    for (const StateArray& array : trainer.arrays()) {
      const auto state = backend->download(
          VectorView<const float>{static_cast<float*>(array.data), array.size, array.device});
      for (size_t i = 0; i < state.size(); ++i) {
        if ((mask[i / 64] >> (i % 64) & 1) == 0) {
          ASSERT_EQ(state[i], 0.0f) << array.name << ' ' << i;
        }
      }
    }
  }
}

TEST(Trainer, StopsEarlyAndKeepsTheBest) {
  const auto backend = test::open_test_backend(1);
  SmallSource source(Task::language_model, 5), valid(Task::language_model, 2, 99);
  const auto network = small_network(*backend, Task::language_model);
  Case wild{"sgd", {}, 0.0};
  wild.optimizer.rate = 40.0f;  // diverges: the first epochs stay the best
  wild.clip = 5.0;
  TrainerSetup setup = setup_of(wild, source, 50);
  setup.config.patience = 3;
  setup.config.keep_best = true;
  setup.valid = &valid;
  std::vector<double> losses;
  std::vector<std::vector<float>> values;
  setup.epoch_done = [&](const EpochRecord& record) {
    losses.push_back(record.valid_loss);
    values.push_back(values_of(*network));
  };
  Trainer trainer(*network, std::move(setup));
  trainer.run();
  const auto best = static_cast<size_t>(std::min_element(losses.begin(), losses.end()) - losses.begin());
  ASSERT_LT(losses.size(), 50u);
  EXPECT_EQ(losses.size(), best + 1 + 3);
  EXPECT_TRUE(test::same_bits(values_of(*network), values[best]));
  EXPECT_EQ(trainer.steps_kept(), static_cast<int64_t>(best + 1) * 5);
}

TEST(Trainer, StopsAtMaxSteps) {
  const auto backend = test::open_test_backend(1);
  SmallSource source(Task::language_model, 5);
  const auto network = small_network(*backend, Task::language_model);
  TrainerSetup setup = setup_of(cases()[0], source, 50);
  setup.config.max_steps = 13;
  int64_t epochs = 0;
  setup.epoch_done = [&](const EpochRecord&) { ++epochs; };
  Trainer trainer(*network, std::move(setup));
  trainer.run();
  EXPECT_EQ(trainer.steps_done(), 13);
  EXPECT_EQ(epochs, 3);  // the third was cut short
}

/// Rate beyond all bounds: the loss overflows.
TEST(Trainer, NamesThePlaceWhereTheLossIsLost) {
  const auto backend = test::open_test_backend(1);
  SmallSource source(Task::classification, 5);
  const auto network = small_network(*backend, Task::classification);
  std::vector<float> values = values_of(*network);
  const Segment& decoder = network->store().segment("decoder.weight");
  source.on_read = [&](int64_t epoch, int64_t index) {
    if (epoch != 1 || index != 2) return;
    std::vector<float> poison(static_cast<size_t>(decoder.size()), std::numeric_limits<float>::quiet_NaN());
    network->store().upload(decoder, poison);
    network->store().values_changed();
  };
  Trainer trainer(*network, setup_of(cases()[0], source, 4));
  try {
    trainer.run();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::failure);
    const std::string text = error.what();
    EXPECT_NE(text.find("stage \"train\", epoch 2 of 4, batch 3 of 5"), std::string::npos) << text;
  }
}

TEST(Trainer, BlamesTheDataForWhatTheyHold) {
  class Poisoned : public SmallSource {
   public:
    using SmallSource::SmallSource;
    void read(int64_t index, Batch& batch) override {
      SmallSource::read(index, batch);
      batch.lengths.clear();
      if (index == 3) batch.features[(2 * kBatch + 1) * kInputs + 3] = std::numeric_limits<float>::infinity();
    }
  };
  const auto backend = test::open_test_backend(1);
  Poisoned source(Task::classification, 5);
  const auto network = small_network(*backend, Task::classification);
  backend->upload(std::vector<float>(static_cast<size_t>(network->store().size()), 0.0f),
                  network->store().values());
  network->store().values_changed();  // 0 · inf is NaN whatever the activation
  Trainer trainer(*network, setup_of(cases()[0], source, 4));
  try {
    trainer.run();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    const std::string text = error.what();
    EXPECT_NE(text.find("batch 4 of 5"), std::string::npos) << text;
    EXPECT_NE(text.find("step 2, sequence 1 of the batch, feature 3"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace coppice
