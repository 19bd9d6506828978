#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace coppice::reference {

/// A reverse-mode tape: every operation writes down its operands and the partial derivatives with respect to
/// them; `backward` walks it from the end. Slow and plain on purpose: the product's hand-written passes are
/// checked against it, and it is checked against central differences.
class Tape {
 public:
  int32_t push(int32_t a, double da, int32_t b, double db) {
    nodes_.push_back({a, b, da, db});
    return static_cast<int32_t>(nodes_.size() - 1);
  }
  /// Adjoints of all nodes for d(node) = 1.
  std::vector<double> backward(int32_t node) const {
    std::vector<double> adjoint(nodes_.size(), 0.0);
    adjoint[static_cast<size_t>(node)] = 1.0;
    for (size_t i = static_cast<size_t>(node) + 1; i-- > 0;) {
      if (nodes_[i].a >= 0) adjoint[static_cast<size_t>(nodes_[i].a)] += nodes_[i].da * adjoint[i];
      if (nodes_[i].b >= 0) adjoint[static_cast<size_t>(nodes_[i].b)] += nodes_[i].db * adjoint[i];
    }
    return adjoint;
  }

 private:
  struct Node {
    int32_t a, b;
    double da, db;
  };
  std::vector<Node> nodes_;
};

/// A number on the tape, or (tape null) a constant.
struct Var {
  double value = 0.0;
  Tape* tape = nullptr;
  int32_t node = -1;

  Var() = default;
  Var(double constant) : value(constant) {}  // NOLINT: constants mix freely with variables
  static Var leaf(Tape& tape, double value) { return {value, &tape, tape.push(-1, 0, -1, 0)}; }
  static Var make(double value, const Var& a, double da) { return make(value, a, da, Var(), 0.0); }
  static Var make(double value, const Var& a, double da, const Var& b, double db) {
    Tape* tape = a.tape != nullptr ? a.tape : b.tape;
    if (tape == nullptr) return value;
    return {value, tape, tape->push(a.node, da, b.node, db)};
  }

 private:
  Var(double v, Tape* t, int32_t n) : value(v), tape(t), node(n) {}
};

inline Var operator+(const Var& a, const Var& b) {
  return Var::make(a.value + b.value, a, 1, b, 1);
}
inline Var operator-(const Var& a, const Var& b) {
  return Var::make(a.value - b.value, a, 1, b, -1);
}
inline Var operator*(const Var& a, const Var& b) {
  return Var::make(a.value * b.value, a, b.value, b, a.value);
}
inline Var operator/(const Var& a, const Var& b) {
  return Var::make(a.value / b.value, a, 1 / b.value, b, -a.value / (b.value * b.value));
}
inline Var exp(const Var& a) {
  return Var::make(std::exp(a.value), a, std::exp(a.value));
}
inline Var log(const Var& a) {
  return Var::make(std::log(a.value), a, 1 / a.value);
}
inline Var log1p(const Var& a) {
  return Var::make(std::log1p(a.value), a, 1 / (1 + a.value));
}
inline Var tanh(const Var& a) {
  const double t = std::tanh(a.value);
  return Var::make(t, a, 1 - t * t);
}
inline Var relu(const Var& a) {
  return Var::make(a.value > 0 ? a.value : 0, a, a.value > 0 ? 1 : 0);
}

inline double relu(double a) {
  return a > 0 ? a : 0;
}
inline double value_of(double a) {
  return a;
}
inline double value_of(const Var& a) {
  return a.value;
}

}  // namespace coppice::reference
