#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/prune/prune.hpp"

namespace coppice {

/// One epoch of one training stage: a point of the loss curves and a line of metrics.jsonl.
struct EpochRecord {
  std::string stage;        // "train", "retrain", "retrain 2" (iterative), "dense_continued"
  int64_t epoch = 0;        // 0-based within the stage
  int64_t steps = 0;        // optimizer steps of the stage so far
  double rate = 0.0;        // at the epoch's last step
  double train_loss = 0.0;  // mean a target, nats
  double train_accuracy = 0.0;
  double valid_loss = std::numeric_limits<double>::quiet_NaN();  // NaN where there is no validation split
  double valid_accuracy = std::numeric_limits<double>::quiet_NaN();
  double sparsity = 0.0;  // of the prunable weights, at the epoch's end
  double seconds = 0.0;   // training alone
  double units_per_second = 0.0;
};

/// One cut: one-shot has one, iterative one a round, gradual many.
struct CutRecord {
  std::string stage;
  int64_t step = 0;         // optimizer steps of the stage before the cut
  double sparsity = 0.0;    // asked for
  uint64_t kept = 0;        // prunable weights that are left
  uint64_t statistics = 0;  // batches behind the statistics; 0 where the criterion needs none
};

/// A model on held-out data.
struct ModelMetrics {
  std::string split;           // "test", or "valid" when the data have no test split
  double loss = 0.0;           // mean a target, nats
  double perplexity = 0.0;     // e^loss
  double bits_per_char = 0.0;  // loss / ln 2; meant for character models
  double accuracy = 0.0;
  int64_t targets = 0;            // that count
  int64_t optimizer_steps = 0;    // behind the model, training included
  double seconds = 0.0;           // of the evaluation
  double units_per_second = 0.0;  // units (see RunReport::unit) a second in it
};

/// Everything that a run found: report.json, report.html and the closing table are made from it.
struct RunReport {
  std::string name;    // the recipe's
  std::string folder;  // the run's, as the user wrote it
  std::string task;    // "language_model" | "classification"
  std::string metric;  // what to show of ModelMetrics: "perplexity" | "bits_per_char" | "accuracy"
  std::string unit;    // "words" | "characters" | "sequences"
  std::string model;   // one line: "2 x LSTM 200, embedding 200, vocabulary 10000"

  std::optional<ModelMetrics> dense, dense_continued, pruned, retrained, sparse;

  struct Parameters {
    uint64_t total = 0;
    uint64_t prunable = 0;
    uint64_t kept = 0;  // of the prunable ones
  } parameters;
  std::string criterion;  // name
  std::string formula;    // of its score
  std::string scope, pattern, schedule;
  double sparsity = 0.0;               // asked for; of units
  double percentile = -1.0;            // asked for; −1: by sparsity
  std::vector<TensorOutcome> tensors;  // with their gates
  std::vector<GroupOutcome> groups;
  std::vector<CutRecord> cuts;

  struct Bytes {  // weights.safetensors as it lies on disk; 0: not written
    uint64_t dense = 0;
    uint64_t pruned = 0;  // retrained: zeros inside, for any framework
    uint64_t sparse = 0;  // sparse encoding
  } bytes;
  struct Memory {  // bytes of the recurrent and dense matrices as they execute
    uint64_t dense = 0;
    uint64_t sparse = 0;
  } execution_bytes;
  std::string layout;      // how the sparse model executes
  std::string retraining;  // how retraining executed: "dense", or "2 of 3 matrices in sell"
  std::vector<std::pair<std::string, std::string>> layouts;  // tensor → layout, matrix by matrix
  double probe_difference = 0.0;  // largest |logit(sparse) − logit(masked)| of the probe batch

  std::vector<std::pair<std::string, double>>
      seconds;  // stage → seconds, in order, over all processes of the run
  std::vector<EpochRecord> epochs;

  struct Machine {
    std::string name;    // processor or GPU
    std::string detail;  // instruction set, driver
    std::string system;  // "Linux 6.1 x86_64"
    int cores = 0;
    int64_t memory_bytes = 0;
  } machine;
  std::string device;       // "cpu", "cuda:0"
  std::string device_note;  // why no GPU was taken, or empty
  uint64_t seed = 0;
  int64_t threads = 0;
  std::vector<std::pair<std::string, std::string>> versions;  // "coppice", "compiler", …
  std::string started;                                        // UTC, ISO 8601
  int64_t resumed = 0;                                        // how often the run was taken up again
};

}  // namespace coppice
