#include "engine/sparse/session.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/builtins.hpp"
#include "engine/model/row_stride.hpp"
#include "kernels/error.hpp"

namespace coppice {

namespace {

int64_t bytes_of(int64_t floats) {
  return floats * static_cast<int64_t>(sizeof(float));
}

Buffer upload(Backend& backend, std::span<const float> values, std::string_view what) {
  Buffer buffer(backend, static_cast<int64_t>(values.size_bytes()), what);
  backend.upload(values.data(), buffer.data(), buffer.bytes());
  return buffer;
}

}  // namespace

struct Session::Matrix {
  std::string name;
  Buffer values;  // what a weight that refers to its values needs
  std::unique_ptr<Weight> weight;
};

struct Session::Recurrent {
  Cell cell{};
  Matrix input;             // W_ih [G·H, inputs]
  Matrix recurrent;         // W_hh [G·H, H]
  Buffer bias;              // [G·H]: b_ih + b_hh, but GRU's b_hn
  Buffer candidate_bias;    // [H]: GRU's b_hn
  Buffer gates;             // [B, G·H]
  Buffer hidden_states;     // [2·B, H]: before and after the step
  Buffer cell_states;       // [2·B, H], LSTM
  Buffer candidate_hidden;  // [B, H], GRU
  Buffer output;            // [B, H]
};

Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

Session::Session(Backend& backend, const ModelDescription& model, const SessionOptions& options)
    : backend_(&backend), config_(model.model), data_(model.shape), options_(options) {
  if (options.streams < 1) bad_input("a session of {} streams; expected at least 1", options.streams);
  if (config_.bidirectional) {
    bad_input("a bidirectional model can't be stepped: it reads a sequence from its end as well");
  }
}

Session::Session(Backend& backend, const std::filesystem::path& model, const SessionOptions& options)
    : Session(backend, read_model(model), options) {
  const std::vector<Segment> segments = model_segments(config_, data_);
  const TrainedWeights weights(model, segments, config_);
  load(segments, [&](const Segment& segment) { return weights.read(segment); });
}

Session::Session(const Network& network, const SessionOptions& options)
    : Session(network.backend(), {network.config(), network.data_shape(), {}, {}}, options) {
  load(network.store().segments(), [&](const Segment& segment) { return network.store().download(segment); });
}

Session::Matrix Session::make_matrix(const Segment& segment, std::span<const float> values) {
  LayoutPolicy policy = options_.layout;
  policy.tensors = options_.layouts;
  policy.measured = options_.measured;
  policy.batch = options_.streams;
  policy.values = options_.values;
  Matrix matrix;
  matrix.name = segment.name;
  matrix.values = upload(*backend_, values, segment.name);
  matrix.weight = make_weight(*backend_, policy, segment.name,
                              matrix.values.matrix<const float>(segment.rows(), segment.cols()));
  if (!matrix.weight->refers_to_values()) matrix.values = Buffer();
  return matrix;
}

void Session::load(std::span<const Segment> segments, const Read& read) {
  for (const auto& [name, layout] : options_.layouts) {
    const auto known = [&](const Segment& segment) {
      return segment.name == name && segment.shape.size() == 2;
    };
    if (std::none_of(segments.begin(), segments.end(), known))
      bad_input("no matrix \"{}\" in the model", name);
  }
  const auto find = [&](const std::string& name) -> const Segment& {
    return *std::find_if(segments.begin(), segments.end(), [&](const Segment& s) { return s.name == name; });
  };
  const int64_t batch = options_.streams, h = config_.hidden;
  const Cell cell = find_cell(config_.cell);
  const int64_t width = gate_count(cell) * h;
  if (data_.inputs == 0) {
    table_ = upload(*backend_, read(find("embedding.weight")), "embedding.weight");
    ids_ = Buffer(*backend_, batch * static_cast<int64_t>(sizeof(int32_t)), "ids");
  }
  input_ =
      Buffer(*backend_, bytes_of(batch * (data_.inputs == 0 ? config_.embedding : data_.inputs)), "input");
  for (int64_t l = 0; l < config_.layers; ++l) {
    const std::string suffix = "_l" + std::to_string(l);
    const auto matrix = [&](const std::string& name) {
      const Segment& segment = find("rnn." + name + suffix);
      return make_matrix(segment, read(segment));
    };
    Recurrent layer;
    layer.cell = cell;
    layer.input = matrix("weight_ih");
    layer.recurrent = matrix("weight_hh");
    std::vector<float> bias = read(find("rnn.bias_ih" + suffix));
    const std::vector<float> second = read(find("rnn.bias_hh" + suffix));
    const int64_t summed = cell == Cell::gru ? 2 * h : width;
    for (int64_t i = 0; i < summed; ++i) bias[static_cast<size_t>(i)] += second[static_cast<size_t>(i)];
    layer.bias = upload(*backend_, bias, "bias");
    if (cell == Cell::gru) {
      layer.candidate_bias = upload(*backend_, std::span(second).subspan(static_cast<size_t>(2 * h)), "bias");
      layer.candidate_hidden = Buffer(*backend_, bytes_of(batch * h), "candidate");
    }
    layer.gates = Buffer(*backend_, bytes_of(batch * row_stride(width)), "gates");
    layer.hidden_states = Buffer(*backend_, bytes_of(2 * batch * h), "state");
    if (cell == Cell::lstm) layer.cell_states = Buffer(*backend_, bytes_of(2 * batch * h), "state");
    layer.output = Buffer(*backend_, bytes_of(batch * h), "output");
    layers_.push_back(std::move(layer));
  }
  decoder_ = std::make_unique<Matrix>(make_matrix(find("decoder.weight"), read(find("decoder.weight"))));
  decoder_bias_ = upload(*backend_, read(find("decoder.bias")), "decoder.bias");
  logits_ = Buffer(*backend_, bytes_of(batch * data_.classes), "logits");
  host_logits_.resize(static_cast<size_t>(batch * data_.classes));
  reset();
}

std::span<const float> Session::step(std::span<const int32_t> ids) {
  if (data_.inputs != 0) bad_input("the model reads {} features a step, not ids", data_.inputs);
  if (static_cast<int64_t>(ids.size()) != options_.streams) {
    bad_input("a step of {} ids for {} streams", ids.size(), options_.streams);
  }
  for (const int32_t id : ids) {
    if (id < 0 || id >= data_.vocabulary) bad_input("id {} in a vocabulary of {}", id, data_.vocabulary);
  }
  backend_->upload(ids.data(), ids_.data(), static_cast<int64_t>(ids.size_bytes()));
  const MatrixView<float> x = input_.matrix<float>(options_.streams, config_.embedding);
  backend_->sequence().embed(table_.matrix<const float>(data_.vocabulary, config_.embedding),
                             ids_.vector<const int32_t>(options_.streams), x);
  return run(x);
}

std::span<const float> Session::step(std::span<const float> features) {
  if (data_.inputs == 0) bad_input("the model reads ids, not features");
  if (static_cast<int64_t>(features.size()) != options_.streams * data_.inputs) {
    bad_input("a step of {} features; expected {} for each of {} streams", features.size(), data_.inputs,
              options_.streams);
  }
  backend_->upload(features.data(), input_.data(), static_cast<int64_t>(features.size_bytes()));
  return run(input_.matrix<const float>(options_.streams, data_.inputs));
}

std::span<const float> Session::run(MatrixView<const float> x) {
  const int64_t batch = options_.streams, h = config_.hidden;
  for (Recurrent& layer : layers_) {
    const int64_t width = gate_count(layer.cell) * h;
    const MatrixView<float> gates = layer.gates.matrix<float>(batch, row_stride(width)).col_slice(0, width);
    layer.input.weight->multiply(x, layer.bias.vector<const float>(width), gates);
    const Device device = backend_->device();
    RecurrenceForward sequence;
    sequence.cell = layer.cell;
    sequence.steps = 1;
    sequence.batch = batch;
    sequence.hidden = h;
    sequence.recurrent = layer.recurrent.weight.get();
    sequence.candidate_bias = {nullptr, 0, device};
    sequence.gates = gates;
    sequence.hidden_states = layer.hidden_states.matrix<float>(2 * batch, h);
    if (layer.cell == Cell::lstm) sequence.cell_states = layer.cell_states.matrix<float>(2 * batch, h);
    if (layer.cell == Cell::gru) {
      sequence.candidate_bias = layer.candidate_bias.vector<const float>(h);
      sequence.candidate_hidden = layer.candidate_hidden.matrix<float>(batch, h);
    }
    sequence.output = layer.output.matrix<float>(batch, h);
    backend_->recurrence().forward(sequence);
    // The state after the step is the one before the next.
    backend_->copy(sequence.hidden_states.row(batch), sequence.hidden_states.data, bytes_of(batch * h));
    if (layer.cell == Cell::lstm) {
      backend_->copy(sequence.cell_states.row(batch), sequence.cell_states.data, bytes_of(batch * h));
    }
    x = sequence.output;
  }
  const MatrixView<float> logits = logits_.matrix<float>(batch, data_.classes);
  decoder_->weight->multiply(x, decoder_bias_.vector<const float>(data_.classes), logits);
  backend_->download(logits.data, host_logits_.data(), bytes_of(batch * data_.classes));
  return host_logits_;
}

void Session::reset() {
  for (Recurrent& layer : layers_) {
    backend_->fill_zero(layer.hidden_states.data(), layer.hidden_states.bytes());
    if (layer.cell == Cell::lstm) backend_->fill_zero(layer.cell_states.data(), layer.cell_states.bytes());
  }
}

void Session::reset(int64_t stream) {
  if (stream < 0 || stream >= options_.streams) bad_input("stream {} of {}", stream, options_.streams);
  const int64_t h = config_.hidden;
  for (Recurrent& layer : layers_) {
    backend_->fill_zero(layer.hidden_states.vector<float>(h, stream * h));
    if (layer.cell == Cell::lstm) backend_->fill_zero(layer.cell_states.vector<float>(h, stream * h));
  }
}

int64_t Session::weight_bytes() const {
  int64_t bytes = table_.bytes() + decoder_bias_.bytes() + decoder_->weight->bytes();
  for (const Recurrent& layer : layers_) {
    bytes += layer.input.weight->bytes() + layer.recurrent.weight->bytes() + layer.bias.bytes() +
             layer.candidate_bias.bytes();
  }
  return bytes;
}

std::string_view Session::layout(std::string_view tensor) const {
  if (decoder_->name == tensor) return decoder_->weight->layout();
  for (const Recurrent& layer : layers_) {
    for (const Matrix* matrix : {&layer.input, &layer.recurrent}) {
      if (matrix->name == tensor) return matrix->weight->layout();
    }
  }
  bad_input("no matrix \"{}\" in the model", tensor);
}

int32_t draw_class(std::span<const float> logits, double temperature, RandomStream random, uint64_t index) {
  const auto largest = std::max_element(logits.begin(), logits.end());
  if (temperature <= 0.0) return static_cast<int32_t>(largest - logits.begin());
  const auto weight = [&](float logit) {
    return std::exp((static_cast<double>(logit) - static_cast<double>(*largest)) / temperature);
  };
  double total = 0.0;
  for (const float logit : logits) total += weight(logit);
  double left = random_uniform_double(random, index) * total;
  for (size_t i = 0; i < logits.size(); ++i) {
    left -= weight(logits[i]);
    if (left < 0.0) return static_cast<int32_t>(i);
  }
  return static_cast<int32_t>(largest - logits.begin());  // rounding used up the total
}

}  // namespace coppice
