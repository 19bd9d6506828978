#include "engine/prune/gradual.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "engine/prune/gradients.hpp"
#include "kernels/error.hpp"
#include "tests/train/small_problem.hpp"

namespace coppice {
namespace {

using test::small_network;
using test::SmallSource;

TEST(Gradual, CubicScheduleIsZhuAndGuptas) {
  for (int64_t step = 0; step <= 120; ++step) {
    const double t = std::min(1.0, std::max(0.0, (static_cast<double>(step) - 20.0) / 80.0));
    EXPECT_NEAR(cubic_sparsity(0.1, 0.9, 20, 100, step), 0.9 - 0.8 * std::pow(1.0 - t, 3), 1e-15) << step;
  }
  EXPECT_EQ(cubic_sparsity(0.1, 0.9, 20, 100, 100), 0.9);  // exactly, not within rounding
  EXPECT_EQ(cubic_sparsity(0.1, 0.9, 20, 100, 20), 0.1);
}

TEST(Gradual, RoundsFallByOneFactor) {
  EXPECT_NEAR(round_sparsity(0.9, 1, 2), 1.0 - std::sqrt(0.1), 1e-15);
  EXPECT_EQ(round_sparsity(0.9, 2, 2), 0.9);
  EXPECT_NEAR(round_sparsity(0.875, 1, 3), 0.5, 1e-15);
  EXPECT_NEAR(round_sparsity(0.875, 2, 3), 0.75, 1e-15);
}

TEST(Gradual, CutsWhereTheScheduleSays) {
  const auto backend = test::open_test_backend(1);
  const auto network = small_network(*backend, Task::language_model);
  PruneConfig config;
  config.schedule = "gradual";
  config.begin_step = 10;
  config.end_step = 31;
  config.frequency = 5;
  const GradualPruner pruner(network->store(), config, 1, 100);
  std::vector<int64_t> steps;
  for (int64_t step = 0; step <= 31; ++step) {
    if (pruner.cuts_after(step)) steps.push_back(step);
  }
  EXPECT_EQ(steps,
            (std::vector<int64_t>{15, 20, 25, 30, 31}));  // nothing is asked for at 10; all of it at 31
}

TEST(Gradual, RefusesStepsThatDontFit) {
  const auto backend = test::open_test_backend(1);
  const auto network = small_network(*backend, Task::language_model);
  const auto refuses = [&](auto change) {
    PruneConfig config;
    change(config);
    EXPECT_THROW(GradualPruner(network->store(), config, 1, 100), Error);
  };
  refuses([](PruneConfig& c) { c.end_step = 101; });
  refuses([](PruneConfig& c) { c.begin_step = 40, c.end_step = 40; });
  refuses([](PruneConfig& c) { c.frequency = 0; });
  refuses([](PruneConfig& c) { c.percentile = 90; });
  refuses([](PruneConfig& c) { c.initial_sparsity = 0.95; });
  refuses([](PruneConfig& c) { c.criterion = "gradients"; });
}

TEST(Gradual, CutsMoreAndMoreAndNeverLess) {
  const auto backend = test::open_test_backend(1);
  for (const char* criterion : {"magnitude", "taylor", "taylor-absolute", "fisher", "gradient", "random"}) {
    SCOPED_TRACE(criterion);
    SmallSource source(Task::language_model, 10);
    const auto network = small_network(*backend, Task::language_model);
    ParameterStore& store = network->store();
    PruneConfig config;
    config.criterion = criterion;
    config.sparsity = 0.9;
    config.initial_sparsity = 0.2;
    config.frequency = 3;
    config.end_step = 20;
    TrainerSetup setup;
    setup.stage = "retrain";
    setup.train = &source;
    setup.config.epochs = 3;
    setup.config.optimizer.momentum = 0.9f;
    setup.config.optimizer.rate = 0.1f;
    setup.gradual = &config;
    std::vector<uint64_t> before(static_cast<size_t>(store.size() / 64), ~uint64_t{0});
    std::vector<CutRecord> cuts;
    bool complete = false;
    setup.cut_done = [&](const CutRecord& cut, const PruneOutcome& outcome, bool last) {
      const std::vector<uint64_t> mask = backend->download(store.mask());
      for (size_t i = 0; i < mask.size(); ++i)
        ASSERT_EQ(mask[i] & ~before[i], 0u) << "revived at step " << cut.step;
      before = mask;
      const auto expected =
          static_cast<uint64_t>(std::nearbyint(cut.sparsity * static_cast<double>(outcome.prunable)));
      EXPECT_EQ(outcome.prunable - outcome.kept, expected) << cut.step;
      EXPECT_NEAR(cut.sparsity, cubic_sparsity(0.2, 0.9, 0, 20, cut.step), 1e-15);
      EXPECT_FALSE(complete);
      complete = last;
      cuts.push_back(cut);
    };
    Trainer trainer(*network, std::move(setup));
    trainer.run();
    ASSERT_EQ(cuts.size(), 8u);  // 0, 3, 6, …, 18, 20
    EXPECT_TRUE(complete);
    EXPECT_EQ(cuts.back().step, 20);
    EXPECT_EQ(cuts.back().sparsity, 0.9);
    const bool scored = statistic_of(find_criterion(criterion)) != Statistic::none;
    EXPECT_EQ(cuts[1].statistics, scored ? 3u : 0u);
    EXPECT_EQ(cuts.back().statistics, scored ? 2u : 0u);
    // And what was cut is zero ten steps later.
    const std::vector<float> values = test::values_of(*network);
    for (size_t i = 0; i < values.size(); ++i) {
      if ((before[i / 64] >> (i % 64) & 1) == 0) {
        ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), 0u) << i;
      }
    }
  }
}

}  // namespace
}  // namespace coppice
