#pragma once

#include "kernels/tensor.hpp"

namespace coppice {

enum class OptimizerKind { sgd, rmsprop, adam, adamw };

/// The numbers of a step. Those that change from step to step (`rate`, `step`) are passed anew each time; a
/// device backend keeps them in device scalars so that a captured graph can be replayed.
struct OptimizerSettings {
  OptimizerKind kind = OptimizerKind::sgd;
  float rate = 0.01f;
  float momentum = 0.0f;  // sgd: v = momentum·v + g; w −= rate·v (torch.optim.SGD without dampening)
  bool nesterov = false;  // sgd
  float decay_rate = 0.9f;  // rmsprop's ρ: s = ρ·s + (1 − ρ)·g²; w −= rate·g / (√s + ε)   (Keras: √(s + ε))
  float beta1 = 0.9f;  // adam, adamw: Kingma & Ba 2015, with bias correction
  float beta2 = 0.999f;
  float epsilon = 1e-7f;
  bool epsilon_inside_root = false;  // rmsprop as Keras writes it
  float weight_decay =
      0.0f;          // sgd, rmsprop, adam: L2, added to g; adamw: decoupled (Loshchilov & Hutter 2019)
  int64_t step = 1;  // 1 for the first step
};

/// How many float arrays of the store's size the optimizer keeps: 0, 1 or 2.
constexpr int optimizer_slots(const OptimizerSettings& settings) {
  switch (settings.kind) {
    case OptimizerKind::sgd:
      return settings.momentum != 0.0f ? 1 : 0;
    case OptimizerKind::rmsprop:
      return 1;
    case OptimizerKind::adam:
    case OptimizerKind::adamw:
      return 2;
  }
  return 0;
}

/// One launch over all parameters of a model. `mask` is bits, 1 = keep, element i is bit i % 64 of word i /
/// 64; empty: nothing is masked. Where the bit is 0 the gradient counts as 0 and value and state become +0,
/// so that neither momentum nor decay can revive a pruned weight.
class OptimizerOps {
 public:
  virtual ~OptimizerOps() = default;

  /// norm[0] = √Σ g² over kept elements, in double, in fixed chunks added in order. norm [1].
  void gradient_norm(VectorView<const float> gradients, VectorView<const uint64_t> mask,
                     VectorView<double> norm);

  /// The step. When `clip` > 0 and norm[0] > clip, gradients count as g · (clip / norm[0]). When norm[0] is
  /// not finite nothing is changed (the caller reads it and reports). `norm` may be empty when clip is 0.
  /// `state0`, `state1`: as many as `optimizer_slots` says, of the store's size, zeroed before the first
  /// step.
  void update(const OptimizerSettings& settings, float clip, VectorView<const double> norm,
              VectorView<float> values, VectorView<const float> gradients, VectorView<const uint64_t> mask,
              VectorView<float> state0, VectorView<float> state1);

  /// values ×= mask: +0 where the bit is 0, every other value keeps its bits.
  void apply_mask(VectorView<float> values, VectorView<const uint64_t> mask);

  /// sum[i] += g[i], absolute[i] += |g[i]|, squared[i] += g[i]·g[i], float32, one rounding per operation
  /// (no contraction): the statistics that scores are made of. Any of the three may be empty.
  void accumulate_statistics(VectorView<const float> gradients, VectorView<float> sum,
                             VectorView<float> absolute, VectorView<float> squared);

 protected:
  virtual void gradient_norm_impl(VectorView<const float>, VectorView<const uint64_t>,
                                  VectorView<double>) = 0;
  virtual void update_impl(const OptimizerSettings&, float, VectorView<const double>, VectorView<float>,
                           VectorView<const float>, VectorView<const uint64_t>, VectorView<float>,
                           VectorView<float>) = 0;
  virtual void apply_mask_impl(VectorView<float>, VectorView<const uint64_t>) = 0;
  virtual void accumulate_statistics_impl(VectorView<const float>, VectorView<float>, VectorView<float>,
                                          VectorView<float>) = 0;
};

}  // namespace coppice
