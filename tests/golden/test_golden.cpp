#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "engine/builtins.hpp"
#include "engine/files/weight_file.hpp"
#include "engine/model/layers.hpp"
#include "tests/layers/compare.hpp"

// What other people's programs computed. The files beside this one are made by the scripts beside it.

namespace coppice::test {
namespace {

std::unique_ptr<WeightFile> open_golden(const std::string& name) {
  const char* source = std::getenv("COPPICE_SOURCE_DIR");
  return open_weights(std::string(source != nullptr ? source : ".") + "/tests/golden/" + name);
}

struct Floats {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

Floats read(const WeightFile& file, const std::string& name) {
  return {file.tensor(name).shape, file.read_f32(name)};
}

/// Device copies that live as long as the test.
struct Device {
  std::unique_ptr<Backend> backend = open_test_backend();
  std::vector<Buffer> buffers;

  MatrixView<float> matrix(int64_t rows, int64_t cols, const std::vector<float>& values = {}) {
    buffers.emplace_back(*backend, rows * cols * 4, "golden");
    const std::vector<float> poison(static_cast<size_t>(rows * cols), std::nanf(""));
    const std::vector<float>& from = values.empty() ? poison : values;
    backend->upload(from.data(), buffers.back().data(), rows * cols * 4);
    return buffers.back().matrix<float>(rows, cols);
  }
  std::vector<float> read(MatrixView<const float> m) {
    return backend->download(VectorView<const float>{m.data, m.rows * m.cols, m.device});
  }
};

/// PyTorch's [layers · directions, B, H] of h (and c) as the state [B, per direction h (, c)] of one layer.
std::vector<float> layer_state(const Floats& h, const Floats* c, int64_t layer) {
  const int64_t batch = h.shape[1], hidden = h.shape[2];
  std::vector<float> state;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t direction = 0; direction < 2; ++direction) {
      const auto begin = ((layer * 2 + direction) * batch + b) * hidden;
      for (const Floats* part : {&h, c}) {
        if (part == nullptr) continue;
        state.insert(state.end(), part->values.begin() + begin, part->values.begin() + begin + hidden);
      }
    }
  }
  return state;
}

class PyTorch : public testing::TestWithParam<const char*> {};

TEST_P(PyTorch, OutputsStatesAndGradients) {
  const auto file = open_golden("torch_recurrent.safetensors");
  const std::string name = GetParam(), prefix = name + "/";
  const std::string cell = name.substr(0, name.find("_packed"));
  const Floats x = read(*file, prefix + "x"), h0 = read(*file, prefix + "h0"),
               hn = read(*file, prefix + "hn");
  const bool has_cell = file->contains(prefix + "c0");
  Floats c0, cn;
  if (has_cell) {
    c0 = read(*file, prefix + "c0");
    cn = read(*file, prefix + "cn");
  }
  const int64_t steps = x.shape[0], batch = x.shape[1], inputs = x.shape[2], hidden = h0.shape[2];
  const int64_t rows = steps * batch, width = 2 * hidden;

  Device device;
  Backend& backend = *device.backend;
  std::vector<std::unique_ptr<Layer>> layers;
  std::vector<Segment> segments;
  for (int64_t l = 0; l < 2; ++l) {
    layers.push_back(make_recurrent({.name = "rnn",
                                     .index = l,
                                     .cell = find_cell(cell),
                                     .inputs = l == 0 ? inputs : width,
                                     .hidden = hidden,
                                     .bidirectional = true}));
    for (Segment& segment : layers.back()->segments()) segments.push_back(std::move(segment));
  }
  ParameterStore store(backend, segments);
  for (const auto& layer : layers) layer->bind(store);
  for (const Segment& segment : store.segments()) {
    const std::string tensor = prefix + segment.name.substr(4);  // without "rnn."
    ASSERT_EQ(file->tensor(tensor).shape, segment.shape);
    store.upload(segment, file->read_f32(tensor));
  }

  SequenceShape shape{.steps = steps, .batch = batch};
  Buffer lengths;
  if (file->contains(prefix + "lengths")) {
    std::vector<int32_t> values(static_cast<size_t>(batch));
    file->read(file->index(prefix + "lengths"), 0, batch, values.data());
    lengths = Buffer(backend, batch * 4, "lengths");
    backend.upload(values.data(), lengths.data(), batch * 4);
    shape.lengths = lengths.vector<const int32_t>(batch);
  }
  Arena arena(backend);
  arena.reserve(layers[0]->saved_bytes(shape, true) + layers[1]->saved_bytes(shape, true));
  const auto input = device.matrix(rows, inputs, x.values);
  const auto middle = device.matrix(rows, width), output = device.matrix(rows, width);
  const auto d_output = device.matrix(rows, width, read(*file, prefix + "d_output").values);
  const auto d_middle = device.matrix(rows, width), d_input = device.matrix(rows, inputs);
  std::vector<MatrixView<float>> states;
  for (int64_t l = 0; l < 2; ++l) {
    const std::vector<float> state = layer_state(h0, has_cell ? &c0 : nullptr, l);
    states.push_back(device.matrix(batch, static_cast<int64_t>(state.size()) / batch, state));
    layers[static_cast<size_t>(l)]->attach_state(states.back());
  }
  const Pass pass{.training = true};
  layers[0]->forward(shape, input, middle, arena, pass);
  layers[1]->forward(shape, middle, output, arena, pass);
  layers[1]->backward(shape, middle, d_output, d_middle, pass);
  layers[0]->backward(shape, input, d_middle, d_input, pass);

  // float32 against a double that was rounded once.
  expect_close("output", device.read(output), read(*file, prefix + "output").values, 1e-6);
  for (int64_t l = 0; l < 2; ++l) {
    expect_close("last state", device.read(states[static_cast<size_t>(l)]),
                 layer_state(hn, has_cell ? &cn : nullptr, l), 1e-6);
  }
  expect_close("d_x", device.read(d_input), read(*file, prefix + "d_x").values, 3e-6);
  for (const Segment& segment : store.segments()) {
    expect_close(segment.name, download_gradient(store, segment),
                 file->read_f32(prefix + "d_" + segment.name.substr(4)), 3e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(All, PyTorch,
                         testing::Values("rnn_tanh", "rnn_tanh_packed", "rnn_relu", "rnn_relu_packed", "lstm",
                                         "lstm_packed", "gru", "gru_packed"),
                         [](const auto& info) { return std::string(info.param); });

// --- ONNX

/// One recurrent layer over x [T, B, I] from `state`; returns the state after it.
std::vector<float> run_layer(Device& device, Cell cell, const Floats& x, int64_t hidden,
                             const std::vector<std::vector<float>>& tensors, std::vector<float> state) {
  const int64_t steps = x.shape[0], batch = x.shape[1], inputs = x.shape[2];
  const auto layer = make_recurrent({.cell = cell, .inputs = inputs, .hidden = hidden});
  ParameterStore store(*device.backend, layer->segments());
  layer->bind(store);
  for (size_t i = 0; i < tensors.size(); ++i) store.upload(store.segments()[i], tensors[i]);
  const SequenceShape shape{.steps = steps, .batch = batch};
  Arena arena(*device.backend);
  arena.reserve(layer->saved_bytes(shape, false));
  state.resize(static_cast<size_t>(batch * layer->state_floats()), 0.0f);
  const auto carried = device.matrix(batch, layer->state_floats(), state);
  layer->attach_state(carried);
  layer->forward(shape, device.matrix(steps * batch, inputs, x.values), device.matrix(steps * batch, hidden),
                 arena, {});
  return device.read(carried);
}

/// One step of ONNX's GRU, whose reset gate acts before the recurrent product: n = tanh(W x + b + (r·h)·Uᵀ).
/// Not a cell of ours, but made of ours: simple RNNs give the two gates and, from the state r·h, the
/// candidate.
std::vector<float> reset_before_step(Device& device, const Floats& x, int64_t hidden,
                                     const std::vector<std::vector<float>>& tensors,
                                     const std::vector<float>& h) {
  const auto gate = [&](Cell cell, int64_t g, const std::vector<float>& state) {
    std::vector<std::vector<float>> rows;
    for (const std::vector<float>& tensor : tensors) {
      const auto size = static_cast<int64_t>(tensor.size()) / 3;
      rows.emplace_back(tensor.begin() + g * size, tensor.begin() + (g + 1) * size);
    }
    return run_layer(device, cell, x, hidden, rows, state);
  };
  const std::vector<float> r = gate(Cell::rnn_sigmoid, 0, h), z = gate(Cell::rnn_sigmoid, 1, h);
  std::vector<float> reset(h.size()), next(h.size());
  for (size_t i = 0; i < h.size(); ++i) reset[i] = r[i] * h[i];
  const std::vector<float> n = gate(Cell::rnn_tanh, 2, reset);
  for (size_t i = 0; i < h.size(); ++i) next[i] = (1 - z[i]) * n[i] + z[i] * h[i];
  return next;
}

class Onnx : public testing::TestWithParam<const char*> {};

TEST_P(Onnx, LastState) {
  const auto file = open_golden("onnx_recurrent.safetensors");
  const std::string name = GetParam(), prefix = name + "/";
  const Cell cell = name.starts_with("lstm")  ? Cell::lstm
                    : name.starts_with("gru") ? Cell::gru
                                              : Cell::rnn_tanh;
  const Floats x = read(*file, prefix + "x");
  const std::vector<float> last = read(*file, prefix + "last").values;
  const int64_t steps = x.shape[0], batch = x.shape[1], hidden = file->tensor(prefix + "weight_hh").shape[1];
  std::vector<std::vector<float>> tensors;
  for (const char* part : {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}) {
    tensors.push_back(file->read_f32(prefix + part));
  }
  Device device;
  if (cell == Cell::gru && steps > 1) {
    // gru_seq_length: the one case where ONNX's form of the GRU and PyTorch's, which is ours, part.
    std::vector<float> h(static_cast<size_t>(batch * hidden), 0.0f);
    for (int64_t t = 0; t < steps; ++t) {
      const auto row = batch * x.shape[2];
      const Floats step{{1, batch, x.shape[2]},
                        {x.values.begin() + t * row, x.values.begin() + (t + 1) * row}};
      const std::vector<float> next = reset_before_step(device, step, hidden, tensors, h);
      // From a zero state the two agree, so that the cell itself is held to the first step.
      if (t == 0) expect_close("first step", run_layer(device, cell, step, hidden, tensors, h), next, 1e-6);
      h = next;
    }
    expect_close(name, h, last, 2e-6);
    return;
  }
  std::vector<float> state = run_layer(device, cell, x, hidden, tensors, {});
  if (cell == Cell::lstm) {  // h and c of each stream
    std::vector<float> h;
    for (int64_t b = 0; b < batch; ++b) {
      h.insert(h.end(), state.begin() + 2 * b * hidden, state.begin() + (2 * b + 1) * hidden);
    }
    state = h;
  }
  expect_close(name, state, last, 2e-6);
}

INSTANTIATE_TEST_SUITE_P(ElevenCases, Onnx,
                         testing::Values("lstm_defaults", "lstm_with_initial_bias", "lstm_batchwise",
                                         "gru_defaults", "gru_with_initial_bias", "gru_seq_length",
                                         "gru_batchwise", "simple_rnn_defaults",
                                         "simple_rnn_with_initial_bias", "rnn_seq_length",
                                         "simple_rnn_batchwise"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace coppice::test
