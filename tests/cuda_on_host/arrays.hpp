#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string_view>
#include <vector>

#include "kernels/backend.hpp"

// The backend that is executed on the host, and work for it that depends on nothing but its sizes.

extern "C" coppice::Backend* coppice_open_backend(uint32_t abi, int index,
                                                  const coppice::BackendOptions& options, char* reason,
                                                  size_t size);

namespace coppice::cuda_on_host {

inline std::unique_ptr<Backend> open_emulated() {
  char reason[256] = "";
  std::unique_ptr<Backend> backend(coppice_open_backend(kBackendAbi, 0, {}, reason, sizeof reason));
  EXPECT_NE(backend, nullptr) << reason;
  return backend;
}

/// Numbers between −1 and 1 that depend on nothing but their place.
inline std::vector<float> numbers(int64_t count, int salt = 0) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    values[static_cast<size_t>(i)] =
        static_cast<float>((i * 7919 + salt * 104'729 + 13) % 2003 - 1001) / 1001.0f;
  return values;
}
/// The same with zeros in about `share` of the places.
inline std::vector<float> sparse_numbers(int64_t count, double share, int salt = 0) {
  std::vector<float> values = numbers(count, salt);
  for (size_t i = 0; i < values.size(); ++i)
    if (std::fmod(static_cast<double>(i) * 0.618, 1.0) < share) values[i] = 0.0f;
  return values;
}

/// Memory of one test on the device, and what is to be compared in the end.
class Arrays {
 public:
  explicit Arrays(Backend& backend) : backend_(backend) {}

  template <class T>
  VectorView<T> vector(const std::vector<T>& values) {
    const int64_t count = static_cast<int64_t>(values.size());
    buffers_.emplace_back(backend_, std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(T)),
                          "a test's array");
    const VectorView<T> view = buffers_.back().template vector<T>(count);
    backend_.upload(values, view);
    return view;
  }
  MatrixView<float> matrix(int64_t rows, int64_t cols, const std::vector<float>& values) {
    return {vector(values).data, rows, cols, cols, backend_.device()};
  }
  MatrixView<float> matrix(int64_t rows, int64_t cols, int salt) {
    return matrix(rows, cols, numbers(rows * cols, salt));
  }
  MatrixView<float> zeros(int64_t rows, int64_t cols) {
    return matrix(rows, cols, std::vector<float>(static_cast<size_t>(rows * cols)));
  }

  /// Everything on the device, byte by byte, and what was noted.
  std::vector<unsigned char> everything() {
    std::vector<unsigned char> bytes = noted_;
    for (const Buffer& buffer : buffers_) {
      const std::vector<unsigned char> now = backend_.download(buffer.vector<unsigned char>(buffer.bytes()));
      bytes.insert(bytes.end(), now.begin(), now.end());
    }
    return bytes;
  }
  /// A result on the host.
  template <class T>
  void note(const T* data, size_t count) {
    const auto* begin = reinterpret_cast<const unsigned char*>(data);
    noted_.insert(noted_.end(), begin, begin + count * sizeof(T));
  }

 private:
  Backend& backend_;
  std::vector<Buffer> buffers_;
  std::vector<unsigned char> noted_;
};

/// Forwards and backwards over a weight of which `zeros` is the share of zeros. Five steps are enough for a
/// persistent kernel.
inline void run_recurrence(Backend& backend, Arrays& arrays, Cell cell, std::string_view layout,
                           int64_t batch, int64_t hidden, bool reverse, bool with_lengths, int64_t steps = 5,
                           double zeros = 0.7) {
  const int64_t gates = gate_count(cell) * hidden;
  const std::vector<float> values = sparse_numbers(gates * hidden, zeros, 5);
  const std::unique_ptr<Weight> weight = backend.make_weight(layout, arrays.matrix(gates, hidden, values));
  const bool lstm = cell == Cell::lstm;
  const bool gru = cell == Cell::gru;

  RecurrenceForward f;
  f.cell = cell;
  f.steps = steps;
  f.batch = batch;
  f.hidden = hidden;
  f.reverse = reverse;
  f.recurrent = weight.get();
  if (gru) f.candidate_bias = arrays.vector(numbers(hidden, 6));
  f.gates = arrays.matrix(steps * batch, gates, 7);
  f.hidden_states = arrays.zeros((steps + 1) * batch, hidden);
  if (lstm) f.cell_states = arrays.zeros((steps + 1) * batch, hidden);
  if (gru) f.candidate_hidden = arrays.zeros(steps * batch, hidden);
  f.output = arrays.zeros(steps * batch, hidden);
  if (with_lengths) {
    std::vector<int32_t> lengths(static_cast<size_t>(batch));
    for (int64_t b = 0; b < batch; ++b)
      lengths[static_cast<size_t>(b)] = static_cast<int32_t>(b % (steps + 1));
    f.lengths = arrays.vector(lengths);
  }
  backend.recurrence().forward(f);

  RecurrenceBackward b;
  b.cell = cell;
  b.steps = steps;
  b.batch = batch;
  b.hidden = hidden;
  b.reverse = reverse;
  b.recurrent = weight.get();
  b.gates = f.gates;
  b.hidden_states = f.hidden_states;
  b.cell_states = f.cell_states;
  b.candidate_hidden = f.candidate_hidden;
  b.lengths = f.lengths;
  b.d_output = arrays.matrix(steps * batch, hidden, 8);
  b.d_gates = arrays.zeros(steps * batch, gates);
  if (gru) b.d_recurrent = arrays.zeros(steps * batch, gates);
  b.d_hidden = arrays.matrix(batch, hidden, 9);
  if (lstm) b.d_cell = arrays.matrix(batch, hidden, 10);
  backend.recurrence().backward(b);
  backend.synchronize();
}

}  // namespace coppice::cuda_on_host
