#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

namespace coppice {

/// Where a stage stands: what a progress bar shows.
struct Progress {
  std::string_view stage;  // "train", "gradients", "retrain", "evaluate dense", …
  int64_t epoch = 0;       // 0-based; of `epochs` (1 for stages without epochs)
  int64_t epochs = 1;
  int64_t batch = 0;  // batches done of this epoch
  int64_t batches = 0;
  double loss = std::numeric_limits<double>::quiet_NaN();        // mean a target, nats, of this epoch so far
  double valid_loss = std::numeric_limits<double>::quiet_NaN();  // set where an epoch has just ended
  double rate = 0.0;                                             // the optimizer's, 0 outside of training
  double sparsity = -1.0;   // of the prunable weights so far, where a gradual schedule cuts; else −1
  std::string_view unit{};  // "words", "characters", "sequences"
  double units_per_second = 0.0;
  double seconds = 0.0;                                            // since this process began the stage
  double seconds_left = std::numeric_limits<double>::quiet_NaN();  // of the stage
};

/// Gets told how a long stage goes on. Called from the thread that does the work, some ten times a second at
/// most, beside the ends of epochs and stages.
class ProgressListener {
 public:
  virtual ~ProgressListener() = default;
  virtual void stage_begins(std::string_view /*stage*/) {}
  virtual void progress(const Progress&) {}
  /// An epoch of a training stage is complete; `valid_loss` is set where there is a validation split.
  virtual void epoch_ends(const Progress&) {}
  virtual void stage_ends(std::string_view /*stage*/, double /*seconds*/) {}
  /// A checkpoint lies in this folder of a run, from which it can be resumed.
  virtual void checkpoint_saved(const std::string& /*folder*/) {}
};

/// Asks a running stage to stop: it saves a checkpoint and throws Error(interrupted). A signal handler may
/// set it.
struct StopToken {
  std::atomic<bool> requested{false};
  static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler must be able to set it");
};

}  // namespace coppice
