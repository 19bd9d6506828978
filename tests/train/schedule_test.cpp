#include "engine/train/schedule.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "kernels/error.hpp"

namespace coppice {
namespace {

TrainConfig config_of(const std::string& schedule) {
  TrainConfig config;
  config.rate_schedule = schedule;
  config.epochs = 10;
  config.optimizer.rate = 2.0f;
  return config;
}

TEST(Schedule, ConstantStaysConstant) {
  const TrainConfig config = config_of("constant");
  for (int64_t epoch : {0, 1, 9}) EXPECT_EQ(rate_at(config, epoch, epoch * 7, 7), 2.0);
}

// Zaremba et al.: 0.5^max(0, epoch − 3), epochs counted from 0, which is four epochs at the full rate.
TEST(Schedule, HalvingAfterFourEpochsIsTheLanguageModels) {
  TrainConfig config = config_of("halving");
  config.rate_after = 4;
  for (int64_t epoch = 0; epoch < 13; ++epoch) {
    EXPECT_EQ(rate_at(config, epoch, 0, 7), 2.0 * std::pow(0.5, std::max<int64_t>(0, epoch - 3))) << epoch;
  }
}

TEST(Schedule, HalvingAtOnceKeepsTheFirstEpoch) {
  for (int64_t after : {0, 1}) {
    TrainConfig config = config_of("halving");
    config.rate_after = after;
    for (int64_t epoch = 0; epoch < 6; ++epoch) {
      EXPECT_EQ(rate_at(config, epoch, 0, 7), 2.0 * std::pow(0.5, static_cast<double>(epoch)));
    }
  }
}

TEST(Schedule, StepsChangeEverySoManyEpochs) {
  TrainConfig config = config_of("step");
  config.rate_factor = 0.1;
  config.rate_every = 3;
  const double expected[] = {2, 2, 2, .2, .2, .2, .02, .02, .02, .002};
  for (int64_t epoch = 0; epoch < 10; ++epoch)
    EXPECT_NEAR(rate_at(config, epoch, 0, 7), expected[epoch], 1e-15);
  config.rate_after = 5;
  const double later[] = {2, 2, 2, 2, 2, .2, .2, .2, .02, .02};
  for (int64_t epoch = 0; epoch < 10; ++epoch) EXPECT_NEAR(rate_at(config, epoch, 0, 7), later[epoch], 1e-15);
}

TEST(Schedule, CosineFallsToZeroOverTheStepsThatAreLeft) {
  TrainConfig config = config_of("cosine");
  config.rate_after = 2;
  config.accumulate = 2;
  EXPECT_EQ(steps_per_epoch(config, 7), 4);
  EXPECT_EQ(total_steps(config, 7), 40);
  for (int64_t step = 0; step <= 40; ++step) {
    const double x = step <= 8 ? 0.0 : static_cast<double>(step - 8) / 32.0;
    EXPECT_NEAR(rate_at(config, step / 4, step, 7), 1.0 + std::cos(std::numbers::pi * x), 1e-12) << step;
  }
  config.max_steps = 20;
  EXPECT_EQ(total_steps(config, 7), 20);
  EXPECT_NEAR(rate_at(config, 3, 14, 7), 1.0, 1e-12);
}

TEST(Schedule, AnotherNameIsAnError) {
  EXPECT_THROW(rate_at(config_of("halfing"), 0, 0, 7), Error);
}

}  // namespace
}  // namespace coppice
