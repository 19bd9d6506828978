#include "engine/model/network.hpp"

#include <algorithm>
#include <numeric>

#include "engine/builtins.hpp"
#include "engine/model/loss.hpp"
#include "engine/sparse/layout_policy.hpp"
#include "kernels/error.hpp"

namespace coppice {

/// What a batch needs on the device beside the parameters. Buffers only grow: nothing is allocated once the
/// shapes have been seen.
struct Network::Activations {
  explicit Activations(Backend& device)
      : backend(&device), saved(device), outputs(device), gradients(device) {}

  Backend* backend;
  Arena saved;      // what layers keep for their backward passes
  Arena outputs;    // every layer's y
  Arena gradients;  // two matrices that take turns as dy and dx
  Buffer ids, features, lengths, targets;
  Buffer totals;  // double [3]: Σ loss, correct, counted
  Buffer state;   // carried: for each recurrent layer [B, floats]
  int64_t state_batch = 0;

  SequenceShape shape;
  MatrixView<const float> input;            // [T·B, inputs], empty for ids
  VectorView<const int32_t> target;         // [rows of the logits]
  std::vector<MatrixView<const float>> x;   // by layer
  std::vector<MatrixView<float>> turns{2};  // [1, largest gradient]

  template <class T>
  VectorView<const T> upload(Buffer& buffer, const std::vector<T>& host, std::string_view what) {
    const auto bytes = static_cast<int64_t>(host.size() * sizeof(T));
    if (bytes == 0) return {nullptr, 0, backend->device()};
    if (buffer.bytes() < bytes) {
      buffer = Buffer();
      buffer = Buffer(*backend, bytes, what);
    }
    backend->upload(host.data(), buffer.data(), bytes);
    return buffer.vector<const T>(static_cast<int64_t>(host.size()));
  }
};

Network::Network(Backend& backend, const ModelConfig& config, const DataShape& data)
    : backend_(&backend), config_(config), data_(data), layers_(build_layers(config, data)) {
  std::vector<Segment> segments;
  for (const auto& layer : layers_) {
    input_gradient_.push_back(!segments.empty());
    for (Segment& segment : layer->segments()) segments.push_back(std::move(segment));
  }
  store_ = std::make_unique<ParameterStore>(backend, std::move(segments));
  for (const auto& layer : layers_) layer->bind(*store_);
  activations_ = std::make_unique<Activations>(backend);
  activations_->x.resize(layers_.size());
  activations_->totals = Buffer(backend, 3 * sizeof(double), "totals");
  backend.fill_zero(activations_->totals.data(), activations_->totals.bytes());
}

Network::~Network() = default;

void Network::initialise(uint64_t seed) {
  for (const auto& layer : layers_) layer->initialise(*store_, config_.init, config_.init_range, seed);
}

namespace {

void check_range(const std::vector<int32_t>& values, int64_t batch, int32_t low, int64_t end,
                 std::string_view what, std::string_view of) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < low || values[i] >= end) {
      bad_input("step {} of sequence {} in the batch has {} {}, but {} {}", i / static_cast<size_t>(batch),
                i % static_cast<size_t>(batch), what, values[i], of, end);
    }
  }
}

void check_size(size_t found, int64_t expected, std::string_view what, const Batch& batch) {
  if (static_cast<int64_t>(found) != expected) {
    bad_input("a batch of {} steps and {} sequences has {} {}; expected {}", batch.steps, batch.batch, found,
              what, expected);
  }
}

}  // namespace

void Network::prepare(const Batch& batch, bool training) {
  Activations& a = *activations_;
  const int64_t rows = batch.steps * batch.batch;
  if (batch.steps < 1 || batch.batch < 1) {
    bad_input("a batch has {} steps and {} sequences; expected at least one of each", batch.steps,
              batch.batch);
  }
  const bool ids = data_.inputs == 0;
  check_size(batch.ids.size(), ids ? rows : 0, "ids", batch);
  check_size(batch.features.size(), rows * data_.inputs, "features", batch);
  check_size(batch.targets.size(), data_.task == Task::language_model ? rows : batch.batch, "targets", batch);
  if (!batch.lengths.empty()) check_size(batch.lengths.size(), batch.batch, "lengths", batch);
  check_range(batch.ids, batch.batch, 0, data_.vocabulary, "id", "the model's vocabulary ends before");
  check_range(batch.targets, batch.batch, -1, std::max<int64_t>(data_.classes, 2), "target",
              "the model's classes end before");
  check_range(batch.lengths, batch.batch, 0, batch.steps + 1, "length", "lengths end before");

  a.shape.steps = batch.steps;
  a.shape.batch = batch.batch;
  a.shape.ids = a.upload(a.ids, batch.ids, "ids");
  a.shape.lengths = a.upload(a.lengths, batch.lengths, "lengths");
  a.target = a.upload(a.targets, batch.targets, "targets");
  const VectorView<const float> features = a.upload(a.features, batch.features, "features");
  a.input = {features.data, rows, data_.inputs, data_.inputs, backend_->device()};

  int64_t saved = 0, outputs = 0, largest = 0, height = rows;
  for (const auto& layer : layers_) {
    const int64_t bytes = layer->saved_bytes(a.shape, training);
    saved = training ? saved + bytes : std::max(saved, bytes);
    if (layer->in_place()) continue;
    const int64_t width = layer->outputs();
    height = layer->output_rows(a.shape, height);
    outputs += Arena::bytes(height, width);
    if (layer != layers_.back()) largest = std::max(largest, height * width);
  }
  a.saved.reserve(saved);
  a.outputs.reserve(outputs);
  if (training) {
    a.gradients.reserve(2 * Arena::bytes(1, largest));
    for (MatrixView<float>& turn : a.turns) turn = a.gradients.matrix(1, largest);
  }

  int64_t floats = 0;
  for (const auto& layer : layers_) floats += layer->state_floats();
  if (batch.carries_state && a.state_batch != 0 && a.state_batch != batch.batch) {
    failure("a batch of {} sequences carries on the state of {}", batch.batch, a.state_batch);
  }
  if (!batch.carries_state || a.state_batch == 0) {
    const int64_t bytes = floats * batch.batch * static_cast<int64_t>(sizeof(float));
    if (a.state.bytes() < bytes) {
      a.state = Buffer();
      a.state = Buffer(*backend_, bytes, "carried state");
    }
    backend_->fill_zero(a.state.data(), bytes);
    a.state_batch = batch.batch;
  }
  int64_t offset = 0;
  for (const auto& layer : layers_) {
    const int64_t width = layer->state_floats();
    if (width == 0) continue;
    layer->attach_state(a.state.matrix<float>(batch.batch, width, offset));
    offset += batch.batch * width;
  }
}

MatrixView<float> Network::forward(const Pass& pass) {
  Activations& a = *activations_;
  MatrixView<float> y;
  MatrixView<const float> x = a.input;  // of ids: no columns, but as many rows
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = *layers_[i];
    if (!pass.training) a.saved.reset();
    // An in-place layer is never first, so that x is the output of the layer before.
    if (!layer.in_place()) y = a.outputs.matrix(layer.output_rows(a.shape, x.rows), layer.outputs());
    a.x[i] = x;
    layer.forward(a.shape, x, y, a.saved, pass);
    x = y;
  }
  return y;
}

void Network::backward(MatrixView<float> dy, Pass pass) {
  Activations& a = *activations_;
  size_t turn = 0;
  for (size_t i = layers_.size(); i-- > 0;) {
    Layer& layer = *layers_[i];
    pass.input_gradient = input_gradient_[i];
    MatrixView<float> dx;
    if (layer.in_place()) {
      dx = dy;
    } else if (pass.input_gradient) {
      dx = {a.turns[turn].data, a.x[i].rows, a.x[i].cols, a.x[i].cols, backend_->device()};
      turn = 1 - turn;
    }
    layer.backward(a.shape, a.x[i], dy, dx, pass);
    if (!pass.input_gradient) break;  // nobody below has parameters
    dy = dx;
  }
}

void Network::loss(MatrixView<float> logits, float scale, bool gradient) {
  // The gradient takes the place of the logits: of a large vocabulary they are the largest array of a step.
  const MatrixView<float> d_logits =
      gradient ? logits : MatrixView<float>{nullptr, 0, 0, 0, backend_->device()};
  const VectorView<double> totals = activations_->totals.vector<double>(3);
  if (config_.loss == "sigmoid") {
    backend_->sequence().sigmoid_cross_entropy(logits, activations_->target, scale, d_logits, totals);
  } else {
    backend_->sequence().softmax_cross_entropy(logits, activations_->target, scale, d_logits, totals);
  }
}

void Network::evaluate(const Batch& batch) {
  prepare(batch, false);
  loss(forward({}), 0.0f, false);
}

void Network::accumulate_gradients(const Batch& batch, std::string_view loss_reduction, RandomStream random) {
  accumulate(batch, loss_reduction, {.training = true, .dropout = true, .random = random});
}

void Network::accumulate_gradients(const Batch& batch, std::string_view loss_reduction) {
  accumulate(batch, loss_reduction, {.training = true});
}

void Network::accumulate(const Batch& batch, std::string_view loss_reduction, const Pass& pass) {
  const double scale = loss_scale(batch, loss_reduction);
  prepare(batch, true);
  const MatrixView<float> logits = forward(pass);
  loss(logits, static_cast<float>(scale), true);
  backward(logits, pass);
}

void Network::zero_gradients() {
  backend_->fill_zero(store_->gradients());
}

std::vector<float> Network::logits(const Batch& batch) {
  prepare(batch, false);
  const MatrixView<float> y = forward({});
  return backend_->download(VectorView<const float>{y.data, y.rows * y.cols, y.device});
}

LossTotals Network::take_totals() {
  const VectorView<double> view = activations_->totals.vector<double>(3);
  const std::vector<double> totals = backend_->download(view);
  backend_->fill_zero(view);
  return {totals[0], totals[1], totals[2]};
}

void Network::put_totals(const LossTotals& totals) {
  const double values[] = {totals.loss, totals.correct, totals.count};
  backend_->upload(values, activations_->totals.data(), sizeof values);
}

void Network::reset_state() {
  activations_->state_batch = 0;
}

int64_t Network::state_batch() const {
  return activations_->state_batch;
}

std::vector<float> Network::download_state() const {
  int64_t floats = 0;
  for (const auto& layer : layers_) floats += layer->state_floats();
  const int64_t size = floats * activations_->state_batch;
  if (size == 0) return {};
  return backend_->download(activations_->state.vector<const float>(size));
}

void Network::upload_state(std::span<const float> state, int64_t batch) {
  Activations& a = *activations_;
  int64_t floats = 0;
  for (const auto& layer : layers_) floats += layer->state_floats();
  if (static_cast<int64_t>(state.size()) != floats * batch) {
    bad_input("a carried state of {} numbers; expected {} sequences of {}", state.size(), batch, floats);
  }
  const auto bytes = static_cast<int64_t>(state.size_bytes());
  if (a.state.bytes() < bytes) {
    a.state = Buffer();
    a.state = Buffer(*backend_, bytes, "carried state");
  }
  if (bytes > 0) backend_->upload(state.data(), a.state.data(), bytes);
  a.state_batch = batch;
}

void Network::use_layout(const LayoutPolicy& policy) {
  const std::map<std::string, std::string> known = layouts();
  for (const auto& [tensor, layout] : policy.tensors) {
    if (!known.contains(tensor)) bad_input("no matrix \"{}\" in the model", tensor);
  }
  for (const auto& layer : layers_) layer->use_layout(policy);
}

std::map<std::string, std::string> Network::layouts() const {
  std::map<std::string, std::string> layouts;
  for (const auto& layer : layers_) layer->add_layouts(layouts);
  return layouts;
}

MatrixCount Network::use_masks(std::string_view layout, double from) {
  MatrixCount count;
  for (const auto& layer : layers_) layer->use_masks(layout, from, count);
  return count;
}

int64_t Network::weight_bytes() const {
  return std::accumulate(layers_.begin(), layers_.end(), int64_t{0},
                         [](int64_t sum, const auto& layer) { return sum + layer->weight_bytes(); });
}

}  // namespace coppice
