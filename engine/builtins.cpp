#include "engine/builtins.hpp"

#include <string>

#include "engine/model/layers.hpp"
#include "kernels/error.hpp"

namespace coppice {

namespace {

constexpr CellEntry kCells[] = {
    {"rnn_tanh", Cell::rnn_tanh, "h' = tanh(W x + U h + b)"},
    {"rnn_relu", Cell::rnn_relu, "h' = max(0, W x + U h + b)"},
    {"rnn_sigmoid", Cell::rnn_sigmoid, "h' = 1 / (1 + exp(-(W x + U h + b)))"},
    {"lstm", Cell::lstm, "long short-term memory, gates i, f, g, o (torch.nn.LSTM)"},
    {"gru", Cell::gru, "gated recurrent unit, gates r, z, n (torch.nn.GRU)"},
};

constexpr std::string_view kLayers[] = {"embedding", "recurrent", "dense", "dropout", "last_step"};

}  // namespace

std::span<const CellEntry> builtin_cells() {
  return kCells;
}

Cell find_cell(std::string_view name) {
  std::string known;
  for (const CellEntry& entry : kCells) {
    if (entry.name == name) return entry.cell;
    known += known.empty() ? "" : ", ";
    known += entry.name;
  }
  bad_input("model.cell: unknown cell \"{}\"; expected one of {}", name, known);
}

std::string_view to_string(Cell cell) {
  for (const CellEntry& entry : kCells) {
    if (entry.cell == cell) return entry.name;
  }
  return "?";
}

std::span<const std::string_view> builtin_layers() {
  return kLayers;
}

std::vector<std::unique_ptr<Layer>> build_layers(const ModelConfig& config, const DataShape& data) {
  const Cell cell = find_cell(config.cell);
  if (config.hidden < 1) bad_input("model.hidden: expected at least 1, found {}", config.hidden);
  if (config.layers < 1) bad_input("model.layers: expected at least 1, found {}", config.layers);
  if (!(config.dropout >= 0.0 && config.dropout < 1.0)) {
    bad_input("model.dropout: expected a probability in [0, 1), found {}", config.dropout);
  }
  if (config.init != "pytorch" && config.init != "keras" && config.init != "uniform") {
    bad_input("model.init: unknown initialisation \"{}\"; expected pytorch, keras or uniform", config.init);
  }
  if (config.loss != "softmax" && config.loss != "sigmoid") {
    bad_input("model.loss: unknown loss \"{}\"; expected softmax or sigmoid", config.loss);
  }
  if (data.classes < 1) bad_input("the data have {} classes; expected at least 1", data.classes);
  if (config.loss == "sigmoid" && data.classes != 1) {
    bad_input("model.loss: sigmoid needs labels 0 and 1, but the data have {} classes; use softmax",
              data.classes);
  }
  if (config.loss == "softmax" && data.classes == 1) {
    bad_input("model.loss: softmax over one class is always right; use sigmoid for labels 0 and 1");
  }
  const bool ids = data.inputs == 0;
  if (ids && data.vocabulary < 1) bad_input("the data have neither features nor a vocabulary");
  if (ids && config.embedding < 1) {
    bad_input("model.embedding: expected at least 1 for data of {} tokens, found {}", data.vocabulary,
              config.embedding);
  }
  if (data.task == Task::language_model && config.bidirectional) {
    bad_input("model.bidirectional: a language model that reads backwards sees the token it must predict");
  }

  std::vector<std::unique_ptr<Layer>> layers;
  int64_t width = data.inputs;
  int64_t dropouts = 0;
  const auto add_dropout = [&] {
    if (config.dropout > 0.0) layers.push_back(make_dropout(width, config.dropout, dropouts++));
  };
  if (ids) {
    width = config.embedding;
    layers.push_back(make_embedding("embedding", data.vocabulary, width));
    add_dropout();
  }
  for (int64_t i = 0; i < config.layers; ++i) {
    layers.push_back(make_recurrent({.name = "rnn",
                                     .index = i,
                                     .cell = cell,
                                     .inputs = width,
                                     .hidden = config.hidden,
                                     .bidirectional = config.bidirectional}));
    width = config.hidden * (config.bidirectional ? 2 : 1);
    if (data.task == Task::classification && i + 1 == config.layers) {
      layers.push_back(make_last_step(width, config.bidirectional));
    }
    add_dropout();  // behind last_step, where B rows are left of T·B
  }
  layers.push_back(make_dense("decoder", width, data.classes));
  return layers;
}

std::vector<Segment> model_segments(const ModelConfig& config, const DataShape& data) {
  std::vector<Segment> segments;
  for (const auto& layer : build_layers(config, data)) {
    for (Segment& segment : layer->segments()) segments.push_back(std::move(segment));
  }
  return segments;
}

}  // namespace coppice
