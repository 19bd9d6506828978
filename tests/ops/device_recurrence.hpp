#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "recurrence_reference.hpp"

namespace coppice::test {

/// A backend's run of a reference case: all tensors strided, poisoned, and fenced with sentinels.
class DeviceRecurrence {
 public:
  DeviceRecurrence(Backend& backend, const RecurrenceReference& r, const char* layout)
      : backend_(backend),
        r_(r),
        values_(backend, r.width(), r.H, narrow(r.weight), 0, 0),
        weight_(backend.make_weight(layout, values_)),
        bias_(backend, 1, r.H, narrow(r.candidate_bias)),
        gates_(backend, r.T * r.B, r.width(), narrow(r.preactivation)),
        hidden_states_(backend, (r.T + 1) * r.B, r.H),
        cell_states_(backend, (r.T + 1) * r.B, r.H),
        candidate_hidden_(backend, r.T * r.B, r.H),
        output_(backend, r.T * r.B, r.H, {}, 40),
        d_output_(backend, r.T * r.B, r.H, narrow(r.d_output), 40),
        d_gates_(backend, r.T * r.B, r.width()),
        d_recurrent_(backend, r.T * r.B, r.width()),
        d_hidden_(backend, r.B, r.H, narrow(r.d_last_hidden)),
        d_cell_(backend, r.B, r.H, narrow(r.d_last_cell)),
        lengths_(backend, std::max<int64_t>(1, r.B) * 4, "lengths") {
    load_states(r);
  }

  /// Other inputs of the same shape, in the same memory; and other values for the weight, if they are other.
  void load(const RecurrenceReference& r) {
    load_states(r);
    put(narrow(r.preactivation), gates_);
    put(narrow(r.candidate_bias), bias_);
    put(narrow(r.d_output), d_output_);
    put(narrow(r.d_last_hidden), d_hidden_);
    put(narrow(r.d_last_cell), d_cell_);
    put(narrow(r.weight), values_);
    weight_->refresh(values_);
  }
  /// A weight made anew, in the place of the old one if the memory's keeper likes.
  void remake_weight(const char* layout) {
    weight_.reset();
    weight_ = backend_.make_weight(layout, values_);
  }

  RecurrenceForward forward_arguments() {
    RecurrenceForward s;
    s.cell = r_.cell;
    s.steps = r_.T;
    s.batch = r_.B;
    s.hidden = r_.H;
    s.reverse = r_.reverse;
    s.recurrent = weight_.get();
    if (r_.cell == Cell::gru) s.candidate_bias = bias_.vector();
    s.gates = gates_;
    s.hidden_states = hidden_states_;
    if (r_.cell == Cell::lstm) s.cell_states = cell_states_;
    if (r_.cell == Cell::gru) s.candidate_hidden = candidate_hidden_;
    s.output = output_;
    if (!r_.lengths.empty()) s.lengths = lengths_.vector<int32_t>(r_.B);
    return s;
  }

  RecurrenceBackward backward_arguments() {
    RecurrenceBackward s;
    s.cell = r_.cell;
    s.steps = r_.T;
    s.batch = r_.B;
    s.hidden = r_.H;
    s.reverse = r_.reverse;
    s.recurrent = weight_.get();
    s.gates = gates_.view();
    s.hidden_states = hidden_states_.view();
    if (r_.cell == Cell::lstm) s.cell_states = cell_states_.view();
    if (r_.cell == Cell::gru) s.candidate_hidden = candidate_hidden_.view();
    if (!r_.lengths.empty()) s.lengths = lengths_.vector<int32_t>(r_.B);
    s.d_output = d_output_.view();
    s.d_gates = d_gates_;
    if (r_.cell == Cell::gru) s.d_recurrent = d_recurrent_;
    s.d_hidden = d_hidden_;
    if (r_.cell == Cell::lstm) s.d_cell = d_cell_;
    return s;
  }

  void forward() { backend_.recurrence().forward(forward_arguments()); }
  void backward() { backend_.recurrence().backward(backward_arguments()); }

  std::vector<TestMatrix*> all() {
    return {&gates_,   &hidden_states_, &cell_states_, &candidate_hidden_, &output_, &d_output_,
            &d_gates_, &d_recurrent_,   &d_hidden_,    &d_cell_,           &values_};
  }
  void expect_untouched_around() {
    for (TestMatrix* matrix : all()) matrix->expect_untouched_around();
  }
  /// The bits of everything that a run leaves behind.
  std::vector<uint32_t> everything() {
    std::vector<uint32_t> result;
    for (TestMatrix* matrix : all()) {
      const std::vector<uint32_t> more = bits(matrix->values());
      result.insert(result.end(), more.begin(), more.end());
    }
    return result;
  }

  void put(const std::vector<float>& values, MatrixView<float> to) {
    TestMatrix from(backend_, to.rows, to.cols, values);
    backend_.copy(MatrixView<const float>(from), to);
  }
  void load_states(const RecurrenceReference& r) {
    if (!r.lengths.empty()) backend_.upload(r.lengths, lengths_.vector<int32_t>(r.B));
    const int64_t first = r.reverse ? r.T * r.B : 0;
    put(narrow(r.first_hidden), hidden_states_.view().row_slice(first, r.B));
    put(narrow(r.first_cell), cell_states_.view().row_slice(first, r.B));
  }

  Backend& backend_;
  const RecurrenceReference& r_;
  TestMatrix values_;
  std::unique_ptr<Weight> weight_;
  TestMatrix bias_, gates_, hidden_states_, cell_states_, candidate_hidden_, output_;
  TestMatrix d_output_, d_gates_, d_recurrent_, d_hidden_, d_cell_;
  Buffer lengths_;
};

}  // namespace coppice::test
