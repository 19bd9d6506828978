#include "engine/model/model_folder.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "engine/builtins.hpp"
#include "engine/files/input_file.hpp"
#include "engine/files/sparse_encoding.hpp"
#include "engine/files/strict_json.hpp"
#include "kernels/error.hpp"

namespace coppice {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kWeights = "weights.safetensors";
constexpr std::string_view kDescription = "model.json";

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::string description_json(const Network& network, const DataConfig& data, const Vocabulary* vocabulary) {
  const ModelConfig& model = network.config();
  const DataShape& shape = network.data_shape();
  Json json;
  json["schema"] = kModelSchema;
  json["architecture"] = {
      {"cell", model.cell},     {"embedding", model.embedding},         {"hidden", model.hidden},
      {"layers", model.layers}, {"bidirectional", model.bidirectional}, {"dropout", model.dropout},
      {"init", model.init},     {"init_range", model.init_range},       {"loss", model.loss}};
  json["gates"] = {
      {"order", gate_names(find_cell(model.cell))},
      {"layout", "each gate is hidden rows of weight_ih, weight_hh and the biases, in this order"}};
  json["shape"] = {{"task", shape.task == Task::language_model ? "language_model" : "classification"},
                   {"inputs", shape.inputs},
                   {"vocabulary", shape.vocabulary},
                   {"classes", shape.classes},
                   {"character", shape.character},
                   {"class_names", shape.class_names}};
  json["data"] = {{"kind", data.kind},
                  {"token", data.token},
                  {"end_of_line", data.end_of_line},
                  {"lowercase", data.lowercase},
                  {"split_punctuation", data.split_punctuation},
                  {"batch_size", data.batch_size},
                  {"steps", data.steps},
                  {"carry_state", data.carry_state}};
  if (vocabulary != nullptr) {
    json["vocabulary"] = {{"token", vocabulary->token},
                          {"unknown", vocabulary->unknown},
                          {"end_of_line", vocabulary->end_of_line},
                          {"entries", vocabulary->entries}};
  }
  return json.dump(1) + "\n";
}

/// Values of one object of model.json, each of a known type or an error that names it.
class Reader {
 public:
  Reader(const nlohmann::json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json_.is_object()) bad_input("{}: expected an object, found {}", where_, json_.type_name());
  }
  template <class T>
  void get(const char* key, T& value) const {
    const auto found = json_.find(key);
    if (found == json_.end()) bad_input("{}: \"{}\" is missing", where_, key);
    // get<int>() of a fraction or of a bool would convert silently.
    const bool fits = std::is_same_v<T, bool>          ? found->is_boolean()
                      : std::is_integral_v<T>          ? found->is_number_integer()
                      : std::is_floating_point_v<T>    ? found->is_number()
                      : std::is_same_v<T, std::string> ? found->is_string()
                                                       : found->is_array();
    if (!fits) bad_input("{}: \"{}\" has the wrong type: found {}", where_, key, found->type_name());
    try {
      found->get_to(value);
    } catch (const nlohmann::json::exception&) {
      bad_input("{}: \"{}\" has a value of the wrong type", where_, key);
    }
  }
  Reader object(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) bad_input("{}: \"{}\" is missing", where_, key);
    return Reader(*found, fmt::format("{}: {}", where_, key));
  }
  bool has(const char* key) const { return json_.contains(key); }

 private:
  const nlohmann::json& json_;
  std::string where_;
};

Vocabulary checked(Vocabulary vocabulary, const std::string& where) {
  const auto size = static_cast<int64_t>(vocabulary.entries.size());
  for (const int32_t id : {vocabulary.unknown, vocabulary.end_of_line}) {
    if (id < -1 || id >= size) bad_input("{}: id {} lies outside the vocabulary of {}", where, id, size);
  }
  if (vocabulary.token != "word" && vocabulary.token != "character") {
    bad_input("{}: \"token\" is \"{}\"; expected word or character", where, vocabulary.token);
  }
  return vocabulary;
}

// --- finding the tensors of other people's checkpoints

struct WeightTensors {
  const WeightFile* file;
  std::set<size_t> left;  // floating tensors that nobody has claimed
};

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
  const std::string_view owner = owner_part(ours), part = last_part(ours);
  if (part != last_part(theirs)) return false;
  if (owner == "rnn") return true;  // weight_ih_l0 and the like say all
  const auto among = [&](std::span<const std::string_view> names) {
    return std::find(names.begin(), names.end(), owner_part(theirs)) != names.end();
  };
  return owner == "embedding" ? among(kEmbeddingNames) : among(kDecoderNames);
}

/// Claims the tensor of the file that is `segment`, by its own name, by another usual one, or by its shape.
std::optional<size_t> claim(const Segment& segment, WeightTensors& tensors) {
  const auto unique = [&](auto&& fits) {
    std::optional<size_t> found;
    for (const size_t i : tensors.left) {
      if (!fits(tensors.file->tensors()[i])) continue;
      if (found) return std::optional<size_t>();
      found = i;
    }
    return found;
  };
  std::optional<size_t> found = unique([&](const FileTensor& t) { return t.name == segment.name; });
  if (!found) found = unique([&](const FileTensor& t) { return answers_to(segment.name, t.name); });
  if (!found && owner_part(segment.name) != "rnn") {
    found = unique([&](const FileTensor& t) { return t.shape == segment.shape; });
  }
  if (found) tensors.left.erase(*found);
  return found;
}

/// The largest l of "…<part>_l<l>" plus one; `shape` of the first.
struct Recurrent {
  int64_t layers = 0;
  bool bidirectional = false;
  std::vector<int64_t> input;      // shape of weight_ih_l0
  std::vector<int64_t> recurrent;  // shape of weight_hh_l0
};

std::optional<Recurrent> find_recurrent(const WeightFile& file) {
  Recurrent found;
  for (const FileTensor& tensor : file.tensors()) {
    std::string_view part = last_part(tensor.name);
    const bool reverse = part.ends_with("_reverse");
    if (reverse) part.remove_suffix(8);
    if (!part.starts_with("weight_hh_l") && !part.starts_with("weight_ih_l")) continue;
    const std::string digits(part.substr(11));
    if (digits.empty() || digits.size() > 4 || digits.find_first_not_of("0123456789") != std::string::npos)
      continue;
    found.layers = std::max<int64_t>(found.layers, std::stoi(digits) + 1);
    found.bidirectional = found.bidirectional || reverse;
    if (digits == "0" && !reverse) (part[7] == 'h' ? found.recurrent : found.input) = tensor.shape;
  }
  if (found.input.size() != 2 || found.recurrent.size() != 2 || found.recurrent[1] < 1) return std::nullopt;
  return found;
}

/// How the file's architecture would be written in a recipe, for error messages; "" when it can't be seen.
std::string fitting_keys(const WeightFile& file, const ModelConfig& config) {
  const auto found = find_recurrent(file);
  if (!found) return "; the file has no tensors named weight_ih_l0 and weight_hh_l0";
  ModelConfig fits;
  try {
    fits = model_of_weights(file.path(), config);
  } catch (const Error&) {
    return "";
  }
  return fmt::format("; the file fits cell = {}, layers = {}, hidden = {}, bidirectional = {}{}", fits.cell,
                     fits.layers, fits.hidden, fits.bidirectional,
                     config.embedding > 0 ? fmt::format(", embedding = {}", fits.embedding) : "");
}

}  // namespace

int64_t write_model(const Network& network, const DataConfig& data, const Vocabulary* vocabulary,
                    const fs::path& folder, WeightEncoding encoding) {
  const ParameterStore& store = network.store();
  std::vector<FileTensor> tensors;
  for (const Segment& segment : store.segments()) {
    tensors.push_back({.name = segment.name, .dtype = DType::f32, .shape = segment.shape});
  }
  const std::string path = (folder / kWeights).string();
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};  // what PyTorch's readers look for
  const auto writer = create_weights(path, tensors, metadata);
  for (const Segment& segment : store.segments()) {
    const std::vector<float> values = store.download(segment);
    writer->write(segment.name, values.data(), static_cast<int64_t>(values.size()));
  }
  writer->finish();
  // Encoding reads blocks of a file, so the plain one is written first.
  if (encoding == WeightEncoding::sparse) encode_sparse(*open_weights(path), path, Existing::replace);
  write_file((folder / kDescription).string(), description_json(network, data, vocabulary));
  return static_cast<int64_t>(fs::file_size(path));
}

int64_t save_model(const Network& network, const DataConfig& data, const Vocabulary* vocabulary,
                   const fs::path& folder, Existing existing, WeightEncoding encoding) {
  AtomicFolder output(folder.string(), existing);
  const int64_t bytes = write_model(network, data, vocabulary, output.building(), encoding);
  output.commit();
  return bytes;
}

bool is_model_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path / kDescription, ignored);
}

ModelDescription read_model(const fs::path& folder) {
  const std::string path = (folder / kDescription).string();
  if (!is_model_folder(folder)) {
    bad_input("{}: is no model: expected a folder with {} and {}", folder.string(), kDescription, kWeights);
  }
  const nlohmann::json json = parse_json(read_file(path), path);
  const Reader top(json, path);
  int64_t schema = 0;
  top.get("schema", schema);
  if (schema != kModelSchema)
    bad_input("{}: \"schema\" is {}; this program reads {}", path, schema, kModelSchema);

  ModelDescription result;
  const Reader architecture = top.object("architecture");
  architecture.get("cell", result.model.cell);
  architecture.get("embedding", result.model.embedding);
  architecture.get("hidden", result.model.hidden);
  architecture.get("layers", result.model.layers);
  architecture.get("bidirectional", result.model.bidirectional);
  architecture.get("dropout", result.model.dropout);
  architecture.get("init", result.model.init);
  architecture.get("init_range", result.model.init_range);
  architecture.get("loss", result.model.loss);
  const Cell cell = find_cell(result.model.cell);
  std::string order;
  top.object("gates").get("order", order);
  if (order != gate_names(cell)) {
    bad_input("{}: gates lie in the order \"{}\"; expected \"{}\" for {}", path, order, gate_names(cell),
              result.model.cell);
  }

  const Reader shape = top.object("shape");
  std::string task;
  shape.get("task", task);
  if (task != "language_model" && task != "classification") {
    bad_input("{}: \"task\" is \"{}\"; expected language_model or classification", path, task);
  }
  result.shape.task = task == "language_model" ? Task::language_model : Task::classification;
  shape.get("inputs", result.shape.inputs);
  shape.get("vocabulary", result.shape.vocabulary);
  shape.get("classes", result.shape.classes);
  shape.get("character", result.shape.character);
  shape.get("class_names", result.shape.class_names);

  const Reader data = top.object("data");
  data.get("kind", result.data.kind);
  data.get("token", result.data.token);
  data.get("end_of_line", result.data.end_of_line);
  data.get("lowercase", result.data.lowercase);
  data.get("split_punctuation", result.data.split_punctuation);
  data.get("batch_size", result.data.batch_size);
  data.get("steps", result.data.steps);
  data.get("carry_state", result.data.carry_state);

  if (top.has("vocabulary")) {
    const Reader reader = top.object("vocabulary");
    Vocabulary vocabulary;
    int64_t unknown = -1, end_of_line = -1;
    reader.get("token", vocabulary.token);
    reader.get("unknown", unknown);
    reader.get("end_of_line", end_of_line);
    reader.get("entries", vocabulary.entries);
    vocabulary.unknown = static_cast<int32_t>(unknown);
    vocabulary.end_of_line = static_cast<int32_t>(end_of_line);
    result.vocabulary = checked(std::move(vocabulary), path);
    if (static_cast<int64_t>(result.vocabulary->entries.size()) != result.shape.vocabulary) {
      bad_input("{}: the vocabulary has {} entries, but the model's shape says {}", path,
                result.vocabulary->entries.size(), result.shape.vocabulary);
    }
  }
  return result;
}

std::unique_ptr<Network> load_model(Backend& backend, const fs::path& folder) {
  const ModelDescription description = read_model(folder);
  auto network = std::make_unique<Network>(backend, description.model, description.shape);
  load_weights(*network, folder);
  return network;
}

void load_weights(Network& network, const fs::path& path) {
  const auto file = open_weights(path.string());
  WeightTensors tensors{file.get(), {}};
  for (size_t i = 0; i < file->tensors().size(); ++i) {
    if (is_floating(file->tensors()[i].dtype)) tensors.left.insert(i);
  }
  ParameterStore& store = network.store();
  std::vector<size_t> claimed;
  for (const Segment& segment : store.segments()) {
    const auto found = claim(segment, tensors);
    if (!found) {
      bad_input("{}: weights for another architecture: nothing in it is \"{}\" {}{}", path.string(),
                segment.name, shape_text(segment.shape), fitting_keys(*file, network.config()));
    }
    const FileTensor& tensor = file->tensors()[*found];
    if (tensor.shape != segment.shape) {
      bad_input("{}: weights for another architecture: \"{}\" is {}, expected {} for the model's \"{}\"{}",
                path.string(), tensor.name, shape_text(tensor.shape), shape_text(segment.shape), segment.name,
                fitting_keys(*file, network.config()));
    }
    claimed.push_back(*found);
  }
  if (!tensors.left.empty()) {
    const FileTensor& tensor = file->tensors()[*tensors.left.begin()];
    bad_input("{}: weights for another architecture: the model has no place for \"{}\" {}{}", path.string(),
              tensor.name, shape_text(tensor.shape), fitting_keys(*file, network.config()));
  }
  for (size_t i = 0; i < claimed.size(); ++i) {
    const Segment& segment = store.segments()[i];
    std::vector<float> values(static_cast<size_t>(segment.size()));
    file->read_f32(claimed[i], 0, segment.size(), values.data());
    store.upload(segment, values);
  }
}

ModelConfig model_of_weights(const fs::path& path, ModelConfig config) {
  if (is_model_folder(path)) {
    ModelConfig model = read_model(path).model;
    model.weights = config.weights;
    return model;
  }
  const auto file = open_weights(path.string());
  const auto found = find_recurrent(*file);
  if (!found) {
    bad_input("{}: expected recurrent layers in PyTorch's names (weight_ih_l0, weight_hh_l0), found \"{}\"",
              path.string(), file->tensors().empty() ? "nothing" : file->tensors().front().name);
  }
  const int64_t hidden = found->recurrent[1], gates = found->recurrent[0] / hidden;
  if (found->recurrent[0] % hidden != 0 || (gates != 1 && gates != 3 && gates != 4)) {
    bad_input("{}: weight_hh_l0 is {}; expected 1, 3 or 4 times as many rows as columns (RNN, GRU, LSTM)",
              path.string(), shape_text(found->recurrent));
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
