#include "kernels/recurrence.hpp"

#include "kernels/check.hpp"

namespace coppice {
namespace {

/// What forward and backward share; returns the device everything must lie on.
template <class Sequence>
Device check_common(const char* operation, const Sequence& s) {
  if (s.steps < 0 || s.batch < 0 || s.hidden < 1) {
    bad_input("{}: steps {}, batch {} and hidden {} were given, expected >= 0, >= 0 and >= 1", operation,
              s.steps, s.batch, s.hidden);
  }
  if (s.recurrent == nullptr) bad_input("{}: there is no recurrent weight", operation);
  const int64_t gates = gate_count(s.cell) * s.hidden;
  if (s.recurrent->out() != gates || s.recurrent->in() != s.hidden) {
    bad_input("{}: the recurrent weight is [{}, {}], expected [{}, {}]", operation, s.recurrent->out(),
              s.recurrent->in(), gates, s.hidden);
  }
  const Device device = s.recurrent->device();
  const int64_t rows = s.steps * s.batch, slots = (s.steps + 1) * s.batch;
  check::matrix(operation, "gates", s.gates, rows, gates, device);
  check::matrix(operation, "hidden_states", s.hidden_states, slots, s.hidden, device);
  if (s.cell == Cell::lstm) check::matrix(operation, "cell_states", s.cell_states, slots, s.hidden, device);
  if (s.cell == Cell::gru)
    check::matrix(operation, "candidate_hidden", s.candidate_hidden, rows, s.hidden, device);
  check::optional_vector(operation, "lengths", s.lengths, s.batch, device);
  return device;
}

}  // namespace

void RecurrenceOps::forward(const RecurrenceForward& s) {
  constexpr const char* kName = "recurrence forward";
  const Device device = check_common(kName, s);
  if (s.output.data != nullptr) {
    check::matrix(kName, "output", s.output, s.steps * s.batch, s.hidden, device);
  }
  if (s.cell == Cell::gru)
    check::optional_vector(kName, "candidate_bias", s.candidate_bias, s.hidden, device);
  if (s.batch > 0) forward_impl(s);
}

void RecurrenceOps::backward(const RecurrenceBackward& s) {
  constexpr const char* kName = "recurrence backward";
  const Device device = check_common(kName, s);
  s.recurrent->check_trainable(kName);
  const int64_t rows = s.steps * s.batch, gates = gate_count(s.cell) * s.hidden;
  check::matrix(kName, "d_output", s.d_output, rows, s.hidden, device);
  check::matrix(kName, "d_gates", s.d_gates, rows, gates, device);
  if (s.cell == Cell::gru) check::matrix(kName, "d_recurrent", s.d_recurrent, rows, gates, device);
  if (s.d_hidden.data != nullptr) check::matrix(kName, "d_hidden", s.d_hidden, s.batch, s.hidden, device);
  if (s.d_cell.data != nullptr) check::matrix(kName, "d_cell", s.d_cell, s.batch, s.hidden, device);
  if (s.batch > 0) backward_impl(s);
}

}  // namespace coppice
