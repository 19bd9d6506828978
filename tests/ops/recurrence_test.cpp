#include <algorithm>

#include "device_recurrence.hpp"

namespace coppice::test {
namespace {

constexpr Cell kCells[] = {Cell::rnn_tanh, Cell::rnn_relu, Cell::rnn_sigmoid, Cell::lstm, Cell::gru};

// The reference first: its backward pass against central differences of its forward pass.
TEST(RecurrenceReference, BackwardAgreesWithCentralDifferences) {
  Random random;
  SCOPED_TRACE("COPPICE_TEST_SEED=" + std::to_string(random.seed()));
  for (const Cell cell : kCells) {
    if (cell == Cell::rnn_relu) continue;  // a kink; its derivative is a comparison
    for (const bool reverse : {false, true}) {
      for (const bool with_lengths : {false, true}) {
        RecurrenceReference r = random_recurrence(random, cell, reverse, with_lengths, 4, 3, 3);
        r.forward();
        r.backward();
        SCOPED_TRACE(r.name());
        const auto expect_gradient = [&](Doubles RecurrenceReference::*input, const Doubles& gradient) {
          for (size_t i = 0; i < gradient.size(); ++i) {
            RecurrenceReference moved = r;
            const double step = 1e-5;
            (moved.*input)[i] += step;
            moved.forward();
            const double above = moved.loss();
            (moved.*input)[i] -= 2 * step;
            moved.forward();
            EXPECT_NEAR(gradient[i], (above - moved.loss()) / (2 * step), 1e-8 * (1 + std::abs(gradient[i])));
          }
        };
        expect_gradient(&RecurrenceReference::preactivation, r.d_gates);
        expect_gradient(&RecurrenceReference::first_hidden, r.d_hidden);
        if (cell == Cell::lstm) expect_gradient(&RecurrenceReference::first_cell, r.d_cell);
        // dW_hh = d_recurrentᵀ·(states before each step), as recurrence.hpp says; b_hn's gradient likewise.
        Doubles d_weight(r.weight.size(), 0.0), d_bias(static_cast<size_t>(r.H), 0.0);
        for (int64_t row = 0; row < r.T * r.B; ++row) {
          const int64_t before = r.slot_before(row / r.B) * r.B + row % r.B;
          for (int64_t o = 0; o < r.width(); ++o) {
            const double d = RecurrenceReference::at(r.d_recurrent, row, r.width(), o);
            for (int64_t i = 0; i < r.H; ++i) {
              d_weight[static_cast<size_t>(o * r.H + i)] +=
                  d * RecurrenceReference::at(r.hidden_states, before, r.H, i);
            }
            if (o >= 2 * r.H) d_bias[static_cast<size_t>(o % r.H)] += d;
          }
        }
        expect_gradient(&RecurrenceReference::weight, d_weight);
        if (cell == Cell::gru) expect_gradient(&RecurrenceReference::candidate_bias, d_bias);
      }
    }
  }
}

/// A few ulp for each step and for the length of the dot products behind each value.
void expect_near(const std::vector<float>& actual, const Doubles& expected, const RecurrenceReference& r,
                 const char* what, const std::vector<bool>& counts = {}) {
  ASSERT_EQ(actual.size(), expected.size());
  const double steps = static_cast<double>(r.T + 1), length = std::sqrt(static_cast<double>(r.width()));
  for (size_t i = 0; i < actual.size(); ++i) {
    if (!counts.empty() && !counts[i]) continue;
    const double bound = 0x1p-24 * steps * (8 + length) * std::max(1.0, std::abs(expected[i]));
    ASSERT_NEAR(actual[i], expected[i], bound) << what << " " << i << " of " << r.name();
  }
}

class RecurrenceTest : public OpsTest {
 protected:
  void check(RecurrenceReference& r, const char* layout) {
    DeviceRecurrence run(backend(), r, layout);
    check(r, layout, run);
  }
  /// The same of a run whose inputs are loaded.
  void check(RecurrenceReference& r, const char* layout, DeviceRecurrence& run) {
    SCOPED_TRACE(r.name() + ", " + layout);
    r.forward();
    run.forward();
    std::vector<bool> active_gates, active_units;  // past the end the gates are nobody's business
    for (int64_t row = 0; row < r.T * r.B; ++row) {
      const bool active = r.active(row / r.B, row % r.B);
      active_gates.insert(active_gates.end(), static_cast<size_t>(r.width()), active);
      active_units.insert(active_units.end(), static_cast<size_t>(r.H), active);
    }
    expect_near(run.gates_.values(), r.gates, r, "gate", active_gates);
    expect_near(run.hidden_states_.values(), r.hidden_states, r, "hidden state");
    expect_near(run.output_.values(), r.output, r, "output");
    if (r.cell == Cell::lstm) expect_near(run.cell_states_.values(), r.cell_states, r, "cell state");
    if (r.cell == Cell::gru) {
      expect_near(run.candidate_hidden_.values(), r.candidate_hidden, r, "candidate", active_units);
    }
    const std::vector<float> output = run.output_.values();
    for (size_t i = 0; i < output.size(); ++i) {
      if (!active_units[i]) {
        ASSERT_EQ(std::bit_cast<uint32_t>(output[i]), 0u) << "output past the end";
      }
    }
    run.expect_untouched_around();
    if (HasFatalFailure()) return;

    // Backward from the very floats that forward left, so that only its own rounding is looked at.
    RecurrenceReference from = r;
    from.gates = widen(run.gates_.values());
    from.hidden_states = widen(run.hidden_states_.values());
    from.cell_states = widen(run.cell_states_.values());
    from.candidate_hidden = widen(run.candidate_hidden_.values());
    from.backward();
    run.backward();
    expect_near(run.d_gates_.values(), from.d_gates, r, "d_gate");
    expect_near(run.d_hidden_.values(), from.d_hidden, r, "d_hidden");
    if (r.cell == Cell::lstm) expect_near(run.d_cell_.values(), from.d_cell, r, "d_cell");
    if (r.cell == Cell::gru) expect_near(run.d_recurrent_.values(), from.d_recurrent, r, "d_recurrent");
    const std::vector<float> d_gates = run.d_gates_.values();
    for (size_t i = 0; i < d_gates.size(); ++i) {
      if (!active_gates[i]) {
        ASSERT_EQ(std::bit_cast<uint32_t>(d_gates[i]), 0u) << "gradient past the end";
      }
    }
    run.expect_untouched_around();
  }

  /// Every cell, direction and padding with the given shape.
  template <class F>
  void for_each_kind(F f) {
    for (const Cell cell : kCells) {
      for (const bool reverse : {false, true}) {
        for (const bool with_lengths : {false, true}) {
          f(cell, reverse, with_lengths);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
};

TEST_P(RecurrenceTest, AgreesWithReference) {
  for_each_kind([&](Cell cell, bool reverse, bool with_lengths) {
    for (const int64_t H : {1, 3, 31, 33}) {
      for (const int64_t T : {0, 1, 5}) {
        for (const int64_t B : {int64_t{1}, random_.one_of(std::vector<int64_t>{3, 8, 20, 33})}) {
          RecurrenceReference r = random_recurrence(random_, cell, reverse, with_lengths, T, B, H, 0.6f);
          check(r, "dense");
          check(r, "csr");
          if (HasFatalFailure()) return;
        }
      }
    }
  });
}

TEST_P(RecurrenceTest, WideLayersAgreeWithReference) {
  for_each_kind([&](Cell cell, bool reverse, bool with_lengths) {
    const int64_t B = random_.one_of(std::vector<int64_t>{1, 3});
    for (const int64_t H : {128, 257}) {
      RecurrenceReference r = random_recurrence(random_, cell, reverse, with_lengths, 2, B, H, 0.9f);
      check(r, random_.below(2) ? "dense" : "csr");
    }
  });
}

// A device may keep a small weight at hand for all steps of a few streams: around the numbers of streams and
// units that it can hold.
TEST_P(RecurrenceTest, FewStreamsAgreeWithReference) {
  for_each_kind([&](Cell cell, bool reverse, bool with_lengths) {
    const auto agrees = [&](int64_t B, int64_t H) {
      RecurrenceReference r = random_recurrence(random_, cell, reverse, with_lengths, 6, B, H);
      check(r, "dense");
    };
    for (const int64_t B : {1, 2, 4, 5, 8, 9}) {
      if (!HasFatalFailure()) agrees(B, random_.one_of(std::vector<int64_t>{20, 33}));
    }
    if (!HasFatalFailure()) agrees(3, random_.one_of(std::vector<int64_t>{64, 65, 140}));
  });
}

// The nonzeros of a sparse one, too: around the number of streams, and whatever the pattern.
TEST_P(RecurrenceTest, SparseWeightsOfAnyPatternAgreeWithReference) {
  enum class Pattern { nothing, one_row, one_column, empty_gates, uneven };
  for_each_kind([&](Cell cell, bool reverse, bool with_lengths) {
    const int64_t H = random_.one_of(std::vector<int64_t>{20, 31, 33, 50});
    for (const Pattern pattern :
         {Pattern::nothing, Pattern::one_row, Pattern::one_column, Pattern::empty_gates, Pattern::uneven}) {
      const int64_t B = random_.one_of(std::vector<int64_t>{1, 2, 3, 16, 17, 31, 32, 33});
      RecurrenceReference r =
          random_recurrence(random_, cell, reverse, with_lengths, 4 + random_.below(2), B, H, 0.3f);
      const int64_t row = random_.below(r.width()), column = random_.below(H);
      for (int64_t o = 0; o < r.width(); ++o) {
        for (int64_t i = 0; i < H; ++i) {
          const bool kept = pattern == Pattern::one_row       ? o == row
                            : pattern == Pattern::one_column  ? i == column
                            : pattern == Pattern::empty_gates ? o / H == row / H
                            : pattern == Pattern::uneven      ? i <= o % H
                                                              : false;
          if (!kept) r.weight[static_cast<size_t>(o * H + i)] = 0.0;
        }
      }
      check(r, "csr");
      if (HasFatalFailure()) return;
    }
  });
}

// More than a device can hold of all streams at once, or of the weight.
TEST_P(RecurrenceTest, WideSparseLayersAgreeWithReference) {
  const auto agrees = [&](Cell cell, int64_t B, int64_t H, float zeros) {
    RecurrenceReference r =
        random_recurrence(random_, cell, random_.below(2), random_.below(2), 4, B, H, zeros);
    if (!HasFatalFailure()) check(r, "csr");
  };
  agrees(Cell::lstm, 20, 150, 0.0f);
  agrees(Cell::lstm, 20, 400, 0.98f);
  agrees(Cell::gru, 3, 200, 0.0f);
}

// A device may record a sequence and replay it; what it replays must be this run and not an earlier one.
TEST_P(RecurrenceTest, RepeatsWithOtherInputsInTheSameMemory) {
  for_each_kind([&](Cell cell, bool reverse, bool with_lengths) {
    const char* layout = random_.below(2) ? "dense" : "csr";
    RecurrenceReference r = random_recurrence(random_, cell, reverse, with_lengths, 3, 4, 20, 0.5f);
    DeviceRecurrence run(backend(), r, layout);
    for (int repeat = 0; repeat < 4; ++repeat) {
      RecurrenceReference other = random_recurrence(random_, cell, reverse, with_lengths, 3, 4, 20);
      for (size_t i = 0; i < other.weight.size(); ++i) {
        if (r.weight[i] == 0.0) other.weight[i] = 0.0;  // a sparse layout keeps its places
      }
      if (with_lengths && repeat == 2) other.lengths.assign(other.lengths.size(), 0);
      run.load(other);
      check(other, layout, run);
      if (HasFatalFailure()) return;
    }
  });
}

TEST_P(RecurrenceTest, ShapesAndWeightsTakeTurns) {
  // More shapes than a device may want to remember, and two that alternate.
  std::vector<RecurrenceReference> references;
  for (int64_t i = 0; i < 20; ++i) {
    references.push_back(
        random_recurrence(random_, kCells[i % 5], i % 2 == 0, i % 3 == 0, 1 + i % 4, 1 + i % 3, 5));
  }
  std::vector<std::unique_ptr<DeviceRecurrence>> runs;
  for (const RecurrenceReference& r : references) {
    runs.push_back(std::make_unique<DeviceRecurrence>(backend(), r, "dense"));
  }
  const auto turn = [&](size_t i, const char* layout) {
    runs[i]->load(references[i]);
    check(references[i], layout, *runs[i]);
  };
  for (int repeat = 0; repeat < 3; ++repeat) {
    for (size_t i = 0; i < runs.size() && !HasFatalFailure(); ++i) turn(i, "dense");
  }
  for (int repeat = 0; repeat < 8 && !HasFatalFailure(); ++repeat) turn(repeat % 2 ? 3 : 7, "dense");
  // Every few turns another weight, and another layout, in the same tensors.
  for (int repeat = 0; repeat < 12 && !HasFatalFailure(); ++repeat) {
    const char* layout = repeat / 3 % 2 ? "dense" : "csr";
    if (repeat % 3 == 0) {
      references[3].weight = widen(random_.sparse_normals(references[3].width() * 5, 0.5f));
      runs[3]->put(narrow(references[3].weight), runs[3]->values_);
      runs[3]->remake_weight(layout);
    }
    turn(3, layout);
  }
}

TEST_P(RecurrenceTest, StartsFromZeroState) {
  for_each_kind([&](Cell cell, bool reverse, bool with_lengths) {
    RecurrenceReference r = random_recurrence(random_, cell, reverse, with_lengths, 3, 5, 33);
    r.first_hidden.assign(r.first_hidden.size(), 0.0);
    check(r, "dense");
  });
}

// Wide enough that threads do share the work; a single stream, whose products are shared, and several, which
// are.
TEST_P(RecurrenceTest, SameBitsForAnyNumberOfThreads) {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(open(1));
  backends.push_back(open(2));
  if (backend().device().type == Device::Type::cpu)
    backends.push_back(open(3));  // elsewhere two runs say all
  for_each_kind([&](Cell cell, bool reverse, bool with_lengths) {
    for (const int64_t B : {int64_t{1}, random_.one_of(std::vector<int64_t>{3, 20})}) {
      const char* layout = random_.below(2) ? "dense" : "csr";
      const RecurrenceReference r = random_recurrence(random_, cell, reverse, with_lengths, 3, B, 129, 0.5f);
      std::vector<uint32_t> expected;
      for (size_t b = 0; b < backends.size(); ++b) {
        DeviceRecurrence run(*backends[b], r, layout);
        run.forward();
        run.backward();
        const std::vector<uint32_t> found = run.everything();
        if (expected.empty()) expected = found;
        const auto place = std::mismatch(found.begin(), found.end(), expected.begin()).first;
        ASSERT_EQ(place, found.end())
            << r.name() << ", " << layout << ", " << b + 1 << " threads: value " << place - found.begin();
      }
    }
  });
}

// What callers may do to save memory and time gives the same numbers.
TEST_P(RecurrenceTest, OutputsMayShareMemory) {
  for_each_kind([&](Cell cell, bool reverse, bool with_lengths) {
    const RecurrenceReference r = random_recurrence(random_, cell, reverse, with_lengths, 4, 5, 33);
    DeviceRecurrence apart(backend(), r, "dense"), together(backend(), r, "dense");
    apart.forward();
    RecurrenceForward forward = together.forward_arguments();
    forward.output = with_lengths ? MatrixView<float>{}
                                  : together.hidden_states_.view().row_slice(reverse ? 0 : r.B, r.T * r.B);
    backend().recurrence().forward(forward);
    EXPECT_EQ(bits(together.hidden_states_.values()), bits(apart.hidden_states_.values()));

    apart.backward();
    RecurrenceBackward backward = together.backward_arguments();
    backward.d_gates = together.gates_;  // in place
    backend().recurrence().backward(backward);
    EXPECT_EQ(bits(together.gates_.values()), bits(apart.d_gates_.values()));
    EXPECT_EQ(bits(together.d_hidden_.values()), bits(apart.d_hidden_.values()));
  });
}

TEST_P(RecurrenceTest, NoStateGradientMeansZeroIn) {
  for_each_kind([&](Cell cell, bool reverse, bool with_lengths) {
    RecurrenceReference r = random_recurrence(random_, cell, reverse, with_lengths, 4, 5, 33);
    r.d_last_hidden.assign(r.d_last_hidden.size(), 0.0);
    r.d_last_cell.assign(r.d_last_cell.size(), 0.0);
    DeviceRecurrence given(backend(), r, "dense"), absent(backend(), r, "dense");
    given.forward();
    given.backward();
    absent.forward();
    RecurrenceBackward backward = absent.backward_arguments();
    backward.d_hidden = {};
    backward.d_cell = {};
    backend().recurrence().backward(backward);
    EXPECT_EQ(bits(absent.d_gates_.values()), bits(given.d_gates_.values()));
  });
}

TEST_P(RecurrenceTest, RefusesWhatDoesNotFit) {
  const RecurrenceReference r = random_recurrence(random_, Cell::lstm, false, true, 2, 3, 4);
  DeviceRecurrence run(backend(), r, "dense");
  const auto refuses = [&](const char* fragment, auto change) {
    RecurrenceForward s = run.forward_arguments();
    change(s);
    expect_error(ErrorKind::bad_input, fragment, [&] { backend().recurrence().forward(s); });
  };
  refuses("gates is [6, 16], expected [9, 16]", [](auto& s) { s.steps = 3; });
  refuses("recurrent weight is [16, 4], expected [12, 4]", [](auto& s) { s.cell = Cell::gru; });
  refuses("no recurrent weight", [](auto& s) { s.recurrent = nullptr; });
  refuses("cell_states is [0, 0], expected [9, 4]", [](auto& s) { s.cell_states = {}; });
  refuses("lengths has 2 elements, expected 3", [](auto& s) { s.lengths.size = 2; });
  refuses("output has a stride of 3", [](auto& s) { s.output.stride = 3; });
  const std::string here = to_string(backend().device());
  refuses(("gates lies on cuda:7, expected " + here).c_str(), [](auto& s) {
    s.gates.device = {Device::Type::cuda, 7};
  });
  if (here == "cpu") {  // elsewhere the host would have to wait for them; any counts as the nearest in range
    const std::vector<int32_t> wrong = {2, 3, 0};
    backend().upload(wrong, run.lengths_.vector<int32_t>(3));
    refuses("lengths[1] is 3, expected 0 to 2", [](auto&) {});
  }

  run.forward_arguments();
  RecurrenceBackward s = run.backward_arguments();
  s.d_hidden.cols = 3;
  expect_error(ErrorKind::bad_input, "d_hidden is [3, 3], expected [3, 4]",
               [&] { backend().recurrence().backward(s); });
  s.recurrent = nullptr;
  expect_error(ErrorKind::bad_input, "no recurrent weight", [&] { backend().recurrence().backward(s); });
}

COPPICE_FOR_ALL_BACKENDS(RecurrenceTest);

}  // namespace
}  // namespace coppice::test
