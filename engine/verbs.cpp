#include "engine/verbs.hpp"

#include <memory>
#include <utility>

#include "engine/data/data.hpp"
#include "engine/files/atomic_write.hpp"
#include "engine/files/input_file.hpp"
#include "engine/model/model_folder.hpp"
#include "engine/prune/gradients.hpp"
#include "engine/prune/reading_progress.hpp"
#include "engine/report/metrics.hpp"
#include "engine/sparse/layout_policy.hpp"
#include "engine/train/trainer.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

namespace fs = std::filesystem;

/// For files that stream by: one of the threads reads ahead, and must not wait for a core on which a team of
/// OpenMP spins until its next block.
std::unique_ptr<Backend> open_streaming_backend(const std::string& device, int64_t threads) {
  auto backend = open_backend(device, {.threads = static_cast<int>(threads)});
  const int all = backend->info().threads;  // 0 of a GPU
  return all > 1 ? open_backend(device, {.threads = all - 1}) : std::move(backend);
}

}  // namespace

void check_same_shape(const DataShape& model, const DataShape& data, const fs::path& path) {
  const auto check = [&](const char* what, int64_t expected, int64_t found) {
    if (expected != found)
      bad_input("{}: the model expects {} {}, the data have {}", path.string(), expected, what, found);
  };
  check("inputs a step", model.inputs, data.inputs);
  check("tokens", model.vocabulary, data.vocabulary);
  check("classes", model.classes, data.classes);
}

PruneConfig with_decoder(PruneConfig config) {
  if (config.pattern == "unit" && config.unit_readers.empty()) config.unit_readers = {"decoder\\.weight"};
  return config;
}

int64_t gradients_of(const fs::path& model, const Recipe& recipe, const fs::path& output,
                     const RunOptions& options) {
  check_output(output.string(), options.force ? Existing::replace : Existing::refuse);
  const auto backend = open_backend(recipe.device, backend_options(recipe));
  const ModelDescription description = read_model(model);
  const DataSet data =
      open_data(recipe.data, recipe.seed, description.vocabulary ? &*description.vocabulary : nullptr,
                description.model.loss);
  const std::unique_ptr<Network> network = load_model(*backend, model);
  check_same_shape(network->data_shape(), data.shape, model);
  const GradientStatistics statistics = collect_gradients(
      *network, *data.train, recipe.prune, recipe.train.loss_reduction, {}, options.listener, options.stop);
  save_gradients(output, network->store(), statistics, options.force);
  return statistics.batches;
}

EvaluateReport evaluate_model(const fs::path& model, const EvaluateOptions& evaluate_options,
                              const RunOptions& options) {
  const auto backend =
      open_backend(evaluate_options.device, {.threads = static_cast<int>(evaluate_options.threads)});
  const ModelDescription description = read_model(model);
  DataConfig data = description.data;
  if (evaluate_options.batch_size > 0) data.batch_size = evaluate_options.batch_size;
  if (evaluate_options.steps > 0) data.steps = evaluate_options.steps;
  const std::unique_ptr<Network> network = load_model(*backend, model);
  if (evaluate_options.sparse) {
    LayoutPolicy policy = evaluate_options.layout;
    policy.measured = options.measured;
    policy.batch = data.batch_size;
    policy.values = find_value_type("values", evaluate_options.values);
    network->use_layout(policy);
  }
  const std::unique_ptr<BatchSource> source =
      open_split(data, evaluate_options.data.string(), description.shape,
                 description.vocabulary ? &*description.vocabulary : nullptr);
  EvaluateReport report;
  report.metrics = metrics_of(evaluate(*network, *source, "evaluate", options.listener, options.stop),
                              evaluate_options.data.string(), 0);
  report.metric = metric_of(description.shape);
  report.unit = unit_of(description.shape);
  report.weight_bytes = static_cast<uint64_t>(network->weight_bytes());
  report.layouts = network->layouts();
  return report;
}

PruneReport prune_model(const fs::path& weights, PruneFiles files, const PruneConfig& wanted, uint64_t seed,
                        const fs::path& output, const std::string& device, int64_t threads,
                        const RunOptions& options) {
  const Existing existing = options.force ? Existing::replace : Existing::refuse;
  if (!files.dry_run) check_output(output.string(), existing);
  if (options.listener != nullptr) files.listener = options.listener;
  if (options.stop != nullptr) files.stop = options.stop;
  const auto backend = open_streaming_backend(device, threads);
  if (!is_model_folder(weights)) {
    return prune_file(weights, files, wanted, seed, output, *backend, existing);
  }
  read_model(weights);
  const PruneConfig config = with_decoder(wanted);
  const fs::path own_masks = weights / "masks.safetensors", inside = weights / "weights.safetensors";
  // Where units are removed what they cut is zero, and no weight's.
  if (files.masks.empty() && fs::exists(own_masks) && !files.remove_units) files.masks = own_masks;
  if (files.dry_run) return prune_file(inside, files, config, seed, output, *backend, existing);
  AtomicFolder folder(output.string(), existing);
  PruneReport report = prune_into_folder(inside, files, config, seed, folder.building(),
                                         "weights.safetensors", output.string(), *backend);
  write_file((fs::path(folder.building()) / "model.json").string(),
             report.hidden < 0 ? read_file((weights / "model.json").string())
                               : description_with_hidden(weights, report.hidden));
  folder.commit();
  return report;
}

ConvertReport convert_model(const fs::path& input, Encoding encoding, const fs::path& output,
                            const RunOptions& options) {
  const Existing existing = options.force ? Existing::replace : Existing::refuse;
  check_output(output.string(), existing);
  const bool is_model = is_model_folder(input);
  if (is_model) read_model(input);
  const std::unique_ptr<WeightFile> weights = open_weights(input.string());
  ReadingProgress progress(options.listener, options.stop);
  const BeforeBlock before_block = progress.copying("convert", *weights);
  if (!is_model) return convert_weights(*weights, output.string(), encoding, existing, before_block);
  AtomicFolder folder(output.string(), existing);
  const fs::path building = folder.building();
  ConvertReport report = convert_weights(*weights, (building / "weights.safetensors").string(), encoding,
                                         Existing::refuse, before_block);
  for (const char* name : {"model.json", "masks.safetensors"}) {
    if (!fs::exists(input / name)) continue;
    write_file((building / name).string(), read_file((input / name).string()));
    ++report.files;
  }
  folder.commit();
  return report;
}

}  // namespace coppice
