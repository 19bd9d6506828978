#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "engine/config/recipe.hpp"
#include "engine/data/batch.hpp"
#include "engine/model/network.hpp"
#include "engine/prune/gradual.hpp"
#include "engine/report/run_report.hpp"
#include "engine/train/progress.hpp"

namespace coppice {

/// Totals of one pass over a split, without gradients, in evaluation mode.
struct Evaluation {
  LossTotals totals;
  double units = 0.0;  // words, characters or sequences that were read
  double seconds = 0.0;
};

/// Runs `source` through the network. The carried state starts at zero and ends where the text ends.
Evaluation evaluate(Network& network, BatchSource& source, std::string_view stage = "evaluate",
                    ProgressListener* listener = nullptr, const StopToken* stop = nullptr);

/// What a training stage is made of. Everything pointed at outlives the trainer.
struct TrainerSetup {
  std::string stage;  // "train", "retrain", …: progress, errors and records name it
  TrainConfig config;
  BatchSource* train = nullptr;
  BatchSource* valid = nullptr;  // null: no validation, no early stopping
  uint64_t seed = 0;
  int64_t first_epoch = 0;  // number of the stage's first epoch for shuffles and dropout, so that a
                            // retraining doesn't see the training's orders again
  const PruneConfig* gradual = nullptr;  // cut along the way
  /// Not empty: from the moment the masks don't change any more until the training ends, matrices of which at
  /// least a share `sparse_from` is cut execute in this layout.
  std::string sparse_layout;
  double sparse_from = 0.0;
  ProgressListener* listener = nullptr;
  const StopToken* stop = nullptr;
  /// Writes `Trainer::state` and `Trainer::arrays` to disk; called between two optimizer steps. Empty:
  /// nothing is saved.
  std::function<void()> save_checkpoint;
  std::function<void(const EpochRecord&)> epoch_done;
  /// After a cut of the gradual schedule; `last` at its end_step. May evaluate the network.
  std::function<void(const CutRecord&, const PruneOutcome&, bool last)> cut_done;
};

/// What of a trainer lives on the host and goes into a checkpoint.
struct TrainerState {
  int64_t epoch = 0;           // of the next batch
  int64_t batch = 0;           // next batch of that epoch; only ever the first of an accumulation group
  int64_t step = 0;            // optimizer steps done
  LossTotals totals;           // of this epoch so far
  double units = 0.0;          // of this epoch so far
  double epoch_seconds = 0.0;  // of this epoch so far, over all processes
  double best_loss = std::numeric_limits<double>::infinity();
  int64_t best_epoch = -1;
  int64_t best_step = 0;
  int64_t stale = 0;  // epochs without a better validation loss
  bool finished = false;
  double sparsity = 0.0;  // gradual: as of the last cut
  bool cuts_complete = false;
  uint64_t observed = 0;    // gradual: gradients in the statistic in flight
  int64_t state_batch = 0;  // streams of the carried state
};

/// A device array of a checkpoint, by name.
struct StateArray {
  std::string name;
  DType dtype = DType::f32;
  void* data = nullptr;
  int64_t size = 0;  // elements
  Device device{};
};

/// Trains a network: forward, backward, clip, one optimizer step over the whole store with the masks held.
///
/// Deterministic: the values after step n depend on the network's initial values, the data, the configuration
/// and the seed alone. Taken up from a checkpoint the bits are those of an uninterrupted run.
class Trainer {
 public:
  Trainer(Network& network, TrainerSetup setup);
  ~Trainer();

  /// To the end of the stage. Throws Error(interrupted) after saving a checkpoint when the stop token is set,
  /// and Error(failure) naming stage, epoch and batch when a loss or gradient is not finite (Error(bad_input)
  /// when the batch itself holds a value that is not).
  void run();

  /// Optimizer steps behind the values that the network ends with (fewer than were done with keep_best).
  int64_t steps_kept() const;
  int64_t steps_done() const { return state_.step; }
  /// How many matrices executed sparse.
  MatrixCount matrices() const { return matrices_; }

  const TrainerState& state() const { return state_; }
  /// Optimizer state, best values, statistics in flight: all that a checkpoint needs beside the store's
  /// values and mask and the network's carried state.
  std::vector<StateArray> arrays();
  /// Sets the counters; the caller has filled `arrays`, the store and the carried state.
  void restore(const TrainerState& state);

 private:
  using Clock = std::chrono::steady_clock;

  void train_epoch();
  void finish_epoch();
  void step(double rate);
  void read_back();
  void refuse_unless_finite(int64_t first, int64_t last);  // batches of this epoch
  void cut_along(int64_t step);
  void use_masks();
  void tell(bool at_end_of_epoch, double valid_loss);
  std::string where(int64_t batch) const;

  Network* network_;
  TrainerSetup setup_;
  TrainerState state_;
  std::unique_ptr<GradualPruner> gradual_;
  MatrixCount matrices_;
  Buffer optimizer_state_[2];
  Buffer best_;
  Buffer norms_;  // gradient norms of the steps since they were last read
  int64_t norms_used_ = 0;
  int64_t read_every_ = 1;  // steps between two reads of losses and norms
  int64_t steps_total_ = 0;
  double rate_ = 0.0;
  Clock::time_point began_{}, epoch_began_{}, told_{}, saved_{};
  double epoch_seconds_before_ = 0.0;
  double batches_here_ = 0.0;  // done by this process, for the estimate of the time left
  double units_here_ = 0.0;
};

/// Words, characters or sequences of a batch: what is counted per second.
double units_of(const Batch& batch, Task task);

}  // namespace coppice
