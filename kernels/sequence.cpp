#include "kernels/sequence.hpp"

#include "kernels/check.hpp"

namespace coppice {
namespace {

void check_lengths(const char* operation, int64_t rows, VectorView<const int32_t> lengths, int64_t batch,
                   Device device) {
  if (batch > 0 && rows % batch != 0) {
    bad_input("{}: x has {} rows, expected a multiple of the batch of {}", operation, rows, batch);
  }
  check::optional_vector(operation, "lengths", lengths, batch, device);
}

void check_loss(const char* operation, MatrixView<const float> logits, VectorView<const int32_t> targets,
                MatrixView<float> d_logits, VectorView<double> totals) {
  check::matrix(operation, "logits", logits, logits.rows, logits.cols, logits.device);
  check::vector(operation, "targets", targets, logits.rows, logits.device);
  if (d_logits.data != nullptr) {
    check::matrix(operation, "d_logits", d_logits, logits.rows, logits.cols, logits.device);
  }
  check::vector(operation, "totals", totals, 3, logits.device);
}

}  // namespace

void SequenceOps::embed(MatrixView<const float> table, VectorView<const int32_t> ids, MatrixView<float> y) {
  check::matrix("embed", "table", table, table.rows, table.cols, y.device);
  check::vector("embed", "ids", ids, ids.size, y.device);
  check::matrix("embed", "y", y, ids.size, table.cols, y.device);
  if (!y.empty()) embed_impl(table, ids, y);
}

void SequenceOps::embed_backward(VectorView<const int32_t> ids, MatrixView<const float> dy,
                                 MatrixView<float> d_table) {
  check::vector("embed_backward", "ids", ids, ids.size, d_table.device);
  check::matrix("embed_backward", "d_table", d_table, d_table.rows, d_table.cols, d_table.device);
  check::matrix("embed_backward", "dy", dy, ids.size, d_table.cols, d_table.device);
  if (!dy.empty()) embed_backward_impl(ids, dy, d_table);
}

void SequenceOps::add_column_sums(MatrixView<const float> x, VectorView<float> sums) {
  check::matrix("add_column_sums", "x", x, x.rows, x.cols, sums.device);
  check::vector("add_column_sums", "sums", sums, x.cols, sums.device);
  if (!x.empty()) add_column_sums_impl(x, sums);
}

void SequenceOps::dropout(MatrixView<const float> x, float probability, RandomStream stream,
                          MatrixView<float> y) {
  check::matrix("dropout", "x", x, x.rows, x.cols, y.device);
  check::matrix("dropout", "y", y, x.rows, x.cols, y.device);
  if (!(probability >= 0.0f && probability < 1.0f)) {
    bad_input("dropout: the probability is {}, expected 0 <= p < 1", probability);
  }
  if (!y.empty()) dropout_impl(x, probability, stream, y);
}

void SequenceOps::last_step(MatrixView<const float> x, VectorView<const int32_t> lengths,
                            MatrixView<float> y) {
  check::matrix("last_step", "y", y, y.rows, x.cols, y.device);
  check::matrix("last_step", "x", x, x.rows, x.cols, y.device);
  check_lengths("last_step", x.rows, lengths, y.rows, y.device);
  if (!y.empty()) last_step_impl(x, lengths, y);
}

void SequenceOps::last_step_backward(MatrixView<const float> dy, VectorView<const int32_t> lengths,
                                     MatrixView<float> dx) {
  check::matrix("last_step_backward", "dy", dy, dy.rows, dx.cols, dx.device);
  check::matrix("last_step_backward", "dx", dx, dx.rows, dx.cols, dx.device);
  check_lengths("last_step_backward", dx.rows, lengths, dy.rows, dx.device);
  if (!dx.empty()) last_step_backward_impl(dy, lengths, dx);
}

void SequenceOps::softmax_cross_entropy(MatrixView<const float> logits, VectorView<const int32_t> targets,
                                        float scale, MatrixView<float> d_logits, VectorView<double> totals) {
  check_loss("softmax_cross_entropy", logits, targets, d_logits, totals);
  if (!logits.empty()) softmax_cross_entropy_impl(logits, targets, scale, d_logits, totals);
}

void SequenceOps::sigmoid_cross_entropy(MatrixView<const float> logits, VectorView<const int32_t> targets,
                                        float scale, MatrixView<float> d_logits, VectorView<double> totals) {
  check_loss("sigmoid_cross_entropy", logits, targets, d_logits, totals);
  if (logits.cols != 1) bad_input("sigmoid_cross_entropy: logits have {} columns, expected 1", logits.cols);
  if (!logits.empty()) sigmoid_cross_entropy_impl(logits, targets, scale, d_logits, totals);
}

}  // namespace coppice
