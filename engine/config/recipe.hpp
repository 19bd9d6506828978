#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/optimizer.hpp"

namespace coppice {

// A recipe as the engine reads it: plain values, every one with a default. config/schema.cpp has one row for
// each (key, type, default, doc, allowed values): it fills these from TOML and `--set`, writes the resolved
// recipe, and makes the help and the docs.

/// [data]
struct DataConfig {
  std::string kind = "text";  // text | sequences | generated
  std::string train;          // text: a UTF-8 file; sequences: .npz or UEA .ts
  std::string valid;          // text: empty = split off the end of `train`
  std::string test;
  std::string token = "word";         // text: word | character
  std::string end_of_line = "<eos>";  // word: the token that a line end becomes; empty: none
  bool lowercase = false;             // word
  bool split_punctuation = false;     // word: punctuation marks are tokens of their own
  int64_t vocabulary_size = 0;        // keep the commonest N − 1 and <unk>; 0 = all
  double valid_fraction = 0.05;       // of the tokens (text) or sequences, when no file is named
  double test_fraction = 0.05;
  int64_t batch_size = 20;         // B
  int64_t steps = 20;              // text: T of truncated backpropagation
  bool carry_state = true;         // text: hidden state goes on from batch to batch
  bool shuffle = true;             // sequences: a new order each epoch
  int64_t train_sequences = 1000;  // generated: counts and shape; the label is Σ_t x[t][0] > 0
  int64_t valid_sequences = 200;
  int64_t sequence_steps = 20;
  int64_t inputs = 10;
};

/// [model]
struct ModelConfig {
  std::string cell = "lstm";  // rnn_tanh | rnn_relu | rnn_sigmoid | lstm | gru
  int64_t embedding = 200;    // E; 0: inputs are feature vectors (or one-hot classes are not embedded)
  int64_t hidden = 200;
  int64_t layers = 1;
  bool bidirectional = false;
  double dropout = 0.0;          // after the embedding and each recurrent layer, in training
  std::string init = "pytorch";  // pytorch | keras | uniform
  double init_range = 0.1;       // uniform(−r, r)
  std::string loss = "softmax";  // softmax | sigmoid
  std::string weights;           // start from these instead of training (safetensors, npz or model folder)
};

/// [train], and, with its own defaults, [retrain]
struct TrainConfig {
  int64_t epochs = 1;
  OptimizerSettings optimizer{};           // optimizer, rate, momentum, nesterov, …
  std::string rate_schedule = "constant";  // constant | step | halving | cosine
  double rate_factor = 0.5;                // step, halving: the factor
  int64_t rate_after = 0;                  // epochs at full rate before the first change
  int64_t rate_every = 1;                  // step: epochs between changes
  double clip = 0.0;                       // global gradient norm; 0 = off
  std::string loss_reduction =
      "mean";                       // mean over targets | sum_steps: summed over steps, mean over the batch
  int64_t accumulate = 1;           // batches whose gradients are added before a step
  int64_t patience = 0;             // early stopping: epochs without a better validation loss; 0 = off
  bool keep_best = false;           // end with the weights of the best validation epoch
  int64_t max_steps = 0;            // stop after so many optimizer steps; 0 = all epochs
  int64_t checkpoint_seconds = 60;  // at least so often, and at every epoch's end; 0 = epochs only
};

/// [prune]
struct PruneConfig {
  std::string criterion = "magnitude";  // kernels/criteria.hpp
  std::string pattern = "element";      // config/pattern.hpp
  std::string reduce = "sum";  // row, column, block: sum | mean | max | l2 | product of element scores
  std::vector<std::string> unit_readers;  // pattern unit: RE2 of what reads the last recurrent layer
  std::string scope = "global";           // global | tensor | gate | row
  double sparsity = 0.9;                  // exactly round-half-even(sparsity · n) units are cut
  double percentile = -1.0;               // >= 0: cut where score < percentile instead
  std::vector<std::string>
      include;  // RE2 on tensor names, full match; empty: what the model says is prunable
  std::vector<std::string> exclude;
  double min_density = 0.0;                  // share that is never cut: the best units
  std::string min_density_scope = "tensor";  // of every tensor | gate (scope gate: always of every gate)
  std::string schedule = "one-shot";         // one-shot | iterative | gradual
  int64_t rounds = 3;             // iterative: score, cut, retrain so often, geometrically to `sparsity`
  double initial_sparsity = 0.0;  // gradual: s_t = s_f + (s_i − s_f)(1 − (t − begin)/(end − begin))³
  int64_t begin_step = 0;         //   in optimizer steps of the retraining
  int64_t end_step = 0;           //   0: half of its steps
  int64_t frequency = 100;
  int64_t gradient_batches = 200;   // batches of training data behind the statistics; 0 = all
  int64_t gradient_batch_size = 0;  // sequences: 0 = data.batch_size; −1 = all in one
};

/// A whole recipe.
struct Recipe {
  std::string name = "run";
  uint64_t seed = 1;
  std::string device = "auto";
  int64_t threads = 0;          // 0 = all cores
  std::string matmul = "fp32";  // fp32 | tf32 | bf16
  DataConfig data;
  ModelConfig model;
  TrainConfig train;
  PruneConfig prune;
  TrainConfig retrain;
  std::string retrain_sparse = "auto";  // [retrain] sparse: auto | on | off
  bool dense_continued = false;  // [retrain] dense_continued: train the dense model on for as many steps
  std::string layout =
      "auto";  // [sparse] layout: how the pruned matrices execute; auto: as serves the device best
  std::vector<std::string> layouts;  // [sparse] layouts: "tensor=layout" of single matrices
  std::vector<std::string>
      said;  // full names of the keys that the file or an override named, not their defaults
};

}  // namespace coppice
