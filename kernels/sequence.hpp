#pragma once

#include "kernels/random.hpp"
#include "kernels/tensor.hpp"

namespace coppice {

/// What a layer needs beside its matrices. Row r of a [T·B, ·] matrix is step r / B of stream r % B.
/// Parameter gradients accumulate (+=); activation gradients overwrite (=). Deterministic.
///
/// Ids, lengths and targets are the data layer's to check. On the host an operation checks them again
/// (Error(bad_input)); on a device it would have to wait for them: there a wrong id or target gives NaN, a
/// wrong length counts as the nearest right one, and none touches memory of others.
class SequenceOps {
 public:
  virtual ~SequenceOps() = default;

  /// y[r] = table[ids[r]]. table [V, E], ids [n] in 0..V−1, y [n, E].
  void embed(MatrixView<const float> table, VectorView<const int32_t> ids, MatrixView<float> y);
  /// d_table[ids[r]] += dy[r], added in row order.
  void embed_backward(VectorView<const int32_t> ids, MatrixView<const float> dy, MatrixView<float> d_table);

  /// sums[c] += Σ_r x(r, c), in a fixed order: the gradient of a bias.
  void add_column_sums(MatrixView<const float> x, VectorView<float> sums);

  /// y = x·s where kept, s = 1 / (1 − p) in float32, else 0; the same call with dy and dx is the backward
  /// pass. y may be x. Element (r, c) is dropped when the uniform draw numbered r · cols + c of the stream
  /// (random.hpp) is < p.
  void dropout(MatrixView<const float> x, float probability, RandomStream stream, MatrixView<float> y);

  /// y[b] = x[(lengths[b] − 1) · B + b]: each stream's last valid step (lengths empty: the last of T).
  /// A length of 0 gives zeros. x [T·B, W], y [B, W].
  void last_step(MatrixView<const float> x, VectorView<const int32_t> lengths, MatrixView<float> y);
  /// dx = dy at those rows, 0 elsewhere.
  void last_step_backward(MatrixView<const float> dy, VectorView<const int32_t> lengths,
                          MatrixView<float> dx);

  /// Softmax cross-entropy in nats. targets [n]: a class, or −1 for a row that does not count.
  /// totals [3] += {Σ loss, rows whose largest logit is the target (the first of equals), rows that count}.
  /// d_logits (may be `logits`; empty for evaluation) = scale · ∂Σloss/∂logits; 0 in rows that do not count.
  void softmax_cross_entropy(MatrixView<const float> logits, VectorView<const int32_t> targets, float scale,
                             MatrixView<float> d_logits, VectorView<double> totals);

  /// Binary cross-entropy on logits [n, 1], targets 0, 1 or −1; correct where (logit > 0) == target.
  void sigmoid_cross_entropy(MatrixView<const float> logits, VectorView<const int32_t> targets, float scale,
                             MatrixView<float> d_logits, VectorView<double> totals);

 protected:
  virtual void embed_impl(MatrixView<const float>, VectorView<const int32_t>, MatrixView<float>) = 0;
  virtual void embed_backward_impl(VectorView<const int32_t>, MatrixView<const float>, MatrixView<float>) = 0;
  virtual void add_column_sums_impl(MatrixView<const float>, VectorView<float>) = 0;
  virtual void dropout_impl(MatrixView<const float>, float, RandomStream, MatrixView<float>) = 0;
  virtual void last_step_impl(MatrixView<const float>, VectorView<const int32_t>, MatrixView<float>) = 0;
  virtual void last_step_backward_impl(MatrixView<const float>, VectorView<const int32_t>,
                                       MatrixView<float>) = 0;
  virtual void softmax_cross_entropy_impl(MatrixView<const float>, VectorView<const int32_t>, float,
                                          MatrixView<float>, VectorView<double>) = 0;
  virtual void sigmoid_cross_entropy_impl(MatrixView<const float>, VectorView<const int32_t>, float,
                                          MatrixView<float>, VectorView<double>) = 0;
};

}  // namespace coppice
