#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/config/recipe.hpp"
#include "engine/data/batch.hpp"
#include "engine/model/layer.hpp"
#include "engine/sparse/layout_policy.hpp"

namespace coppice {

/// Sums behind the metrics of some batches. Losses are in nats.
struct LossTotals {
  double loss = 0.0;  // Σ over targets that count
  double correct = 0.0;
  double count = 0.0;
  double mean() const { return count > 0 ? loss / count : 0.0; }
};

/// A model: layers in a row, their parameters in one store, the loss at the end. Built from a ModelConfig and
/// the shape of the data:  [embedding] → recurrent × layers → [last_step] → dense → loss,  dropout in
/// between.
///
/// Tensor names are PyTorch's: "embedding.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0",
/// "rnn.bias_hh_l0", (… "_l1", "_l0_reverse"), "decoder.weight", "decoder.bias". The prefix of the recurrent
/// tensors is "rnn" whatever the cell.
class Network {
 public:
  Network(Backend& backend, const ModelConfig& config, const DataShape& data);
  ~Network();

  const ModelConfig& config() const { return config_; }
  const DataShape& data_shape() const { return data_; }
  Backend& backend() const { return *backend_; }
  ParameterStore& store() { return *store_; }
  const ParameterStore& store() const { return *store_; }
  std::span<const std::unique_ptr<Layer>> layers() const { return layers_; }

  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  void initialise(uint64_t seed);

  /// Forward without gradients; adds to the totals on the device. Carries the state when the batch says so.
  void evaluate(const Batch& batch);
  /// Forward and backward: gradients += scale · ∂Σloss, by `loss_reduction` ("mean": scale = 1/targets that
  /// count; "sum_steps": 1/B). Adds to the totals.
  void accumulate_gradients(const Batch& batch, std::string_view loss_reduction, RandomStream random);
  /// The same of the whole model, without dropout: what scores are made of.
  void accumulate_gradients(const Batch& batch, std::string_view loss_reduction);
  void zero_gradients();

  /// Logits [rows, classes] of a batch on the host: for sampling and tests.
  std::vector<float> logits(const Batch& batch);

  /// Reads the totals (one wait) and sets them to zero. Whoever trains should not do so at every batch: on a
  /// device it drains the queue.
  LossTotals take_totals();
  /// What the totals go on from.
  void put_totals(const LossTotals& totals);

  /// Carried state: zero it, or save and restore it (checkpoints). For each recurrent layer in turn [B,
  /// floats a stream]; empty when no batch was seen since `reset_state`. A batch that carries the state must
  /// have as many streams as the one before.
  void reset_state();
  std::vector<float> download_state() const;
  void upload_state(std::span<const float> state, int64_t batch);
  int64_t state_batch() const;

  /// Executes the recurrent and dense matrices as `policy` has them from now on (inference only). Throws
  /// Error(bad_input) where it names a matrix that the model has not.
  void use_layout(const LayoutPolicy& policy);
  /// Trains the kept weights alone from now on, while the store's masks stay as they are: matrices of which
  /// at least a share `from`, and something, is cut execute in `layout`, and the gradients of what is cut are
  /// not computed. To be called again when masks change; `use_layout("dense")` ends it.
  MatrixCount use_masks(std::string_view layout, double from);
  /// The layouts in which they execute, by tensor name.
  std::map<std::string, std::string> layouts() const;
  int64_t weight_bytes() const;

 private:
  struct Activations;
  void accumulate(const Batch& batch, std::string_view loss_reduction, const Pass& pass);
  void prepare(const Batch& batch, bool training);
  MatrixView<float> forward(const Pass& pass);
  void backward(MatrixView<float> dy, Pass pass);
  void loss(MatrixView<float> logits, float scale, bool gradient);

  Backend* backend_;
  ModelConfig config_;
  DataShape data_;
  std::unique_ptr<ParameterStore> store_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<bool> input_gradient_;  // by layer: somebody below it has parameters
  std::unique_ptr<Activations> activations_;
};

}  // namespace coppice
