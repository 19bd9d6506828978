#pragma once

#include <cstdint>

namespace coppice::cpu {

/// The elementwise part of one step of a recurrence for `rows` streams at once. Every pointer is to the first
/// row; rows lie `*_stride` floats apart; a row of gates has G blocks of H floats (recurrence.hpp gives their
/// order).
struct CellForward {
  int64_t rows = 0;
  int64_t hidden = 0;      // H
  float* gates = nullptr;  // [rows, G·H] in: before, out: after the activation
  int64_t gates_stride = 0;
  const float* recurrent = nullptr;  // GRU: h·W_hhᵀ [rows, 3·H], not yet added to the gates
  int64_t recurrent_stride = 0;
  const float* candidate_bias = nullptr;  // GRU: b_hn [H] or null
  float* candidate_hidden = nullptr;      // GRU: out: W_hn·h + b_hn
  int64_t candidate_stride = 0;
  const float* hidden_before = nullptr;  // GRU
  float* hidden_after = nullptr;
  int64_t hidden_stride = 0;
  const float* cell_before = nullptr;  // LSTM
  float* cell_after = nullptr;
  int64_t cell_stride = 0;
  float* output = nullptr;  // a second place for hidden_after, or null
  int64_t output_stride = 0;
};

/// Its backward pass. dh = d_output + d_hidden, where d_hidden arrives from the step after; it leaves as what
/// reaches the step before *without* going through W_hh: dh·z for GRU, 0 for the others.
struct CellBackward {
  int64_t rows = 0;
  int64_t hidden = 0;
  const float* gates = nullptr;
  int64_t gates_stride = 0;
  const float* candidate_hidden = nullptr;  // GRU
  int64_t candidate_stride = 0;
  const float* hidden_before = nullptr;  // GRU
  int64_t hidden_stride = 0;
  const float* cell_before = nullptr;  // LSTM
  const float* cell_after = nullptr;
  int64_t cell_stride = 0;
  const float* d_output = nullptr;
  int64_t d_output_stride = 0;
  float* d_gates = nullptr;  // may be `gates`
  int64_t d_gates_stride = 0;
  float* d_recurrent = nullptr;  // GRU
  int64_t d_recurrent_stride = 0;
  float* d_hidden = nullptr;
  int64_t d_hidden_stride = 0;
  float* d_cell = nullptr;  // LSTM: in and out
  int64_t d_cell_stride = 0;
};

struct CellKernels {
  void (*forward[5])(const CellForward&);  // by Cell
  void (*backward[5])(const CellBackward&);
  // The functions behind them, over arrays: for the tests of their accuracy.
  void (*exponential)(const float* x, float* y, int64_t n);
  void (*hyperbolic_tangent)(const float* x, float* y, int64_t n);
  void (*logistic)(const float* x, float* y, int64_t n);
};

namespace baseline {
const CellKernels& cell_kernels();
}
namespace avx2 {
const CellKernels& cell_kernels();
}
namespace avx512 {
const CellKernels& cell_kernels();
}

}  // namespace coppice::cpu
