#include "engine/model/model_folder.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
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

/// The store seen as a file, so that what writes files from files writes models too.
class StoreFile final : public WeightFile {
 public:
  explicit StoreFile(const ParameterStore& store) : WeightFile("the model"), store_(&store) {
    std::vector<FileTensor> tensors;
    for (const Segment& segment : store.segments()) {
      tensors.push_back({.name = segment.name, .dtype = DType::f32, .shape = segment.shape});
    }
    set_tensors(std::move(tensors));
    metadata_["format"] = "pt";  // what PyTorch's readers look for
  }
  std::string_view format() const override { return "memory"; }

 protected:
  void read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const override {
    const VectorView<float> values = store_->vector(store_->segments()[tensor]).slice(begin, count);
    store_->backend().download(values.data, out, count * size_of(DType::f32));
  }

 private:
  const ParameterStore* store_;
};

}  // namespace

int64_t write_model(const Network& network, const DataConfig& data, const Vocabulary* vocabulary,
                    const fs::path& folder, WeightEncoding encoding) {
  const std::string path = (folder / kWeights).string();
  const StoreFile file(network.store());
  if (encoding == WeightEncoding::sparse) {
    encode_sparse(file, path);
  } else {
    copy_weights(file, path);
  }
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

std::string description_with_hidden(const fs::path& folder, int64_t hidden) {
  const std::string path = (folder / kDescription).string();
  read_model(folder);
  Json json = Json::parse(read_file(path));
  json["architecture"]["hidden"] = hidden;
  return json.dump(1) + "\n";
}

std::unique_ptr<Network> load_model(Backend& backend, const fs::path& folder) {
  const ModelDescription description = read_model(folder);
  auto network = std::make_unique<Network>(backend, description.model, description.shape);
  load_weights(*network, folder);
  return network;
}

}  // namespace coppice
