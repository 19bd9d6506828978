#include "engine/report/json.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/report/sensitivity_pages.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

using Json = nlohmann::ordered_json;

Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}
Json bytes_or_null(uint64_t bytes) {
  return bytes != 0 ? Json(bytes) : Json(nullptr);
}

double sparsity_of(uint64_t kept, uint64_t size) {
  return size == 0 ? 0.0 : 1.0 - static_cast<double>(kept) / static_cast<double>(size);
}

Json metrics_or_null(const RunReport& report, const std::optional<ModelMetrics>& metrics) {
  return metrics ? metrics_json(report, *metrics) : Json(nullptr);
}

/// tensors[], gates[] and groups[] into `json`.
void add_outcome(Json& json, const std::vector<TensorOutcome>& tensors,
                 const std::vector<GroupOutcome>& groups) {
  json["tensors"] = Json::array();
  json["gates"] = Json::array();
  for (const TensorOutcome& tensor : tensors) {
    json["tensors"].push_back({{"name", tensor.name},
                               {"shape", tensor.shape},
                               {"pruned", tensor.pruned},
                               {"size", tensor.size},
                               {"kept", tensor.kept},
                               {"sparsity", sparsity_of(tensor.kept, tensor.size)}});
    for (size_t g = 0; g < tensor.gate_names.size(); ++g) {
      std::vector<int64_t> shape = tensor.shape;
      if (!shape.empty()) shape[0] /= static_cast<int64_t>(tensor.gate_names.size());
      json["gates"].push_back({{"name", tensor.name + ":" + tensor.gate_names[g]},
                               {"tensor", tensor.name},
                               {"gate", tensor.gate_names[g]},
                               {"shape", shape},
                               {"size", tensor.gate_size[g]},
                               {"kept", tensor.gate_kept[g]},
                               {"sparsity", sparsity_of(tensor.gate_kept[g], tensor.gate_size[g])}});
    }
  }
  json["groups"] = Json::array();
  for (const GroupOutcome& group : groups) {
    json["groups"].push_back({{"name", group.name},
                              {"units", group.units},
                              {"cut", group.cut},
                              {"threshold", number(group.threshold)},
                              {"threshold_text", group.threshold_text}});
  }
}

// Reading: a field of another type than ours makes nlohmann throw, which parse_report turns into our message.

double read_number(const Json& json, const char* key) {
  return json.at(key).is_null() ? std::numeric_limits<double>::quiet_NaN() : json.at(key).get<double>();
}
uint64_t read_bytes(const Json& json, const char* key) {
  return json.at(key).is_null() ? 0 : json.at(key).get<uint64_t>();
}

std::optional<ModelMetrics> read_metrics(const Json& json) {
  if (json.is_null()) return std::nullopt;
  ModelMetrics metrics;
  metrics.split = json.at("split");
  metrics.loss = read_number(json, "loss");
  metrics.perplexity = std::exp(metrics.loss);
  metrics.bits_per_char = metrics.loss / std::log(2.0);
  if (json.contains("perplexity")) metrics.perplexity = read_number(json, "perplexity");
  if (json.contains("bits_per_char")) metrics.bits_per_char = read_number(json, "bits_per_char");
  metrics.accuracy = read_number(json, "accuracy");
  metrics.targets = json.at("targets");
  metrics.optimizer_steps = json.at("optimizer_steps");
  metrics.seconds = read_number(json, "seconds");
  metrics.units_per_second = read_number(json, "units_per_second");
  return metrics;
}

}  // namespace

nlohmann::ordered_json metrics_json(const RunReport& report, const ModelMetrics& metrics) {
  Json json;
  json["split"] = metrics.split;
  json["loss"] = number(metrics.loss);
  if (report.task == "language_model") json["perplexity"] = number(metrics.perplexity);
  if (report.metric == "bits_per_char") json["bits_per_char"] = number(metrics.bits_per_char);
  json["accuracy"] = number(metrics.accuracy);
  json["targets"] = metrics.targets;
  json["optimizer_steps"] = metrics.optimizer_steps;
  json["seconds"] = number(metrics.seconds);
  json["units_per_second"] = number(metrics.units_per_second);
  return json;
}

std::string prune_report_json(const PruneReport& report) {
  const PruneOutcome& outcome = report.outcome;
  Json json = {{"schema", kReportSchema},   {"weights", report.weights},
               {"output", report.output},   {"criterion", report.criterion},
               {"formula", report.formula}, {"scope", report.scope},
               {"pattern", report.pattern}, {"sparsity", nullptr},
               {"percentile", nullptr},     {"seed", report.seed}};
  if (report.percentile < 0.0) {
    json["sparsity"] = report.sparsity;
  } else {
    json["percentile"] = report.percentile;
  }
  json.update(outcome_json(outcome));
  if (report.hidden >= 0) json["hidden"] = report.hidden;
  json["carried"] = Json::array();
  for (const CarriedTensor& tensor : report.carried) {
    json["carried"].push_back({{"name", tensor.name}, {"reason", tensor.reason}});
  }
  json["tied"] = report.tied;
  json["bytes"] = {
      {"before", report.bytes_before}, {"after", report.bytes_after}, {"sparse", report.sparse_bytes}};
  json["passes"] = outcome.passes;
  json["bracket_misses"] = outcome.bracket_misses;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string sensitivity_json(const SensitivityReport& report) {
  Json json = {{"schema", kReportSchema},
               {"model", report.model},
               {"criterion", report.criterion},
               {"formula", report.formula},
               {"split", report.split},
               {"targets", report.targets},
               {"dense_loss", number(report.dense_loss)},
               {"seed", report.seed},
               {"sparsities", report.sparsities}};
  json["curves"] = Json::array();
  for (const SensitivityCurve& curve : report.curves) {
    Json losses = Json::array();
    for (double loss : curve.losses) losses.push_back(number(loss));
    json["curves"].push_back({{"name", curve.name},
                              {"tensor", curve.tensor},
                              {"gate", curve.gate.empty() ? Json(nullptr) : Json(curve.gate)},
                              {"size", curve.size},
                              {"losses", std::move(losses)}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

nlohmann::ordered_json outcome_json(const PruneOutcome& outcome) {
  Json json;
  json["parameters"] = {{"total", outcome.total}, {"prunable", outcome.prunable}, {"kept", outcome.kept}};
  add_outcome(json, outcome.tensors, outcome.groups);
  if (!outcome.layers.empty()) json["layers"] = Json::array();
  for (const LayerOutcome& layer : outcome.layers) {
    json["layers"].push_back({{"name", layer.name}, {"hidden", layer.hidden}, {"kept", layer.kept}});
  }
  return json;
}

std::string report_json(const RunReport& report) {
  Json json;
  json["schema"] = kReportSchema;
  json["name"] = report.name;
  json["folder"] = report.folder;
  json["task"] = report.task;
  json["metric"] = report.metric;
  json["unit"] = report.unit;
  json["model"] = report.model;
  json["metrics"] = {{"dense", metrics_or_null(report, report.dense)},
                     {"dense_continued", metrics_or_null(report, report.dense_continued)},
                     {"pruned", metrics_or_null(report, report.pruned)},
                     {"retrained", metrics_or_null(report, report.retrained)},
                     {"sparse", metrics_or_null(report, report.sparse)}};
  json["parameters"] = {{"total", report.parameters.total},
                        {"prunable", report.parameters.prunable},
                        {"kept", report.parameters.kept}};
  json["pruning"] = {{"criterion", report.criterion},
                     {"formula", report.formula},
                     {"scope", report.scope},
                     {"pattern", report.pattern},
                     {"schedule", report.schedule},
                     {"sparsity", number(report.sparsity)},
                     {"percentile", report.percentile < 0 ? Json(nullptr) : number(report.percentile)}};
  add_outcome(json, report.tensors, report.groups);
  json["cuts"] = Json::array();
  for (const CutRecord& cut : report.cuts) {
    json["cuts"].push_back({{"stage", cut.stage},
                            {"step", cut.step},
                            {"sparsity", number(cut.sparsity)},
                            {"kept", cut.kept},
                            {"statistics_batches", cut.statistics}});
  }
  json["bytes"] = {{"dense", bytes_or_null(report.bytes.dense)},
                   {"pruned", bytes_or_null(report.bytes.pruned)},
                   {"sparse", bytes_or_null(report.bytes.sparse)}};
  json["execution"] = {{"layout", report.layout},
                       {"retraining", report.retraining},
                       {"dense_bytes", bytes_or_null(report.execution_bytes.dense)},
                       {"sparse_bytes", bytes_or_null(report.execution_bytes.sparse)},
                       {"probe_difference", number(report.probe_difference)}};
  for (const auto& [tensor, layout] : report.layouts) json["execution"]["layouts"][tensor] = layout;
  json["seconds"] = Json::object();
  for (const auto& [stage, seconds] : report.seconds) json["seconds"][stage] = number(seconds);
  json["epochs"] = Json::array();
  for (const EpochRecord& epoch : report.epochs) {
    json["epochs"].push_back({{"stage", epoch.stage},
                              {"epoch", epoch.epoch},
                              {"steps", epoch.steps},
                              {"rate", number(epoch.rate)},
                              {"train_loss", number(epoch.train_loss)},
                              {"train_accuracy", number(epoch.train_accuracy)},
                              {"valid_loss", number(epoch.valid_loss)},
                              {"valid_accuracy", number(epoch.valid_accuracy)},
                              {"sparsity", number(epoch.sparsity)},
                              {"seconds", number(epoch.seconds)},
                              {"units_per_second", number(epoch.units_per_second)}});
  }
  json["machine"] = {{"name", report.machine.name},
                     {"detail", report.machine.detail},
                     {"system", report.machine.system},
                     {"cores", report.machine.cores},
                     {"memory_bytes", report.machine.memory_bytes}};
  json["device"] = report.device;
  json["device_note"] = report.device_note;
  json["seed"] = report.seed;
  json["threads"] = report.threads;
  json["versions"] = Json::object();
  for (const auto& [what, version] : report.versions) json["versions"][what] = version;
  json["started"] = report.started;
  json["resumed"] = report.resumed;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

RunReport parse_report(std::string_view text, std::string_view name) {
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object() || !json.contains("schema")) {
    bad_input("{}: expected a report (JSON with a \"schema\"); found something else", name);
  }
  if (json["schema"] != kReportSchema) {
    bad_input("{}: expected a report of schema {}; found schema {}", name, kReportSchema,
              json["schema"].dump());
  }
  try {
    RunReport report;
    report.name = json.at("name");
    report.folder = json.at("folder");
    report.task = json.at("task");
    report.metric = json.at("metric");
    report.unit = json.at("unit");
    report.model = json.at("model");
    const Json& metrics = json.at("metrics");
    report.dense = read_metrics(metrics.at("dense"));
    report.dense_continued = read_metrics(metrics.at("dense_continued"));
    report.pruned = read_metrics(metrics.at("pruned"));
    report.retrained = read_metrics(metrics.at("retrained"));
    report.sparse = read_metrics(metrics.at("sparse"));
    const Json& parameters = json.at("parameters");
    report.parameters = {parameters.at("total"), parameters.at("prunable"), parameters.at("kept")};
    const Json& pruning = json.at("pruning");
    report.criterion = pruning.at("criterion");
    report.formula = pruning.at("formula");
    report.scope = pruning.at("scope");
    report.pattern = pruning.at("pattern");
    report.schedule = pruning.at("schedule");
    report.sparsity = read_number(pruning, "sparsity");
    report.percentile = pruning.at("percentile").is_null() ? -1.0 : pruning.at("percentile").get<double>();
    for (const Json& item : json.at("tensors")) {
      TensorOutcome tensor;
      tensor.name = item.at("name");
      tensor.shape = item.at("shape").get<std::vector<int64_t>>();
      tensor.pruned = item.at("pruned");
      tensor.size = item.at("size");
      tensor.kept = item.at("kept");
      for (const Json& gate : json.at("gates")) {
        if (gate.at("tensor") != tensor.name) continue;
        tensor.gate_names.push_back(gate.at("gate"));
        tensor.gate_size.push_back(gate.at("size"));
        tensor.gate_kept.push_back(gate.at("kept"));
      }
      report.tensors.push_back(std::move(tensor));
    }
    for (const Json& group : json.at("groups")) {
      report.groups.push_back({group.at("name"), group.at("units"), group.at("cut"),
                               read_number(group, "threshold"), group.at("threshold_text")});
    }
    for (const Json& cut : json.at("cuts")) {
      report.cuts.push_back({cut.at("stage"), cut.at("step"), read_number(cut, "sparsity"), cut.at("kept"),
                             cut.at("statistics_batches")});
    }
    const Json& bytes = json.at("bytes");
    report.bytes = {read_bytes(bytes, "dense"), read_bytes(bytes, "pruned"), read_bytes(bytes, "sparse")};
    const Json& execution = json.at("execution");
    report.layout = execution.at("layout");
    report.retraining = execution.value("retraining", "");
    if (execution.contains("layouts")) {
      for (const auto& [tensor, layout] : execution.at("layouts").items()) {
        report.layouts.emplace_back(tensor, layout);
      }
    }
    report.execution_bytes = {read_bytes(execution, "dense_bytes"), read_bytes(execution, "sparse_bytes")};
    report.probe_difference = read_number(execution, "probe_difference");
    for (const auto& [stage, seconds] : json.at("seconds").items()) {
      report.seconds.emplace_back(
          stage, seconds.is_null() ? std::numeric_limits<double>::quiet_NaN() : seconds.get<double>());
    }
    for (const Json& item : json.at("epochs")) {
      EpochRecord epoch;
      epoch.stage = item.at("stage");
      epoch.epoch = item.at("epoch");
      epoch.steps = item.at("steps");
      epoch.rate = read_number(item, "rate");
      epoch.train_loss = read_number(item, "train_loss");
      epoch.train_accuracy = read_number(item, "train_accuracy");
      epoch.valid_loss = read_number(item, "valid_loss");
      epoch.valid_accuracy = read_number(item, "valid_accuracy");
      epoch.sparsity = read_number(item, "sparsity");
      epoch.seconds = read_number(item, "seconds");
      epoch.units_per_second = read_number(item, "units_per_second");
      report.epochs.push_back(std::move(epoch));
    }
    const Json& machine = json.at("machine");
    report.machine.name = machine.at("name");
    report.machine.detail = machine.at("detail");
    report.machine.system = machine.at("system");
    report.machine.cores = machine.at("cores");
    report.machine.memory_bytes = machine.at("memory_bytes");
    report.device = json.at("device");
    report.device_note = json.at("device_note");
    report.seed = json.at("seed");
    report.threads = json.at("threads");
    for (const auto& [what, version] : json.at("versions").items()) {
      report.versions.emplace_back(what, version.get<std::string>());
    }
    report.started = json.at("started");
    report.resumed = json.at("resumed");
    return report;
  } catch (const nlohmann::json::exception& error) {
    bad_input("{}: not a report of schema {}: {}", name, kReportSchema, error.what());
  }
}

}  // namespace coppice
