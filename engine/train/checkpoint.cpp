#include "engine/train/checkpoint.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/files/safetensors.hpp"
#include "kernels/error.hpp"

namespace coppice {

namespace {

using Json = nlohmann::json;
constexpr int kSchema = 2;

// One description of each struct serves both ways: `visit(archive, x)` names the members, and the two
// archives write and read them. JSON has no NaN or infinity; they travel as strings.
struct Writer {
  Json& json;
  template <class T>
  void operator()(const char* key, T& value) {
    json[key] = to(value);
  }
  static Json to(double x) {
    if (std::isfinite(x)) return x;
    return std::isnan(x) ? Json("nan") : Json(x > 0 ? "inf" : "-inf");
  }
  static Json to(bool x) { return x; }
  static Json to(int x) { return x; }
  static Json to(int64_t x) { return x; }
  static Json to(uint64_t x) { return x; }
  static Json to(std::string& x) { return x; }
  template <class T>
  static Json to(std::vector<T>& list) {
    Json array = Json::array();
    for (auto& x : list) array.push_back(to(x));
    return array;
  }
  template <class A, class B>
  static Json to(std::pair<A, B>& x) {
    return Json::array({to(x.first), to(x.second)});
  }
  template <class T>
  static Json to(std::optional<T>& x) {
    return x ? to(*x) : Json(nullptr);
  }
  template <class T>
  static Json to(T& x) {
    Json object = Json::object();
    Writer writer{object};
    visit(writer, x);
    return object;
  }
};

struct Reader {
  const Json& json;
  template <class T>
  void operator()(const char* key, T& value) {
    from(json.at(key), value);
  }
  static void from(const Json& json, double& x) {
    if (!json.is_string()) {
      x = json.get<double>();
      return;
    }
    const auto text = json.get<std::string>();
    x = text == "nan" ? std::numeric_limits<double>::quiet_NaN()
                      : (text == "inf" ? 1.0 : -1.0) * std::numeric_limits<double>::infinity();
  }
  static void from(const Json& json, bool& x) { x = json.get<bool>(); }
  static void from(const Json& json, int& x) { x = json.get<int>(); }
  static void from(const Json& json, int64_t& x) { x = json.get<int64_t>(); }
  static void from(const Json& json, uint64_t& x) { x = json.get<uint64_t>(); }
  static void from(const Json& json, std::string& x) { x = json.get<std::string>(); }
  template <class T>
  static void from(const Json& json, std::vector<T>& list) {
    list.clear();
    for (const Json& item : json) from(item, list.emplace_back());
  }
  template <class A, class B>
  static void from(const Json& json, std::pair<A, B>& x) {
    from(json.at(0), x.first);
    from(json.at(1), x.second);
  }
  template <class T>
  static void from(const Json& json, std::optional<T>& x) {
    x.reset();
    if (!json.is_null()) from(json, x.emplace());
  }
  template <class T>
  static void from(const Json& json, T& x) {
    Reader reader{json};
    visit(reader, x);
  }
};

template <class A>
void visit(A& a, LossTotals& x) {
  a("loss", x.loss), a("correct", x.correct), a("count", x.count);
}
template <class A>
void visit(A& a, TrainerState& x) {
  a("epoch", x.epoch), a("batch", x.batch), a("step", x.step), a("totals", x.totals), a("units", x.units);
  a("epoch_seconds", x.epoch_seconds), a("best_loss", x.best_loss), a("best_epoch", x.best_epoch);
  a("best_step", x.best_step), a("stale", x.stale), a("finished", x.finished), a("sparsity", x.sparsity);
  a("cuts_complete", x.cuts_complete), a("observed", x.observed), a("state_batch", x.state_batch);
}
template <class A>
void visit(A& a, EpochRecord& x) {
  a("stage", x.stage), a("epoch", x.epoch), a("steps", x.steps), a("rate", x.rate);
  a("train_loss", x.train_loss), a("train_accuracy", x.train_accuracy), a("valid_loss", x.valid_loss);
  a("valid_accuracy", x.valid_accuracy), a("sparsity", x.sparsity), a("seconds", x.seconds);
  a("units_per_second", x.units_per_second);
}
template <class A>
void visit(A& a, CutRecord& x) {
  a("stage", x.stage), a("step", x.step), a("sparsity", x.sparsity), a("kept", x.kept);
  a("statistics", x.statistics);
}
template <class A>
void visit(A& a, ModelMetrics& x) {
  a("split", x.split), a("loss", x.loss), a("perplexity", x.perplexity), a("bits_per_char", x.bits_per_char);
  a("accuracy", x.accuracy), a("targets", x.targets), a("optimizer_steps", x.optimizer_steps);
  a("seconds", x.seconds), a("units_per_second", x.units_per_second);
}
template <class A>
void visit(A& a, GroupOutcome& x) {
  a("name", x.name), a("units", x.units), a("cut", x.cut), a("threshold", x.threshold);
  a("threshold_text", x.threshold_text);
}
template <class A>
void visit(A& a, TensorOutcome& x) {
  a("name", x.name), a("shape", x.shape), a("pruned", x.pruned), a("size", x.size), a("kept", x.kept);
  a("gate_names", x.gate_names), a("gate_size", x.gate_size), a("gate_kept", x.gate_kept);
}
template <class A>
void visit(A& a, RunReport& x) {
  a("name", x.name), a("folder", x.folder), a("task", x.task), a("metric", x.metric), a("unit", x.unit);
  a("model", x.model), a("dense", x.dense), a("dense_continued", x.dense_continued), a("pruned", x.pruned);
  a("retrained", x.retrained), a("sparse", x.sparse), a("parameters.total", x.parameters.total);
  a("parameters.prunable", x.parameters.prunable), a("parameters.kept", x.parameters.kept);
  a("criterion", x.criterion), a("formula", x.formula), a("scope", x.scope), a("pattern", x.pattern);
  a("schedule", x.schedule), a("sparsity", x.sparsity), a("percentile", x.percentile);
  a("tensors", x.tensors), a("groups", x.groups), a("cuts", x.cuts), a("bytes.dense", x.bytes.dense);
  a("bytes.pruned", x.bytes.pruned), a("bytes.sparse", x.bytes.sparse);
  a("execution_bytes.dense", x.execution_bytes.dense), a("execution_bytes.sparse", x.execution_bytes.sparse);
  a("layout", x.layout), a("layouts", x.layouts), a("retraining", x.retraining);
  a("probe_difference", x.probe_difference), a("seconds", x.seconds);
  a("epochs", x.epochs), a("machine.name", x.machine.name), a("machine.detail", x.machine.detail);
  a("machine.system", x.machine.system), a("machine.cores", x.machine.cores);
  a("machine.memory_bytes", x.machine.memory_bytes), a("device", x.device), a("device_note", x.device_note);
  a("seed", x.seed), a("threads", x.threads), a("versions", x.versions), a("started", x.started);
  a("resumed", x.resumed);
}
template <class A>
void visit(A& a, Checkpoint& x) {
  a("verb", x.verb), a("output", x.output), a("source", x.source), a("next", x.next), a("trainer", x.trainer);
  a("threads", x.threads), a("data", x.data), a("steps", x.steps);
  a("dense_steps", x.dense_steps);
  a("retrain_steps", x.retrain_steps), a("report", x.report);
}

Checkpoint::Array copy_of(Backend& backend, std::string name, DType dtype, const void* data, int64_t size) {
  Checkpoint::Array array{std::move(name), dtype, size, {}};
  array.bytes.resize(static_cast<size_t>(size * size_of(dtype)));
  if (size != 0) backend.download(data, array.bytes.data(), static_cast<int64_t>(array.bytes.size()));
  return array;
}

void put_back(const Checkpoint& checkpoint, Backend& backend, const std::string& name, DType dtype,
              void* data, int64_t size) {
  const Checkpoint::Array* array = checkpoint.find(name);
  if (!array) bad_input("the checkpoint has no array \"{}\"", name);
  if (array->dtype != dtype || array->size != size) {
    bad_input("the checkpoint's array \"{}\" has {} elements of {}; expected {} of {}", name, array->size,
              to_string(array->dtype), size, to_string(dtype));
  }
  if (size != 0) backend.upload(array->bytes.data(), data, static_cast<int64_t>(array->bytes.size()));
}

}  // namespace

const Checkpoint::Array* Checkpoint::find(std::string_view name) const {
  for (const Array& array : arrays) {
    if (array.name == name) return &array;
  }
  return nullptr;
}

void write_checkpoint(const std::string& path, const Checkpoint& checkpoint) {
  std::vector<FileTensor> tensors;
  for (const Checkpoint::Array& array : checkpoint.arrays)
    tensors.push_back({array.name, array.dtype, {array.size}});
  Checkpoint fields = checkpoint;  // the archives take references that aren't const
  fields.arrays.clear();
  Json json = Writer::to(fields);
  SafetensorsWriter writer(path, std::move(tensors),
                           {{"coppice_checkpoint", std::to_string(kSchema)}, {"state", json.dump()}},
                           Existing::replace);
  for (const Checkpoint::Array& array : checkpoint.arrays)
    writer.write(array.name, array.bytes.data(), array.size);
  writer.finish();
}

Checkpoint read_checkpoint(const std::string& path) {
  const SafetensorsFile file(path);
  const auto schema = file.metadata().find("coppice_checkpoint"), state = file.metadata().find("state");
  if (schema == file.metadata().end() || state == file.metadata().end()) {
    bad_input("{}: not a checkpoint of a run", path);
  }
  if (schema->second != std::to_string(kSchema)) {
    bad_input("{}: a checkpoint of schema {}; this program reads {}", path, schema->second, kSchema);
  }
  Checkpoint checkpoint;
  try {
    Reader::from(Json::parse(state->second), checkpoint);
  } catch (const Json::exception& error) {
    bad_input("{}: the checkpoint's state can't be read: {}", path, error.what());
  }
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const FileTensor& tensor = file.tensors()[i];
    Checkpoint::Array& array =
        checkpoint.arrays.emplace_back(Checkpoint::Array{tensor.name, tensor.dtype, tensor.size(), {}});
    array.bytes.resize(static_cast<size_t>(tensor.bytes()));
    if (tensor.size() != 0) file.read(i, 0, tensor.size(), array.bytes.data());
  }
  return checkpoint;
}

std::string epoch_line(const EpochRecord& epoch) {
  EpochRecord record = epoch;
  Json json = Writer::to(record);
  for (auto& [key, value] : json.items()) {
    if (value.is_string() && key != "stage") value = nullptr;
  }
  return json.dump();
}

void capture(Checkpoint& checkpoint, Network& network, Trainer* trainer) {
  Backend& backend = network.backend();
  ParameterStore& store = network.store();
  checkpoint.arrays.clear();
  checkpoint.arrays.push_back(copy_of(backend, "values", DType::f32, store.values().data, store.size()));
  if (store.masked()) {
    checkpoint.arrays.push_back(copy_of(backend, "mask", DType::u64, store.mask().data, store.mask().size));
  }
  checkpoint.trainer.reset();
  if (!trainer) return;
  checkpoint.trainer = trainer->state();
  // Between two epochs there is no state to carry.
  const std::vector<float> state =
      trainer->state().batch != 0 ? network.download_state() : std::vector<float>{};
  checkpoint.trainer->state_batch = trainer->state().batch != 0 ? network.state_batch() : 0;
  Checkpoint::Array array{"state", DType::f32, static_cast<int64_t>(state.size()), {}};
  array.bytes.resize(state.size() * sizeof(float));
  if (!state.empty()) std::memcpy(array.bytes.data(), state.data(), array.bytes.size());
  checkpoint.arrays.push_back(std::move(array));
  for (const StateArray& named : trainer->arrays()) {
    checkpoint.arrays.push_back(copy_of(backend, named.name, named.dtype, named.data, named.size));
  }
}

void restore(const Checkpoint& checkpoint, Network& network, Trainer* trainer) {
  Backend& backend = network.backend();
  ParameterStore& store = network.store();
  put_back(checkpoint, backend, "values", DType::f32, store.values().data, store.size());
  store.values_changed();
  if (checkpoint.find("mask")) {
    if (!store.masked()) store.enable_mask();
    put_back(checkpoint, backend, "mask", DType::u64, store.mask().data, store.mask().size);
  } else {
    store.disable_mask();
  }
  if (!trainer || !checkpoint.trainer) return;
  for (const StateArray& named : trainer->arrays()) {
    put_back(checkpoint, backend, named.name, named.dtype, named.data, named.size);
  }
  network.reset_state();
  if (checkpoint.trainer->state_batch != 0) {
    const Checkpoint::Array* array = checkpoint.find("state");
    if (!array) bad_input("the checkpoint has no array \"state\"");
    std::vector<float> state(static_cast<size_t>(array->size));
    std::memcpy(state.data(), array->bytes.data(), array->bytes.size());
    network.upload_state(state, checkpoint.trainer->state_batch);
  }
  trainer->restore(*checkpoint.trainer);
}

}  // namespace coppice
