#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/recurrence.hpp"

// What a step does besides its product, one unit of one stream at a time: the gates' biases are in the gates
// already, so a unit reads its gates, applies the activations, moves its state and writes its output in one
// go.

namespace coppice::cuda {

/// One step of all streams; b counts streams, j units. Pointers are to the step's own rows.
struct ForwardStep {
  int64_t batch, hidden;
  int64_t step;            // t
  const int32_t* lengths;  // [B], or null: every stream is within its length
  float* gates;            // [B, G·H]
  int64_t gates_stride;
  const float* hidden_before;
  float* hidden_after;
  int64_t hidden_stride;
  const float* cell_before;  // LSTM
  float* cell_after;
  int64_t cell_stride;
  const float* candidate_bias;
  float* candidate_hidden;
  int64_t candidate_stride;
  float* output;  // or null: nobody asks, or it is `hidden_after`
  int64_t output_stride;

  __device__ bool active(int64_t b) const { return lengths == nullptr || step < lengths[b]; }
};

struct BackwardStep {
  int64_t batch, hidden;
  int64_t step;
  const int32_t* lengths;
  const float* gates;
  int64_t gates_stride;
  const float* hidden_before;
  int64_t hidden_stride;
  const float* cell_before;
  const float* cell_after;
  int64_t cell_stride;
  const float* candidate_hidden;
  int64_t candidate_stride;
  const float* d_output;
  int64_t d_output_stride;
  float* d_gates;  // may be `gates`: a unit reads all that it needs before it writes
  int64_t d_gates_stride;
  float* d_recurrent;  // GRU
  int64_t d_recurrent_stride;
  float*
      d_hidden;  // in: of the state after the step; out: what the product doesn't carry to the one before it
  int64_t d_hidden_stride;
  float* d_cell;
  int64_t d_cell_stride;
  bool adds_product;  // the product that follows adds to d_hidden, rather than overwriting it

  __device__ bool active(int64_t b) const { return lengths == nullptr || step < lengths[b]; }
};

/// By how many elements the rows of a step lie behind those of the one that ran before it; negative where it
/// runs the other way.
struct ForwardDistance {
  int64_t step, gates, hidden, cell, candidate, output;
};
struct BackwardDistance {
  int64_t step, gates, hidden, cell, candidate, d_output, d_gates, d_recurrent;
};

/// Pointers that are null stay null.
template <class T>
__device__ void advance(T*& pointer, int64_t distance) {
  if (pointer != nullptr) pointer += distance;
}
__device__ inline void advance(ForwardStep& s, const ForwardDistance& distance) {
  s.step += distance.step;
  s.gates += distance.gates;
  s.hidden_before += distance.hidden;
  s.hidden_after += distance.hidden;
  advance(s.cell_before, distance.cell);
  advance(s.cell_after, distance.cell);
  advance(s.candidate_hidden, distance.candidate);
  advance(s.output, distance.output);
}
__device__ inline void advance(BackwardStep& s, const BackwardDistance& distance) {
  s.step += distance.step;
  s.gates += distance.gates;
  s.hidden_before += distance.hidden;
  advance(s.cell_before, distance.cell);
  advance(s.cell_after, distance.cell);
  advance(s.candidate_hidden, distance.candidate);
  s.d_output += distance.d_output;
  s.d_gates += distance.d_gates;
  advance(s.d_recurrent, distance.d_recurrent);
}

// CUDA's own functions, not the fast approximations: tanhf and expf are off by 2 ulp at most. Both ends of
// the logistic function are right: e^-a overflows to infinity, and its reciprocal is 0.
__device__ inline float logistic(float a) {
  return 1.0f / (1.0f + expf(-a));
}

/// What a unit's forward step takes besides its state: the sum of x·W_ih, biases and h·W_hh for each gate. A
/// GRU's reset gate comes between the two, so it has the products h·W_hh apart, behind the gates.
constexpr int sum_count(Cell cell) {
  return static_cast<int>(cell == Cell::gru ? 2 * gate_count(cell) : gate_count(cell));
}

// The simple cells. The derivative is written in f's result, which the gates hold afterwards.
struct Tanh {
  __device__ static float value(float a) { return tanhf(a); }
  __device__ static float derivative(float h) { return 1.0f - h * h; }
};
struct Relu {
  __device__ static float value(float a) { return a < 0.0f ? 0.0f : a; }  // NaN stays NaN
  __device__ static float derivative(float h) { return h > 0.0f ? 1.0f : 0.0f; }
};
struct Logistic {
  __device__ static float value(float a) { return logistic(a); }
  __device__ static float derivative(float h) { return h * (1.0f - h); }
};

template <class Function>
struct SimpleCell {
  static constexpr Cell kCell = Cell::rnn_tanh;  // any of the three: one gate, no state of its own
  static constexpr int64_t kGates = gate_count(kCell);
  static constexpr int kSums = sum_count(kCell);

  __device__ static void forward(const ForwardStep& s, int64_t b, int64_t j, const float (&sums)[kSums]) {
    const float h = Function::value(sums[0]);
    s.gates[b * s.gates_stride + j] = h;
    s.hidden_after[b * s.hidden_stride + j] = h;
    if (s.output != nullptr) s.output[b * s.output_stride + j] = h;
  }

  __device__ static void backward(const BackwardStep& s, int64_t b, int64_t j) {
    float* d_hidden = s.d_hidden + b * s.d_hidden_stride;
    const float dh = s.d_output[b * s.d_output_stride + j] + d_hidden[j];
    s.d_gates[b * s.d_gates_stride + j] = dh * Function::derivative(s.gates[b * s.gates_stride + j]);
    if (s.adds_product) d_hidden[j] = 0.0f;
  }
};

struct LstmCell {
  static constexpr Cell kCell = Cell::lstm;
  static constexpr int64_t kGates = gate_count(kCell);
  static constexpr int kSums = sum_count(kCell);

  __device__ static void forward(const ForwardStep& s, int64_t b, int64_t j, const float (&sums)[kSums]) {
    const int64_t H = s.hidden;
    float* gates = s.gates + b * s.gates_stride + j;
    const float i = logistic(sums[0]);
    const float f = logistic(sums[1]);
    const float g = tanhf(sums[2]);
    const float o = logistic(sums[3]);
    const float c = f * s.cell_before[b * s.cell_stride + j] + i * g;
    const float h = o * tanhf(c);
    gates[0] = i;
    gates[H] = f;
    gates[2 * H] = g;
    gates[3 * H] = o;
    s.cell_after[b * s.cell_stride + j] = c;
    s.hidden_after[b * s.hidden_stride + j] = h;
    if (s.output != nullptr) s.output[b * s.output_stride + j] = h;
  }

  __device__ static void backward(const BackwardStep& s, int64_t b, int64_t j) {
    const int64_t H = s.hidden;
    const float* gates = s.gates + b * s.gates_stride + j;
    float* d_gates = s.d_gates + b * s.d_gates_stride + j;
    float* d_hidden = s.d_hidden + b * s.d_hidden_stride + j;
    float* d_cell = s.d_cell + b * s.d_cell_stride + j;
    const float i = gates[0], f = gates[H], g = gates[2 * H], o = gates[3 * H];
    const float c_before = s.cell_before[b * s.cell_stride + j];
    // tanh c' again: h'/o would lose its digits where o is small.
    const float tanh_c = tanhf(s.cell_after[b * s.cell_stride + j]);
    const float dh = s.d_output[b * s.d_output_stride + j] + *d_hidden;
    const float dc = *d_cell + dh * o * (1.0f - tanh_c * tanh_c);
    d_gates[0] = dc * g * (i * (1.0f - i));
    d_gates[H] = dc * c_before * (f * (1.0f - f));
    d_gates[2 * H] = dc * i * (1.0f - g * g);
    d_gates[3 * H] = dh * tanh_c * (o * (1.0f - o));
    *d_cell = dc * f;
    if (s.adds_product) *d_hidden = 0.0f;
  }
};

struct GruCell {
  static constexpr Cell kCell = Cell::gru;
  static constexpr int64_t kGates = gate_count(kCell);
  static constexpr int kSums = sum_count(kCell);

  __device__ static void forward(const ForwardStep& s, int64_t b, int64_t j, const float (&sums)[kSums]) {
    const int64_t H = s.hidden;
    float* gates = s.gates + b * s.gates_stride + j;
    const float bias = s.candidate_bias != nullptr ? s.candidate_bias[j] : 0.0f;
    const float h_before = s.hidden_before[b * s.hidden_stride + j];
    const float r = logistic(sums[0] + sums[3]);
    const float z = logistic(sums[1] + sums[4]);
    const float candidate = sums[5] + bias;
    const float n = tanhf(sums[2] + r * candidate);
    const float h = n + z * (h_before - n);
    gates[0] = r;
    gates[H] = z;
    gates[2 * H] = n;
    s.candidate_hidden[b * s.candidate_stride + j] = candidate;
    s.hidden_after[b * s.hidden_stride + j] = h;
    if (s.output != nullptr) s.output[b * s.output_stride + j] = h;
  }

  __device__ static void backward(const BackwardStep& s, int64_t b, int64_t j) {
    const int64_t H = s.hidden;
    const float* gates = s.gates + b * s.gates_stride + j;
    float* d_gates = s.d_gates + b * s.d_gates_stride + j;
    float* d_recurrent = s.d_recurrent + b * s.d_recurrent_stride + j;
    float* d_hidden = s.d_hidden + b * s.d_hidden_stride + j;
    const float r = gates[0], z = gates[H], n = gates[2 * H];
    const float dh = s.d_output[b * s.d_output_stride + j] + *d_hidden;
    const float dn = dh * (1.0f - z) * (1.0f - n * n);
    const float dr = dn * s.candidate_hidden[b * s.candidate_stride + j] * (r * (1.0f - r));
    const float dz = dh * (s.hidden_before[b * s.hidden_stride + j] - n) * (z * (1.0f - z));
    d_gates[0] = dr;
    d_gates[H] = dz;
    d_gates[2 * H] = dn;
    d_recurrent[0] = dr;
    d_recurrent[H] = dz;
    d_recurrent[2 * H] = dn * r;
    *d_hidden = dh * z;  // the product always adds to it
  }
};

/// The gates of unit j as they lie in memory: `sums` but for what the recurrent product adds.
template <class CellType>
__device__ void load_gates(const ForwardStep& s, int64_t b, int64_t j, float (&sums)[CellType::kSums]) {
  for (int gate = 0; gate < CellType::kGates; ++gate) {
    sums[gate] = s.gates[b * s.gates_stride + gate * s.hidden + j];
  }
}
/// One gate's h·W_hh.
template <class CellType>
__device__ void add_product(float (&sums)[CellType::kSums], int gate, float product) {
  if constexpr (CellType::kCell == Cell::gru) {
    sums[CellType::kGates + gate] = product;
  } else {
    sums[gate] += product;
  }
}

/// A stream past its end: the state goes on, everything else is 0.
template <class CellType>
__device__ void carry_on(const ForwardStep& s, int64_t b, int64_t j) {
  s.hidden_after[b * s.hidden_stride + j] = s.hidden_before[b * s.hidden_stride + j];
  if constexpr (CellType::kCell == Cell::lstm) {
    s.cell_after[b * s.cell_stride + j] = s.cell_before[b * s.cell_stride + j];
  }
  if constexpr (CellType::kCell == Cell::gru) s.candidate_hidden[b * s.candidate_stride + j] = 0.0f;
  for (int64_t gate = 0; gate < CellType::kGates; ++gate) {
    s.gates[b * s.gates_stride + gate * s.hidden + j] = 0.0f;
  }
  if (s.output != nullptr) s.output[b * s.output_stride + j] = 0.0f;
}

template <class CellType>
__device__ void step_unit(const ForwardStep& s, int64_t b, int64_t j, const float (&sums)[CellType::kSums]) {
  if (s.active(b)) {
    CellType::forward(s, b, j, sums);
  } else {
    carry_on<CellType>(s, b, j);
  }
}

/// Its gradient goes back unchanged.
template <class CellType>
__device__ void carry_back(const BackwardStep& s, int64_t b, int64_t j) {
  for (int64_t gate = 0; gate < CellType::kGates; ++gate) {
    s.d_gates[b * s.d_gates_stride + gate * s.hidden + j] = 0.0f;
    if constexpr (CellType::kCell == Cell::gru) {
      s.d_recurrent[b * s.d_recurrent_stride + gate * s.hidden + j] = 0.0f;
    }
  }
}

template <class CellType>
__device__ void step_unit_back(const BackwardStep& s, int64_t b, int64_t j) {
  if (s.active(b)) {
    CellType::backward(s, b, j);
  } else {
    carry_back<CellType>(s, b, j);
  }
}

// One thread a unit, streams along y. Neighbouring threads read neighbouring words, and a unit has up to nine
// loads in flight; four units a thread (16-byte loads) would leave most of the device idle at the sizes of a
// step, which fit the second-level cache anyway.
inline constexpr int kCellThreads = 128;

/// The gates have the recurrent product in them, but for GRU's, which is `product` [B, 3·H].
template <class CellType>
__global__ void __launch_bounds__(kCellThreads) forward_step(ForwardStep s, const float* product) {
  const int64_t j = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (j >= s.hidden) return;
  for (int64_t b = blockIdx.y; b < s.batch; b += gridDim.y) {
    float sums[CellType::kSums];
    load_gates<CellType>(s, b, j, sums);
    if constexpr (CellType::kCell == Cell::gru) {
      for (int gate = 0; gate < CellType::kGates; ++gate) {
        add_product<CellType>(sums, gate, product[b * 3 * s.hidden + gate * s.hidden + j]);
      }
    }
    step_unit<CellType>(s, b, j, sums);
  }
}

template <class CellType>
__global__ void __launch_bounds__(kCellThreads) backward_step(BackwardStep s) {
  const int64_t j = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (j >= s.hidden) return;
  for (int64_t b = blockIdx.y; b < s.batch; b += gridDim.y) step_unit_back<CellType>(s, b, j);
}

/// Calls f with the type of a cell, so that a kernel is instantiated for each.
template <class F>
auto visit_cell(Cell cell, F f) {
  switch (cell) {
    case Cell::rnn_tanh:
      return f(SimpleCell<Tanh>{});
    case Cell::rnn_relu:
      return f(SimpleCell<Relu>{});
    case Cell::rnn_sigmoid:
      return f(SimpleCell<Logistic>{});
    case Cell::gru:
      return f(GruCell{});
    case Cell::lstm:
      break;
  }
  return f(LstmCell{});
}

}  // namespace coppice::cuda
