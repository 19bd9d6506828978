#pragma once

#include <string>
#include <vector>

#include "ops_test.hpp"

namespace coppice::test {

using Doubles = std::vector<double>;

inline double logistic(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

/// A recurrence and its backward pass in double, written after recurrence.hpp one element at a time. The
/// inputs are the members; `forward` and `backward` fill the rest.
struct RecurrenceReference {
  Cell cell;
  bool reverse;
  int64_t T, B, H;
  std::vector<int32_t> lengths;                  // or empty
  Doubles weight;                                // [G·H, H]
  Doubles candidate_bias;                        // [H], GRU
  Doubles preactivation;                         // [T·B, G·H]
  Doubles first_hidden, first_cell;              // [B, H]
  Doubles d_output, d_last_hidden, d_last_cell;  // [T·B, H], [B, H], [B, H]

  Doubles gates, hidden_states, cell_states, candidate_hidden, output;
  Doubles d_gates, d_recurrent, d_hidden, d_cell;

  int64_t width() const { return gate_count(cell) * H; }
  int64_t step(int64_t k) const { return reverse ? T - 1 - k : k; }
  int64_t slot_before(int64_t t) const { return reverse ? t + 1 : t; }
  int64_t slot_after(int64_t t) const { return reverse ? t : t + 1; }
  bool active(int64_t t, int64_t b) const { return lengths.empty() || t < lengths[static_cast<size_t>(b)]; }
  static double& at(Doubles& m, int64_t row, int64_t cols, int64_t c) {
    return m[static_cast<size_t>(row * cols + c)];
  }
  static double at(const Doubles& m, int64_t row, int64_t cols, int64_t c) {
    return m[static_cast<size_t>(row * cols + c)];
  }

  void forward() {
    const int64_t G = width();
    gates = preactivation;
    hidden_states.assign(static_cast<size_t>((T + 1) * B * H), 0.0);
    cell_states = hidden_states;
    candidate_hidden.assign(static_cast<size_t>(T * B * H), 0.0);
    output.assign(static_cast<size_t>(T * B * H), 0.0);
    const int64_t first = reverse ? T : 0;
    for (int64_t i = 0; i < B * H; ++i) {
      hidden_states[static_cast<size_t>(first * B * H + i)] = first_hidden[static_cast<size_t>(i)];
      cell_states[static_cast<size_t>(first * B * H + i)] = first_cell[static_cast<size_t>(i)];
    }
    for (int64_t k = 0; k < T; ++k) {
      const int64_t t = step(k);
      for (int64_t b = 0; b < B; ++b) {
        const int64_t row = t * B + b, before = slot_before(t) * B + b, after = slot_after(t) * B + b;
        for (int64_t j = 0; j < H; ++j) {
          double& h_after = at(hidden_states, after, H, j);
          double& c_after = at(cell_states, after, H, j);
          const double h_before = at(hidden_states, before, H, j), c_before = at(cell_states, before, H, j);
          if (!active(t, b)) {
            h_after = h_before;
            c_after = c_before;
            continue;
          }
          const auto product = [&](int64_t gate) {
            double sum = 0;
            for (int64_t i = 0; i < H; ++i) {
              sum += at(weight, gate * H + j, H, i) * at(hidden_states, before, H, i);
            }
            return sum;
          };
          const auto a = [&](int64_t gate) -> double& { return at(gates, row, G, gate * H + j); };
          switch (cell) {
            case Cell::rnn_tanh:
              h_after = a(0) = std::tanh(a(0) + product(0));
              break;
            case Cell::rnn_relu:
              h_after = a(0) = std::max(0.0, a(0) + product(0));
              break;
            case Cell::rnn_sigmoid:
              h_after = a(0) = logistic(a(0) + product(0));
              break;
            case Cell::lstm:
              a(0) = logistic(a(0) + product(0));
              a(1) = logistic(a(1) + product(1));
              a(2) = std::tanh(a(2) + product(2));
              a(3) = logistic(a(3) + product(3));
              c_after = a(1) * c_before + a(0) * a(2);
              h_after = a(3) * std::tanh(c_after);
              break;
            case Cell::gru: {
              a(0) = logistic(a(0) + product(0));
              a(1) = logistic(a(1) + product(1));
              const double candidate = product(2) + candidate_bias[static_cast<size_t>(j)];
              at(candidate_hidden, row, H, j) = candidate;
              a(2) = std::tanh(a(2) + a(0) * candidate);
              h_after = (1 - a(1)) * a(2) + a(1) * h_before;
              break;
            }
          }
          at(output, row, H, j) = h_after;
        }
      }
    }
  }

  /// From gates and states as they are now (forward's own, or those that a backend left behind).
  void backward() {
    const int64_t G = width();
    d_gates.assign(static_cast<size_t>(T * B * G), 0.0);
    d_recurrent = d_gates;
    d_hidden = d_last_hidden;
    d_cell = d_last_cell;
    for (int64_t k = T - 1; k >= 0; --k) {
      const int64_t t = step(k);
      for (int64_t b = 0; b < B; ++b) {
        if (!active(t, b)) continue;
        const int64_t row = t * B + b, before = slot_before(t) * B + b, after = slot_after(t) * B + b;
        Doubles through(static_cast<size_t>(H), 0.0);  // what reaches h before this step
        for (int64_t j = 0; j < H; ++j) {
          const double dh = at(d_output, row, H, j) + at(d_hidden, b, H, j);
          const auto a = [&](int64_t gate) { return at(gates, row, G, gate * H + j); };
          const auto put = [&](int64_t gate, double d, double d_rec) {
            at(d_gates, row, G, gate * H + j) = d;
            at(d_recurrent, row, G, gate * H + j) = d_rec;
          };
          switch (cell) {
            case Cell::rnn_tanh:
              put(0, dh * (1 - a(0) * a(0)), dh * (1 - a(0) * a(0)));
              break;
            case Cell::rnn_relu:
              put(0, a(0) > 0 ? dh : 0, a(0) > 0 ? dh : 0);
              break;
            case Cell::rnn_sigmoid:
              put(0, dh * a(0) * (1 - a(0)), dh * a(0) * (1 - a(0)));
              break;
            case Cell::lstm: {
              const double tanh_c = std::tanh(at(cell_states, after, H, j));
              const double dc = at(d_cell, b, H, j) + dh * a(3) * (1 - tanh_c * tanh_c);
              const double di = dc * a(2) * a(0) * (1 - a(0));
              const double df = dc * at(cell_states, before, H, j) * a(1) * (1 - a(1));
              const double dg = dc * a(0) * (1 - a(2) * a(2));
              const double d_o = dh * tanh_c * a(3) * (1 - a(3));
              put(0, di, di);
              put(1, df, df);
              put(2, dg, dg);
              put(3, d_o, d_o);
              at(d_cell, b, H, j) = dc * a(1);
              break;
            }
            case Cell::gru: {
              const double dn = dh * (1 - a(1)) * (1 - a(2) * a(2));
              const double dr = dn * at(candidate_hidden, row, H, j) * a(0) * (1 - a(0));
              const double dz = dh * (at(hidden_states, before, H, j) - a(2)) * a(1) * (1 - a(1));
              put(0, dr, dr);
              put(1, dz, dz);
              put(2, dn, dn * a(0));
              through[static_cast<size_t>(j)] = dh * a(1);
              break;
            }
          }
        }
        for (int64_t i = 0; i < H; ++i) {
          double sum = through[static_cast<size_t>(i)];
          for (int64_t o = 0; o < G; ++o) sum += at(d_recurrent, row, G, o) * at(weight, o, H, i);
          at(d_hidden, b, H, i) = sum;
        }
      }
    }
  }

  /// Σ d_output·output + d_last_hidden·h_last + d_last_cell·c_last: the scalar whose gradients backward
  /// gives.
  double loss() const {
    double sum = 0;
    for (size_t i = 0; i < output.size(); ++i) sum += d_output[i] * output[i];
    const size_t last = static_cast<size_t>((reverse ? 0 : T) * B * H);
    for (size_t i = 0; i < d_last_hidden.size(); ++i) sum += d_last_hidden[i] * hidden_states[last + i];
    if (cell == Cell::lstm) {
      for (size_t i = 0; i < d_last_cell.size(); ++i) sum += d_last_cell[i] * cell_states[last + i];
    }
    return sum;
  }

  std::string name() const {
    return std::string(1, "trslg"[static_cast<int>(cell)]) + (reverse ? " reverse" : " forwards") +
           (lengths.empty() ? "" : " lengths") + ", T " + std::to_string(T) + ", B " + std::to_string(B) +
           ", H " + std::to_string(H);
  }
};

inline Doubles widen(const std::vector<float>& values) {
  return Doubles(values.begin(), values.end());
}

/// Random inputs, all of them floats, for the shape; weights small enough that states neither vanish nor
/// explode.
inline RecurrenceReference random_recurrence(Random& random, Cell cell, bool reverse, bool with_lengths,
                                             int64_t T, int64_t B, int64_t H, float sparsity = 0.0f) {
  RecurrenceReference r{};
  r.cell = cell;
  r.reverse = reverse;
  r.T = T;
  r.B = B;
  r.H = H;
  if (with_lengths) {
    for (int64_t b = 0; b < B; ++b) r.lengths.push_back(static_cast<int32_t>(random.below(T + 1)));
  }
  r.weight = widen(random.sparse_normals(r.width() * H, sparsity));
  for (double& w : r.weight) w = static_cast<float>(w * 0.7 / std::sqrt(static_cast<double>(H)));
  r.candidate_bias = widen(random.normals(H));
  r.preactivation = widen(random.normals(T * B * r.width()));
  r.first_hidden = widen(random.normals(B * H));
  r.first_cell = widen(random.normals(B * H));
  r.d_output = widen(random.normals(T * B * H));
  r.d_last_hidden = widen(random.normals(B * H));
  r.d_last_cell = widen(random.normals(B * H));
  return r;
}

inline std::vector<float> narrow(const Doubles& values) {
  return std::vector<float>(values.begin(), values.end());
}

}  // namespace coppice::test
