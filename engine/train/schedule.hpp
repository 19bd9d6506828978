#pragma once

#include <cstdint>

#include "engine/config/recipe.hpp"

namespace coppice {

/// Optimizer steps of one epoch: its batches in groups of `accumulate`, the last group as it is.
int64_t steps_per_epoch(const TrainConfig& config, int64_t batches);

/// Optimizer steps of the whole stage, `max_steps` respected.
int64_t total_steps(const TrainConfig& config, int64_t batches);

/// The rate of the optimizer step `step` (0-based within the stage), which lies in epoch `epoch` (0-based):
///   constant  rate
///   step      rate · factor^n, n = 0 in the first `rate_after` epochs (0 counts as `rate_every`), then 1,
///   and one
///             more every `rate_every` epochs
///   halving   the same with rate_every = 1: with factor 0.5 and rate_after 4, epochs 0..3 run at the full
///   rate
///             and epoch 4 at half of it
///   cosine    rate after `rate_after` epochs falls to 0 as rate · (1 + cos(π·x)) / 2, x from 0 to 1 over the
///             steps that are left (Loshchilov & Hutter 2017, one period)
/// Throws Error(bad_input) for a schedule of another name.
double rate_at(const TrainConfig& config, int64_t epoch, int64_t step, int64_t batches);

}  // namespace coppice
