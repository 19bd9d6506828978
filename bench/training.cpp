// A recurrent network's training step, inference, or one frame, at the sizes of the command line: the same
// work that scripts for other frameworks do, so that bench/compare.py can let the two take turns.

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "bench/sampling.hpp"
#include "engine/builtins.hpp"
#include "engine/model/layers.hpp"
#include "engine/model/network.hpp"

namespace coppice::bench {
namespace {

struct Options {
  Sampling sampling;
  std::string work = "train", cell = "lstm", device = "cpu";
  int64_t hidden = 512, layers = 2, batch = 32, time = 64, vocabulary = 10000, repeat = 1;
  int threads = 2;
};

/// Recurrent layers alone, the input without a gradient, under a loss that is the sum of the outputs.
class Stack {
 public:
  Stack(Backend& backend, const Options& options)
      : backend_(backend), shape_{.steps = options.time, .batch = options.batch} {
    if (options.work == "step") shape_.steps = 1;
    std::vector<Segment> segments;
    for (int64_t l = 0; l < options.layers; ++l) {
      layers_.push_back(make_recurrent(
          {.index = l, .cell = find_cell(options.cell), .inputs = options.hidden, .hidden = options.hidden}));
      for (Segment& segment : layers_.back()->segments()) segments.push_back(std::move(segment));
    }
    store_ = std::make_unique<ParameterStore>(backend, std::move(segments));
    const int64_t rows = shape_.rows(), width = options.hidden;
    const int64_t bytes = rows * width * static_cast<int64_t>(sizeof(float));
    const bool training = options.work == "train";
    int64_t saved = 0, state = 0;
    for (const auto& layer : layers_) {
      layer->bind(*store_);
      layer->initialise(*store_, "pytorch", 0.1, 1);
      saved += layer->saved_bytes(shape_, training);
      state = std::max(state, layer->state_floats());
      outputs_.emplace_back(backend, bytes, "outputs");
      states_.emplace_back(
          backend, layer->state_floats() * shape_.batch * static_cast<int64_t>(sizeof(float)), "state");
      backend.fill_zero(states_.back().data(), states_.back().bytes());
      layer->attach_state(states_.back().matrix<float>(shape_.batch, layer->state_floats()));
    }
    saved_.reserve(saved);
    input_ = Buffer(backend, bytes, "input");
    gradient_ = Buffer(backend, bytes, "gradient");
    ones_ = Buffer(backend, bytes, "ones");
    std::vector<float> host(static_cast<size_t>(rows * width));
    for (size_t i = 0; i < host.size(); ++i)
      host[i] = static_cast<float>((i * 2654435761u) % 2001) * 1e-3f - 1.0f;
    backend.upload(host, input_.vector<float>(rows * width));
    backend.upload(std::vector<float>(host.size(), 1.0f), ones_.vector<float>(rows * width));
  }

  void forward(bool training) {
    saved_.reset();
    MatrixView<const float> x = matrix(input_);
    for (size_t l = 0; l < layers_.size(); ++l) {
      layers_[l]->forward(shape_, x, matrix(outputs_[l]), saved_, {.training = training});
      x = matrix(outputs_[l]);
    }
  }

  void train() {
    backend_.fill_zero(store_->gradients());
    for (Buffer& state : states_) backend_.fill_zero(state.data(), state.bytes());
    forward(true);
    MatrixView<const float> dy = matrix(ones_);
    for (size_t l = layers_.size(); l-- > 0;) {
      const MatrixView<const float> x = matrix(l == 0 ? input_ : outputs_[l - 1]);
      const bool wanted = l > 0;
      const MatrixView<float> dx =
          wanted ? matrix(gradient_) : MatrixView<float>{.device = backend_.device()};
      layers_[l]->backward(shape_, x, dy, dx, {.training = true, .input_gradient = wanted});
      dy = dx;
    }
    backend_.optimizer().update({.rate = 1e-6f}, 0.0f, {.device = backend_.device()}, store_->values(),
                                store_->gradients(), {.device = backend_.device()},
                                {.device = backend_.device()}, {.device = backend_.device()});
    store_->values_changed();
  }

 private:
  MatrixView<float> matrix(const Buffer& buffer) const {
    const int64_t width = layers_[0]->outputs();
    return buffer.matrix<float>(shape_.rows(), width);
  }

  Backend& backend_;
  SequenceShape shape_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::unique_ptr<ParameterStore> store_;
  Arena saved_{backend_};
  Buffer input_, gradient_, ones_;
  std::vector<Buffer> outputs_, states_;
};

/// Embedding, recurrent layers, decoder, softmax cross-entropy, clipped SGD.
class LanguageModel {
 public:
  LanguageModel(Backend& backend, const Options& options)
      : network_(backend,
                 {.cell = options.cell,
                  .embedding = options.hidden,
                  .hidden = options.hidden,
                  .layers = options.layers},
                 {.vocabulary = options.vocabulary, .classes = options.vocabulary}),
        norm_(backend, sizeof(double), "norm") {
    network_.initialise(1);
    text_.steps = options.time;
    text_.batch = options.batch;
    for (int64_t i = 0; i < options.time * options.batch; ++i) {
      text_.ids.push_back(static_cast<int32_t>(i * 7919 % options.vocabulary));
      text_.targets.push_back(static_cast<int32_t>(i * 104729 % options.vocabulary));
    }
  }

  void train() {
    Backend& backend = network_.backend();
    ParameterStore& store = network_.store();
    network_.zero_gradients();
    network_.accumulate_gradients(text_, "mean", {});
    const VectorView<double> norm = norm_.vector<double>(1);
    const VectorView<const uint64_t> no_mask{.device = backend.device()};
    backend.optimizer().gradient_norm(store.gradients(), no_mask, norm);
    backend.optimizer().update({.rate = 1e-3f}, 5.0f, norm, store.values(), store.gradients(), no_mask,
                               {.device = backend.device()}, {.device = backend.device()});
    store.values_changed();
  }

 private:
  Network network_;
  Buffer norm_;
  Batch text_;
};

}  // namespace
}  // namespace coppice::bench

int main(int argc, char** argv) {
  using namespace coppice;
  bench::Options options;
  CLI::App app{"Times one piece of recurrent work on a device"};
  app.add_option("--work", options.work,
                 "train: recurrent layers; train_lm: a language model's step; infer; step")
      ->check(CLI::IsMember({"train", "train_lm", "infer", "step"}));
  app.add_option("--cell", options.cell)->check(CLI::IsMember({"rnn", "lstm", "gru"}));
  app.add_option("--hidden", options.hidden);
  app.add_option("--layers", options.layers);
  app.add_option("--batch", options.batch);
  app.add_option("--time", options.time);
  app.add_option("--vocabulary", options.vocabulary);
  app.add_option("--repeat", options.repeat, "calls a sample, for short work");
  app.add_option("--device", options.device, "cpu, cuda, cuda:1");
  app.add_option("--threads", options.threads);
  app.add_option("--samples", options.sampling.samples);
  app.add_option("--warmup", options.sampling.warmup);
  app.add_flag("--interleave", options.sampling.interleave);
  CLI11_PARSE(app, argc, argv);
  if (options.cell == "rnn") options.cell = "rnn_tanh";

  const auto backend = open_backend(options.device, {.threads = options.threads});
  std::unique_ptr<bench::Stack> stack;
  std::unique_ptr<bench::LanguageModel> model;
  std::function<void()> body;
  if (options.work == "train_lm") {
    model = std::make_unique<bench::LanguageModel>(*backend, options);
    body = [&] { model->train(); };
  } else {
    stack = std::make_unique<bench::Stack>(*backend, options);
    body = options.work == "train" ? std::function<void()>([&] { stack->train(); })
                                   : std::function<void()>([&] { stack->forward(false); });
  }
  const int64_t units = (options.work == "step" ? 1 : options.time) * options.batch * options.repeat;
  return bench::run_samples(options.sampling,
                            {{"work", options.work},
                             {"cell", options.cell},
                             {"hidden", options.hidden},
                             {"layers", options.layers},
                             {"batch", options.batch},
                             {"time", options.time},
                             {"repeat", options.repeat},
                             {"threads", options.threads},
                             {"device", backend->info().name},
                             {"detail", backend->info().detail}},
                            static_cast<double>(units), [&] {
                              for (int64_t i = 0; i < options.repeat; ++i) body();
                              backend->synchronize();
                            });
}
