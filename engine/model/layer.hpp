#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/parameter_store.hpp"
#include "kernels/backend.hpp"

namespace coppice {

struct LayoutPolicy;

/// The shape of one batch on the device, and the two integer inputs of a sequence, which layers share.
struct SequenceShape {
  int64_t steps = 0;                    // T
  int64_t batch = 0;                    // B
  VectorView<const int32_t> lengths{};  // [B], or empty when every stream has T valid steps
  VectorView<const int32_t> ids{};      // [T·B] when the steps are ids (the embedding's input), else empty
  int64_t rows() const { return steps * batch; }
};

/// A bump allocator over one device buffer: what a forward pass saves for its backward pass, at addresses
/// that stay the same from batch to batch of one shape (so that a captured graph can be replayed).
class Arena {
 public:
  explicit Arena(Backend& backend) : backend_(&backend) {}
  /// Grows to at least `bytes`; everything handed out before is gone.
  void reserve(int64_t bytes);
  void reset() { used_ = 0; }
  int64_t capacity() const { return buffer_.bytes(); }

  MatrixView<float> matrix(int64_t rows, int64_t cols);
  VectorView<float> vector(int64_t size);

  /// Bytes that `matrix(rows, cols)` takes, alignment included.
  static int64_t bytes(int64_t rows, int64_t cols) {
    return (rows * cols * static_cast<int64_t>(sizeof(float)) + kAlignment - 1) / kAlignment * kAlignment;
  }

 private:
  Backend* backend_;
  Buffer buffer_;
  int64_t used_ = 0;
};

/// How many of a model's large matrices execute sparse.
struct MatrixCount {
  int64_t all = 0;
  int64_t sparse = 0;
};

struct Pass {
  bool training = false;       // `saved` is kept for backward
  bool dropout = false;        // dropout draws
  bool input_gradient = true;  // backward: somebody wants dx
  RandomStream random{};       // dropout
};

/// A layer with hand-written passes: no tape, because W·x of all time steps is one product and dW is one
/// product over T·B rows, which a tape of small operations hides.
///
/// Contract of gradients: **parameter gradients accumulate (+=)**, so that micro-batches add up; **activation
/// gradients overwrite (=)**. `saved` is bump-allocated by forward in the same order each time; backward gets
/// the arena as forward left it and may overwrite what was saved.
class Layer {
 public:
  virtual ~Layer() = default;

  virtual std::string_view kind() const = 0;  // "embedding", "recurrent", "dense", …
  virtual int64_t outputs() const = 0;        // width of y
  /// Rows of y for so many of x: as many, but for `last_step`.
  virtual int64_t output_rows(const SequenceShape& /*shape*/, int64_t input_rows) const { return input_rows; }
  /// The tensors of this layer; the store is made from all layers' segments.
  virtual std::vector<Segment> segments() const { return {}; }
  /// Called once when the store exists; it outlives the layer.
  virtual void bind(ParameterStore&) {}
  /// Fills this layer's parameters on the host side from counter-based draws; `init` as in ModelConfig.
  virtual void initialise(ParameterStore&, std::string_view /*init*/, double /*range*/, uint64_t /*seed*/) {}

  /// y may be x: the network then hands the same memory to both, forwards and backwards.
  virtual bool in_place() const { return false; }

  /// Arena bytes that forward takes for this shape. Without `training` they are scratch.
  virtual int64_t saved_bytes(const SequenceShape& shape, bool training) const = 0;

  /// x [rows, inputs] → y [output_rows, outputs]. The embedding reads shape.ids and ignores x.
  virtual void forward(const SequenceShape& shape, MatrixView<const float> x, MatrixView<float> y,
                       Arena& saved, const Pass& pass) = 0;
  /// dy → dx (empty when pass.input_gradient is false), and += into the store's gradients.
  virtual void backward(const SequenceShape& shape, MatrixView<const float> x, MatrixView<const float> dy,
                        MatrixView<float> dx, const Pass& pass) = 0;

  /// Floats of carried state a stream (0: none); the network owns the memory.
  virtual int64_t state_floats() const { return 0; }
  /// state [B, state_floats()] or empty (zero initial state): read before, written after a forward pass. A
  /// row is h (and c, for LSTM) of each direction in turn. Gradients don't flow through it: backpropagation
  /// is truncated at the batch.
  virtual void attach_state(MatrixView<float> /*state*/) {}

  /// Inference: the layer's large matrices as the policy has them instead of dense, made from the store.
  virtual void use_layout(const LayoutPolicy& /*policy*/) {}
  /// Training while masks hold: the matrices of which at least a share `from`, and something, is cut execute
  /// in `layout` by their masks, the others dense. Adds to the counts of large matrices, all and sparse ones.
  virtual void use_masks(std::string_view /*layout*/, double /*from*/, MatrixCount& /*count*/) {}
  /// Adds the layouts in which they execute now, by tensor name.
  virtual void add_layouts(std::map<std::string, std::string>& /*layouts*/) const {}
  /// Bytes of the weights as they execute now.
  virtual int64_t weight_bytes() const { return 0; }
};

}  // namespace coppice
