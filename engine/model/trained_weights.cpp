#include "engine/model/trained_weights.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "engine/files/input_file.hpp"
#include "engine/files/strict_json.hpp"
#include "engine/model/model_folder.hpp"
#include "kernels/error.hpp"

namespace coppice {

namespace {

namespace fs = std::filesystem;

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

/// "rnn.weight_ih_l0" → "weight_ih_l0"; "decoder.weight" → "weight".
std::string_view last_part(std::string_view name) {
  const size_t dot = name.rfind('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}
/// "model.decoder.weight" → "decoder".
std::string_view owner_part(std::string_view name) {
  const size_t dot = name.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : last_part(name.substr(0, dot));
}

constexpr std::string_view kEmbeddingNames[] = {"embedding", "embeddings",      "embed",  "emb",
                                                "encoder",   "word_embeddings", "lookup", "wte"};
constexpr std::string_view kDecoderNames[] = {"decoder", "fc",   "linear", "out",        "output", "head",
                                              "lm_head", "proj", "dense",  "classifier", "h2o"};

bool answers_to(const std::string& ours, const std::string& theirs) {
  const std::string_view owner = owner_part(ours);
  if (last_part(ours) != last_part(theirs)) return false;
  if (owner == "rnn") return true;  // weight_ih_l0 and the like say all
  const auto among = [&](std::span<const std::string_view> names) {
    return std::find(names.begin(), names.end(), owner_part(theirs)) != names.end();
  };
  return owner == "embedding" ? among(kEmbeddingNames) : among(kDecoderNames);
}

/// The one tensor among `left` that is `segment`: by its own name, by another usual one, or by its shape.
std::optional<size_t> find_tensor(const Segment& segment, const WeightFile& file,
                                  const std::set<size_t>& left) {
  const auto only = [&](auto&& fits) {
    std::optional<size_t> found;
    for (const size_t i : left) {
      if (!fits(file.tensors()[i])) continue;
      if (found) return std::optional<size_t>();
      found = i;
    }
    return found;
  };
  std::optional<size_t> found = only([&](const FileTensor& t) { return t.name == segment.name; });
  if (!found) found = only([&](const FileTensor& t) { return answers_to(segment.name, t.name); });
  if (!found && owner_part(segment.name) != "rnn") {
    found = only([&](const FileTensor& t) { return t.shape == segment.shape; });
  }
  return found;
}

struct RecurrentTensors {
  int64_t layers = 0;
  bool bidirectional = false;
  std::vector<int64_t> input;      // shape of weight_ih_l0
  std::vector<int64_t> recurrent;  // shape of weight_hh_l0
};

std::optional<RecurrentTensors> find_recurrent(const WeightFile& file) {
  RecurrentTensors found;
  for (const FileTensor& tensor : file.tensors()) {
    std::string_view part = last_part(tensor.name);
    const bool reverse = part.ends_with("_reverse");
    if (reverse) part.remove_suffix(8);
    const bool recurrent = part.starts_with("weight_hh_l");
    if (!recurrent && !part.starts_with("weight_ih_l")) continue;
    const std::string digits(part.substr(11));
    if (digits.empty() || digits.size() > 4 || digits.find_first_not_of("0123456789") != std::string::npos)
      continue;
    found.layers = std::max<int64_t>(found.layers, std::stoi(digits) + 1);
    found.bidirectional = found.bidirectional || reverse;
    if (digits == "0" && !reverse) (recurrent ? found.recurrent : found.input) = tensor.shape;
  }
  if (found.input.size() != 2 || found.recurrent.size() != 2 || found.recurrent[1] < 1) return std::nullopt;
  return found;
}

ModelConfig infer(const WeightFile& file, ModelConfig config) {
  const auto found = find_recurrent(file);
  if (!found) {
    bad_input("{}: expected recurrent layers in PyTorch's names (weight_ih_l0, weight_hh_l0), found {}",
              file.path(),
              file.tensors().empty() ? "no tensors" : fmt::format("\"{}\"", file.tensors().front().name));
  }
  const int64_t hidden = found->recurrent[1], gates = found->recurrent[0] / hidden;
  if (found->recurrent[0] % hidden != 0 || (gates != 1 && gates != 3 && gates != 4)) {
    bad_input("{}: weight_hh_l0 is {}; expected 1, 3 or 4 times as many rows as columns (RNN, GRU, LSTM)",
              file.path(), shape_text(found->recurrent));
  }
  if (gates == 4) config.cell = "lstm";
  if (gates == 3) config.cell = "gru";
  if (gates == 1 && !config.cell.starts_with("rnn_")) config.cell = "rnn_tanh";  // torch.nn.RNN's default
  config.hidden = hidden;
  config.layers = found->layers;
  config.bidirectional = found->bidirectional;
  if (config.embedding > 0) config.embedding = found->input[1];
  return config;
}

/// How the file's architecture would stand in a recipe, for messages about one that differs.
std::string fitting_keys(const WeightFile& file, const ModelConfig& config) {
  if (!find_recurrent(file)) return "; the file has no tensors named weight_ih_l0 and weight_hh_l0";
  try {
    const ModelConfig fits = infer(file, config);
    return fmt::format("; the file fits cell = {}, layers = {}, hidden = {}, bidirectional = {}{}", fits.cell,
                       fits.layers, fits.hidden, fits.bidirectional,
                       config.embedding > 0 ? fmt::format(", embedding = {}", fits.embedding) : "");
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

TrainedWeights::TrainedWeights(const fs::path& path, std::span<const Segment> segments,
                               const ModelConfig& config)
    : file_(open_weights(path.string())) {
  std::set<size_t> left;
  for (size_t i = 0; i < file_->tensors().size(); ++i) {
    if (is_floating(file_->tensors()[i].dtype)) left.insert(i);
  }
  for (const Segment& segment : segments) {
    const auto found = find_tensor(segment, *file_, left);
    if (!found) {
      bad_input("{}: weights for another architecture: nothing in it is \"{}\" {}{}", path.string(),
                segment.name, shape_text(segment.shape), fitting_keys(*file_, config));
    }
    const FileTensor& tensor = file_->tensors()[*found];
    if (tensor.shape != segment.shape) {
      bad_input("{}: weights for another architecture or vocabulary: \"{}\" is {}, expected {} for \"{}\"{}",
                path.string(), tensor.name, shape_text(tensor.shape), shape_text(segment.shape), segment.name,
                fitting_keys(*file_, config));
    }
    left.erase(*found);
    places_[segment.name] = *found;
  }
  if (!left.empty()) {
    const FileTensor& tensor = file_->tensors()[*left.begin()];
    bad_input("{}: weights for another architecture: the model has no place for \"{}\" {}{}", path.string(),
              tensor.name, shape_text(tensor.shape), fitting_keys(*file_, config));
  }
}

std::vector<float> TrainedWeights::read(const Segment& segment) const {
  std::vector<float> values(static_cast<size_t>(segment.size()));
  file_->read_f32(places_.at(segment.name), 0, segment.size(), values.data());
  return values;
}

void load_weights(Network& network, const fs::path& path) {
  ParameterStore& store = network.store();
  const TrainedWeights weights(path, store.segments(), network.config());
  for (const Segment& segment : store.segments()) store.upload(segment, weights.read(segment));
}

ModelConfig model_of_weights(const fs::path& path, ModelConfig config) {
  if (!is_model_folder(path)) return infer(*open_weights(path.string()), std::move(config));
  const ModelConfig model = read_model(path).model;
  config.cell = model.cell;
  config.embedding = model.embedding;
  config.hidden = model.hidden;
  config.layers = model.layers;
  config.bidirectional = model.bidirectional;
  config.loss = model.loss;
  return config;
}

std::optional<Vocabulary> model_vocabulary(const fs::path& path) {
  if (is_model_folder(path)) return read_model(path).vocabulary;
  std::error_code ignored;
  const fs::path folder = fs::is_directory(path, ignored) ? path : path.parent_path();
  const std::string name = (folder / "vocab.json").string();
  if (!fs::is_regular_file(name, ignored)) return std::nullopt;
  const nlohmann::json json = parse_json(read_file(name), name);
  Vocabulary vocabulary;
  if (json.is_array()) {
    for (const auto& entry : json) {
      if (!entry.is_string()) bad_input("{}: expected a list of tokens, found {}", name, entry.type_name());
      vocabulary.entries.push_back(entry.get<std::string>());
    }
  } else if (json.is_object()) {
    std::vector<bool> seen(json.size(), false);
    vocabulary.entries.resize(json.size());
    for (const auto& [token, id] : json.items()) {
      const int64_t number = id.is_number_integer() ? id.get<int64_t>() : -1;
      if (number < 0 || number >= static_cast<int64_t>(seen.size()) || seen[static_cast<size_t>(number)]) {
        bad_input("{}: \"{}\" has the id {}; expected each of 0 to {} once", name, token, id.dump(),
                  seen.size() - 1);
      }
      seen[static_cast<size_t>(number)] = true;
      vocabulary.entries[static_cast<size_t>(number)] = token;
    }
  } else {
    bad_input("{}: expected {{token: id}} or a list of tokens, found {}", name, json.type_name());
  }
  if (vocabulary.entries.empty()) bad_input("{}: expected tokens, found none", name);
  bool characters = true;
  for (size_t i = 0; i < vocabulary.entries.size(); ++i) {
    const std::string& token = vocabulary.entries[i];
    const auto starts = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; };
    const bool special = token.size() > 2 && token.front() == '<' && token.back() == '>';
    if (!special) characters = characters && std::count_if(token.begin(), token.end(), starts) == 1;
    if (token == "<unk>") vocabulary.unknown = static_cast<int32_t>(i);
    if (token == "<eos>") vocabulary.end_of_line = static_cast<int32_t>(i);
  }
  vocabulary.token = characters ? "character" : "word";
  return vocabulary;
}

}  // namespace coppice
