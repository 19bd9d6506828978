#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/model/initialise.hpp"
#include "engine/model/layers.hpp"
#include "engine/model/row_stride.hpp"
#include "engine/model/stored_weight.hpp"

namespace coppice {

namespace {

/// One direction: its tensors, and what a forward pass left for the backward pass.
struct Direction {
  bool reverse = false;
  StoredWeight input;      // W_ih [G·H, inputs]
  StoredWeight recurrent;  // W_hh [G·H, H]
  const Segment* bias_ih = nullptr;
  const Segment* bias_hh = nullptr;
  Buffer bias;  // [G·H]: what is added to x·W_ihᵀ, renewed when the store changes

  MatrixView<float> gates;             // [T·B, G·H]; backward turns them into their gradient in place
  MatrixView<float> hidden_states;     // [(T + 1)·B, H]
  MatrixView<float> cell_states;       // [(T + 1)·B, H], LSTM
  MatrixView<float> candidate_hidden;  // [T·B, H], GRU
  MatrixView<float> d_recurrent;       // [T·B, 3·H], GRU
  MatrixView<float> d_hidden;          // [B, H]
  MatrixView<float> d_cell;            // [B, H], LSTM
};

class Recurrent final : public Layer {
 public:
  explicit Recurrent(RecurrentConfig config)
      : config_(std::move(config)), width_(gate_count(config_.cell) * config_.hidden) {
    directions_.resize(config_.bidirectional ? 2 : 1);
    if (config_.bidirectional) directions_[1].reverse = true;
  }

  std::string_view kind() const override { return "recurrent"; }
  int64_t outputs() const override { return config_.hidden * static_cast<int64_t>(directions_.size()); }

  std::vector<Segment> segments() const override {
    std::vector<Segment> list;
    const int64_t gates = gate_count(config_.cell);
    const std::string names(gates > 1 ? gate_names(config_.cell) : "");
    for (const Direction& direction : directions_) {
      const auto add = [&](std::string_view what, std::vector<int64_t> shape, bool prunable) {
        list.push_back({.name = tensor_name(what, direction.reverse),
                        .shape = std::move(shape),
                        .prunable = prunable,
                        .gates = gates,
                        .gate_names = names});
      };
      add("weight_ih", {width_, config_.inputs}, true);
      add("weight_hh", {width_, config_.hidden}, true);
      add("bias_ih", {width_}, false);
      add("bias_hh", {width_}, false);
    }
    return list;
  }

  void bind(ParameterStore& store) override {
    store_ = &store;
    for (Direction& direction : directions_) {
      direction.input.bind(store, tensor_name("weight_ih", direction.reverse));
      direction.recurrent.bind(store, tensor_name("weight_hh", direction.reverse));
      direction.bias_ih = &store.segment(tensor_name("bias_ih", direction.reverse));
      direction.bias_hh = &store.segment(tensor_name("bias_hh", direction.reverse));
      direction.bias = Buffer(store.backend(), bytes_of(width_), "biases");
    }
    bias_sum_ = Buffer(store.backend(), bytes_of(width_), "bias gradient");
  }

  void initialise(ParameterStore& store, std::string_view init, double range, uint64_t seed) override {
    for (Direction& direction : directions_) {
      const Segment& input = direction.input.segment();
      const Segment& recurrent = direction.recurrent.segment();
      if (init == "keras") {
        fill_glorot(store, input, seed);
        fill_orthogonal(store, recurrent, seed);
        // Keras has one bias and sets the forget gate's to 1 (Jozefowicz et al. 2015); here b_ih carries it.
        const int64_t h = config_.hidden;
        fill_rows(store, *direction.bias_ih, h, config_.cell == Cell::lstm ? 2 * h : h, 1.0f);
        fill_constant(store, *direction.bias_hh, 0.0f);
        continue;
      }
      const double bound = init == "pytorch" ? 1.0 / std::sqrt(static_cast<double>(config_.hidden)) : range;
      for (const Segment* segment : {&input, &recurrent, direction.bias_ih, direction.bias_hh}) {
        fill_uniform(store, *segment, bound, seed);
      }
    }
  }

  int64_t saved_bytes(const SequenceShape& shape, bool training) const override {
    const int64_t h = config_.hidden, rows = shape.rows(), slots = rows + shape.batch;
    int64_t bytes = Arena::bytes(rows, row_stride(width_)) + Arena::bytes(slots, h);
    if (config_.cell == Cell::lstm) bytes += Arena::bytes(slots, h);
    if (config_.cell == Cell::gru) bytes += Arena::bytes(rows, h);
    if (training) {
      bytes += Arena::bytes(shape.batch, h);
      if (config_.cell == Cell::lstm) bytes += Arena::bytes(shape.batch, h);
      if (config_.cell == Cell::gru) bytes += Arena::bytes(rows, width_);
    }
    return bytes * static_cast<int64_t>(directions_.size());
  }

  void forward(const SequenceShape& shape, MatrixView<const float> x, MatrixView<float> y, Arena& saved,
               const Pass& pass) override {
    refresh_biases();
    const int64_t rows = shape.rows(), slots = rows + shape.batch;
    for (size_t d = 0; d < directions_.size(); ++d) {
      Direction& direction = directions_[d];
      take(direction, rows, slots, shape.batch, saved, pass.training);

      direction.input.current().multiply(x, direction.bias.vector<float>(width_), direction.gates);

      const int64_t first = direction.reverse ? rows : 0;
      const int64_t last = direction.reverse ? 0 : rows;
      load_state(d, direction.hidden_states.row_slice(first, shape.batch), 0);
      if (config_.cell == Cell::lstm) {
        load_state(d, direction.cell_states.row_slice(first, shape.batch), config_.hidden);
      }
      RecurrenceForward sequence;
      sequence.cell = config_.cell;
      sequence.steps = shape.steps;
      sequence.batch = shape.batch;
      sequence.hidden = config_.hidden;
      sequence.reverse = direction.reverse;
      sequence.recurrent = &direction.recurrent.current();
      if (config_.cell == Cell::gru) {
        sequence.candidate_bias =
            store_->vector(*direction.bias_hh).slice(2 * config_.hidden, config_.hidden);
      }
      sequence.gates = direction.gates;
      sequence.hidden_states = direction.hidden_states;
      sequence.cell_states = direction.cell_states;
      sequence.candidate_hidden = direction.candidate_hidden;
      sequence.output = output_slice(y, d);
      sequence.lengths = shape.lengths;
      backend().recurrence().forward(sequence);

      store_state(d, direction.hidden_states.row_slice(last, shape.batch), 0);
      if (config_.cell == Cell::lstm) {
        store_state(d, direction.cell_states.row_slice(last, shape.batch), config_.hidden);
      }
    }
  }

  void backward(const SequenceShape& shape, MatrixView<const float> x, MatrixView<const float> dy,
                MatrixView<float> dx, const Pass& pass) override {
    const int64_t rows = shape.rows();
    for (size_t d = 0; d < directions_.size(); ++d) {
      Direction& direction = directions_[d];
      // Nothing comes back from the batch after this one.
      backend().fill_zero(direction.d_hidden.data, bytes_of(shape.batch * config_.hidden));
      if (config_.cell == Cell::lstm) {
        backend().fill_zero(direction.d_cell.data, bytes_of(shape.batch * config_.hidden));
      }
      RecurrenceBackward sequence;
      sequence.cell = config_.cell;
      sequence.steps = shape.steps;
      sequence.batch = shape.batch;
      sequence.hidden = config_.hidden;
      sequence.reverse = direction.reverse;
      sequence.recurrent = &direction.recurrent.current();
      sequence.gates = direction.gates;
      sequence.hidden_states = direction.hidden_states;
      sequence.cell_states = direction.cell_states;
      sequence.candidate_hidden = direction.candidate_hidden;
      sequence.lengths = shape.lengths;
      sequence.d_output = output_slice(dy, d);
      sequence.d_gates = direction.gates;
      sequence.d_recurrent = direction.d_recurrent;
      sequence.d_hidden = direction.d_hidden;
      sequence.d_cell = direction.d_cell;
      backend().recurrence().backward(sequence);

      const bool gru = config_.cell == Cell::gru;
      const MatrixView<float> d_gates = direction.gates;
      const MatrixView<float> d_recurrent = gru ? direction.d_recurrent : direction.gates;
      const MatrixView<float> before =
          direction.hidden_states.row_slice(direction.reverse ? shape.batch : 0, rows);
      direction.input.current().accumulate_gradient(d_gates, x, direction.input.gradient());
      direction.recurrent.current().accumulate_gradient(d_recurrent, before, direction.recurrent.gradient());
      add_bias_gradients(direction, d_gates, d_recurrent);
      if (pass.input_gradient) direction.input.current().multiply_transposed(d_gates, dx, d > 0);
    }
  }

  int64_t state_floats() const override { return outputs() * (config_.cell == Cell::lstm ? 2 : 1); }
  void attach_state(MatrixView<float> state) override { state_ = state; }

  void use_layout(const LayoutPolicy& policy) override {
    for (Direction& direction : directions_) {
      direction.input.use_layout(policy);
      direction.recurrent.use_layout(policy);
    }
  }
  void add_layouts(std::map<std::string, std::string>& layouts) const override {
    for (const Direction& direction : directions_) {
      direction.input.add_layout(layouts);
      direction.recurrent.add_layout(layouts);
    }
  }
  void use_masks(std::string_view layout, double from, MatrixCount& count) override {
    for (Direction& direction : directions_) {
      for (StoredWeight* weight : {&direction.input, &direction.recurrent}) {
        ++count.all;
        if (weight->use_mask(layout, from)) ++count.sparse;
      }
    }
  }
  int64_t weight_bytes() const override {
    int64_t bytes = 0;
    for (const Direction& direction : directions_) {
      bytes += direction.input.bytes() + direction.recurrent.bytes() + 2 * bytes_of(width_);
    }
    return bytes;
  }

 private:
  static int64_t bytes_of(int64_t floats) { return floats * static_cast<int64_t>(sizeof(float)); }
  Backend& backend() const { return store_->backend(); }

  std::string tensor_name(std::string_view what, bool reverse) const {
    return fmt::format("{}.{}_l{}{}", config_.name, what, config_.index, reverse ? "_reverse" : "");
  }

  template <class T>
  MatrixView<T> output_slice(MatrixView<T> matrix, size_t direction) const {
    return matrix.col_slice(static_cast<int64_t>(direction) * config_.hidden, config_.hidden);
  }

  void take(Direction& direction, int64_t rows, int64_t slots, int64_t batch, Arena& saved, bool training) {
    const int64_t h = config_.hidden;
    direction.gates = saved.matrix(rows, row_stride(width_)).col_slice(0, width_);
    direction.hidden_states = saved.matrix(slots, h);
    if (config_.cell == Cell::lstm) direction.cell_states = saved.matrix(slots, h);
    if (config_.cell == Cell::gru) direction.candidate_hidden = saved.matrix(rows, h);
    if (!training) return;
    direction.d_hidden = saved.matrix(batch, h);
    if (config_.cell == Cell::lstm) direction.d_cell = saved.matrix(batch, h);
    if (config_.cell == Cell::gru) direction.d_recurrent = saved.matrix(rows, width_);
  }

  MatrixView<float> state_slice(size_t direction, int64_t part) const {
    const int64_t width = state_floats() / static_cast<int64_t>(directions_.size());
    return state_.col_slice(static_cast<int64_t>(direction) * width + part, config_.hidden);
  }
  void load_state(size_t direction, MatrixView<float> slot, int64_t part) {
    if (state_.data == nullptr) {
      backend().fill_zero(slot.data, bytes_of(slot.rows * slot.cols));
    } else {
      backend().copy(state_slice(direction, part), slot);
    }
  }
  void store_state(size_t direction, MatrixView<float> slot, int64_t part) {
    if (state_.data != nullptr) backend().copy(slot, state_slice(direction, part));
  }

  /// b_ih + b_hh, which x·W_ihᵀ starts from; but GRU's b_hn stays inside the reset gate's product. The two
  /// lie in one buffer, so they are the two rows of a matrix whose columns are summed.
  void refresh_biases() {
    if (bias_version_ == store_->version()) return;
    const bool gru = config_.cell == Cell::gru;
    const int64_t summed = gru ? 2 * config_.hidden : width_;
    for (Direction& direction : directions_) {
      const VectorView<float> first = store_->vector(*direction.bias_ih);
      const MatrixView<const float> both{first.data, 2, summed,
                                         direction.bias_hh->offset - direction.bias_ih->offset, first.device};
      backend().fill_zero(direction.bias.data(), bytes_of(width_));
      backend().sequence().add_column_sums(both, direction.bias.vector<float>(summed));
      if (gru) {
        backend().copy(first.slice(summed, config_.hidden).data,
                       direction.bias.vector<float>(config_.hidden, summed).data, bytes_of(config_.hidden));
      }
    }
    bias_version_ = store_->version();
  }

  /// Where both biases have the same gradient, the long sum over T·B rows is taken once.
  void add_bias_gradients(Direction& direction, MatrixView<const float> d_gates,
                          MatrixView<const float> d_recurrent) {
    const VectorView<float> d_ih = store_->gradient_vector(*direction.bias_ih);
    const VectorView<float> d_hh = store_->gradient_vector(*direction.bias_hh);
    if (config_.cell == Cell::gru) {
      backend().sequence().add_column_sums(d_gates, d_ih);
      backend().sequence().add_column_sums(d_recurrent, d_hh);
      return;
    }
    backend().fill_zero(bias_sum_.data(), bytes_of(width_));
    backend().sequence().add_column_sums(d_gates, bias_sum_.vector<float>(width_));
    backend().sequence().add_column_sums(bias_sum_.matrix<const float>(1, width_), d_ih);
    backend().sequence().add_column_sums(bias_sum_.matrix<const float>(1, width_), d_hh);
  }

  RecurrentConfig config_;
  int64_t width_;  // G·H
  std::vector<Direction> directions_;
  ParameterStore* store_ = nullptr;
  Buffer bias_sum_;  // [G·H]
  uint64_t bias_version_ = 0;
  MatrixView<float> state_{};
};

}  // namespace

std::unique_ptr<Layer> make_recurrent(RecurrentConfig config) {
  return std::make_unique<Recurrent>(std::move(config));
}

}  // namespace coppice
