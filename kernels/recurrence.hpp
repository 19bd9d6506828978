#pragma once

#include <string_view>

#include "kernels/tensor.hpp"
#include "kernels/weight.hpp"

namespace coppice {

/// Recurrent cells in PyTorch's form (torch.nn.RNN, LSTM, GRU). Gate rows of the weights lie in this order,
/// each [H] tall; it is written down here and nowhere else:
///   rnn_*  one gate        h' = f(a)
///   lstm   i, f, g, o      c' = σ(f)·c + σ(i)·tanh(g),  h' = σ(o)·tanh(c')
///   gru    r, z, n         n = tanh(a_n + σ(r)·(W_hn·h + b_hn)),  h' = (1 − σ(z))·n + σ(z)·h
enum class Cell { rnn_tanh, rnn_relu, rnn_sigmoid, lstm, gru };

constexpr int64_t gate_count(Cell cell) {
  return cell == Cell::lstm ? 4 : cell == Cell::gru ? 3 : 1;
}
constexpr std::string_view gate_names(Cell cell) {  // one letter a gate; "h" for the simple cells
  return cell == Cell::lstm ? "ifgo" : cell == Cell::gru ? "rzn" : "h";
}

/// One direction of one recurrent layer over a whole sequence. Time-major: row t·B + b of a [T·B, ·] matrix
/// is step t of stream b. The *sequence* is the operation, so that a persistent parallel region, a captured
/// graph or a persistent kernel can live inside it.
///
/// States have T + 1 slots of [B, ·] rows. Forwards, slot t holds the state before step t and slot t + 1 the
/// state after it: the caller fills slot 0, the last state ends in slot T. In reverse, the state before step
/// t is slot t + 1 and the state after it slot t: the caller fills slot T, the last state ends in slot 0.
///
/// `lengths` [B] (empty: all T) gives each stream's valid steps, 0..T (on a device unchecked: sequence.hpp).
/// At steps t >= length the state is carried on unchanged, `gates`, `candidate_hidden` and `output` are 0,
/// and backward gives exact zeros in `d_gates` and `d_recurrent`.
struct RecurrenceForward {
  Cell cell{};
  int64_t steps = 0;   // T
  int64_t batch = 0;   // B
  int64_t hidden = 0;  // H
  bool reverse = false;
  Weight* recurrent = nullptr;             // W_hh [G·H, H]
  VectorView<const float> candidate_bias;  // GRU: b_hn [H] (or empty: zeros); others: empty
  MatrixView<float> gates;                 // [T·B, G·H] in: x·W_ihᵀ + b_ih, + b_hh but for GRU's n;
                                           //            out: the gates after their activation
  MatrixView<float> hidden_states;         // [(T+1)·B, H]
  MatrixView<float> cell_states;           // [(T+1)·B, H] for LSTM, else empty
  MatrixView<float> candidate_hidden;      // [T·B, H] for GRU: out: W_hn·h + b_hn; else empty
  MatrixView<float> output;                // [T·B, H], any stride: h' of each step, 0 past the end; or
                                           //   empty: the caller reads hidden_states. Without lengths it may
                                           //   *be* the slots after the steps, which saves a pass
  VectorView<const int32_t> lengths;       // [B] or empty
};

/// The backward pass of the same sequence, from what forward left behind. Activation gradients overwrite.
/// Parameter gradients are the caller's: dW_hh += d_recurrentᵀ·(states before each step), one product over
/// all T·B rows.
struct RecurrenceBackward {
  Cell cell{};
  int64_t steps = 0;
  int64_t batch = 0;
  int64_t hidden = 0;
  bool reverse = false;
  Weight* recurrent = nullptr;    // W_hh [G·H, H]
  MatrixView<const float> gates;  // as forward left them
  MatrixView<const float> hidden_states;
  MatrixView<const float> cell_states;
  MatrixView<const float> candidate_hidden;
  VectorView<const int32_t> lengths;
  MatrixView<const float> d_output;  // [T·B, H], any stride
  MatrixView<float> d_gates;         // [T·B, G·H] out: gradient at x·W_ihᵀ + b_ih; may be `gates`
  MatrixView<float> d_recurrent;     // [T·B, 3·H] out for GRU: gradient at h·W_hhᵀ + b_hh, which
                                     //   differs in the n block; else empty (d_gates serves)
  MatrixView<float> d_hidden;        // [B, H] in: gradient of the last state; out: of the first; or
                                     //   empty: 0 comes in and nobody asks for what comes out, which
                                     //   saves one product (truncated backpropagation)
  MatrixView<float> d_cell;          // [B, H] for LSTM, the same; else empty
};

class RecurrenceOps {
 public:
  virtual ~RecurrenceOps() = default;
  void forward(const RecurrenceForward& sequence);
  void backward(const RecurrenceBackward& sequence);

 protected:
  virtual void forward_impl(const RecurrenceForward& sequence) = 0;
  virtual void backward_impl(const RecurrenceBackward& sequence) = 0;
};

}  // namespace coppice
