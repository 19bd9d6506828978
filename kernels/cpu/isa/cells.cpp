#include "kernels/cpu/isa/cells.hpp"

#include "kernels/cpu/isa/vector_math.hpp"

namespace coppice::cpu::COPPICE_ISA {
namespace {

// The simple cells: one gate, h' = f(a). The derivative is written in f's result, which the gates hold
// afterwards.
struct Tanh {
  static Floats value(Floats a) { return hyperbolic_tangent(a); }
  static Floats derivative(Floats h) { return 1.0f - h * h; }
};
struct Relu {
  static Floats value(Floats a) { return a < 0.0f ? Floats{} : a; }  // NaN stays NaN
  static Floats derivative(Floats h) { return h > 0.0f ? broadcast(1.0f) : Floats{}; }
};
struct Logistic {
  static Floats value(Floats a) { return logistic(a); }
  static Floats derivative(Floats h) { return h * (1.0f - h); }
};

template <class Function>
void simple_forward(const CellForward& s) {
  for (int64_t r = 0; r < s.rows; ++r) {
    float* gates = s.gates + r * s.gates_stride;
    float* hidden = s.hidden_after + r * s.hidden_stride;
    float* output = s.output ? s.output + r * s.output_stride : nullptr;
    for_each_register(s.hidden, [=](int64_t j, auto lanes) {
      const Floats h = Function::value(load(gates + j, lanes));
      store(gates + j, h, lanes);
      store(hidden + j, h, lanes);
      if (output) store(output + j, h, lanes);
    });
  }
}

template <class Function>
void simple_backward(const CellBackward& s) {
  for (int64_t r = 0; r < s.rows; ++r) {
    const float* gates = s.gates + r * s.gates_stride;
    const float* d_output = s.d_output + r * s.d_output_stride;
    float* d_gates = s.d_gates + r * s.d_gates_stride;
    float* d_hidden = s.d_hidden + r * s.d_hidden_stride;
    for_each_register(s.hidden, [=](int64_t j, auto lanes) {
      const Floats dh = load(d_output + j, lanes) + load(d_hidden + j, lanes);
      store(d_gates + j, dh * Function::derivative(load(gates + j, lanes)), lanes);
      store(d_hidden + j, Floats{}, lanes);
    });
  }
}

void lstm_forward(const CellForward& s) {
  const int64_t H = s.hidden;
  for (int64_t r = 0; r < s.rows; ++r) {
    float* gates = s.gates + r * s.gates_stride;
    const float* cell_before = s.cell_before + r * s.cell_stride;
    float* cell_after = s.cell_after + r * s.cell_stride;
    float* hidden = s.hidden_after + r * s.hidden_stride;
    float* output = s.output ? s.output + r * s.output_stride : nullptr;
    for_each_register(H, [=](int64_t j, auto lanes) {
      const Floats i = logistic(load(gates + j, lanes));
      const Floats f = logistic(load(gates + H + j, lanes));
      const Floats g = hyperbolic_tangent(load(gates + 2 * H + j, lanes));
      const Floats o = logistic(load(gates + 3 * H + j, lanes));
      const Floats c = f * load(cell_before + j, lanes) + i * g;
      const Floats h = o * hyperbolic_tangent(c);
      store(gates + j, i, lanes);
      store(gates + H + j, f, lanes);
      store(gates + 2 * H + j, g, lanes);
      store(gates + 3 * H + j, o, lanes);
      store(cell_after + j, c, lanes);
      store(hidden + j, h, lanes);
      if (output) store(output + j, h, lanes);
    });
  }
}

void lstm_backward(const CellBackward& s) {
  const int64_t H = s.hidden;
  for (int64_t r = 0; r < s.rows; ++r) {
    const float* gates = s.gates + r * s.gates_stride;
    const float* cell_before = s.cell_before + r * s.cell_stride;
    const float* cell_after = s.cell_after + r * s.cell_stride;
    const float* d_output = s.d_output + r * s.d_output_stride;
    float* d_gates = s.d_gates + r * s.d_gates_stride;
    float* d_hidden = s.d_hidden + r * s.d_hidden_stride;
    float* d_cell = s.d_cell + r * s.d_cell_stride;
    for_each_register(H, [=](int64_t j, auto lanes) {
      const Floats i = load(gates + j, lanes);
      const Floats f = load(gates + H + j, lanes);
      const Floats g = load(gates + 2 * H + j, lanes);
      const Floats o = load(gates + 3 * H + j, lanes);
      // tanh c' again: cheaper than a pass of memory for it, and h'/o would lose its digits where o is small.
      const Floats tanh_c = hyperbolic_tangent(load(cell_after + j, lanes));
      const Floats dh = load(d_output + j, lanes) + load(d_hidden + j, lanes);
      const Floats dc = load(d_cell + j, lanes) + dh * o * (1.0f - tanh_c * tanh_c);
      const Floats c = load(cell_before + j, lanes);
      store(d_gates + j, dc * g * (i * (1.0f - i)), lanes);
      store(d_gates + H + j, dc * c * (f * (1.0f - f)), lanes);
      store(d_gates + 2 * H + j, dc * i * (1.0f - g * g), lanes);
      store(d_gates + 3 * H + j, dh * tanh_c * (o * (1.0f - o)), lanes);
      store(d_cell + j, dc * f, lanes);
      store(d_hidden + j, Floats{}, lanes);
    });
  }
}

void gru_forward(const CellForward& s) {
  const int64_t H = s.hidden;
  const float* bias = s.candidate_bias;
  for (int64_t row = 0; row < s.rows; ++row) {
    float* gates = s.gates + row * s.gates_stride;
    const float* recurrent = s.recurrent + row * s.recurrent_stride;
    float* candidate_hidden = s.candidate_hidden + row * s.candidate_stride;
    const float* hidden_before = s.hidden_before + row * s.hidden_stride;
    float* hidden = s.hidden_after + row * s.hidden_stride;
    float* output = s.output ? s.output + row * s.output_stride : nullptr;
    for_each_register(H, [=](int64_t j, auto lanes) {
      const Floats r = logistic(load(gates + j, lanes) + load(recurrent + j, lanes));
      const Floats z = logistic(load(gates + H + j, lanes) + load(recurrent + H + j, lanes));
      Floats candidate = load(recurrent + 2 * H + j, lanes);
      if (bias) candidate += load(bias + j, lanes);
      const Floats n = hyperbolic_tangent(load(gates + 2 * H + j, lanes) + r * candidate);
      const Floats h = n + z * (load(hidden_before + j, lanes) - n);
      store(gates + j, r, lanes);
      store(gates + H + j, z, lanes);
      store(gates + 2 * H + j, n, lanes);
      store(candidate_hidden + j, candidate, lanes);
      store(hidden + j, h, lanes);
      if (output) store(output + j, h, lanes);
    });
  }
}

void gru_backward(const CellBackward& s) {
  const int64_t H = s.hidden;
  for (int64_t row = 0; row < s.rows; ++row) {
    const float* gates = s.gates + row * s.gates_stride;
    const float* candidate_hidden = s.candidate_hidden + row * s.candidate_stride;
    const float* hidden_before = s.hidden_before + row * s.hidden_stride;
    const float* d_output = s.d_output + row * s.d_output_stride;
    float* d_gates = s.d_gates + row * s.d_gates_stride;
    float* d_recurrent = s.d_recurrent + row * s.d_recurrent_stride;
    float* d_hidden = s.d_hidden + row * s.d_hidden_stride;
    for_each_register(H, [=](int64_t j, auto lanes) {
      const Floats r = load(gates + j, lanes);
      const Floats z = load(gates + H + j, lanes);
      const Floats n = load(gates + 2 * H + j, lanes);
      const Floats dh = load(d_output + j, lanes) + load(d_hidden + j, lanes);
      const Floats dn = dh * (1.0f - z) * (1.0f - n * n);
      const Floats dr = dn * load(candidate_hidden + j, lanes) * (r * (1.0f - r));
      const Floats dz = dh * (load(hidden_before + j, lanes) - n) * (z * (1.0f - z));
      store(d_gates + j, dr, lanes);
      store(d_gates + H + j, dz, lanes);
      store(d_gates + 2 * H + j, dn, lanes);
      store(d_recurrent + j, dr, lanes);
      store(d_recurrent + H + j, dz, lanes);
      store(d_recurrent + 2 * H + j, dn * r, lanes);
      store(d_hidden + j, dh * z, lanes);
    });
  }
}

template <Floats (*function)(Floats)>
void map(const float* x, float* y, int64_t n) {
  for_each_register(n, [=](int64_t i, auto lanes) { store(y + i, function(load(x + i, lanes)), lanes); });
}

}  // namespace

const CellKernels& cell_kernels() {
  static constexpr CellKernels kernels = {
      {simple_forward<Tanh>, simple_forward<Relu>, simple_forward<Logistic>, lstm_forward, gru_forward},
      {simple_backward<Tanh>, simple_backward<Relu>, simple_backward<Logistic>, lstm_backward, gru_backward},
      map<exponential>,
      map<hyperbolic_tangent>,
      map<logistic>};
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
