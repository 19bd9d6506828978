#include "engine/prune/prune_file.hpp"

#include <re2/re2.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/files/safetensors.hpp"
#include "engine/files/sparse_encoding.hpp"
#include "engine/files/weight_file.hpp"
#include "engine/files/weight_output.hpp"
#include "engine/model/gate_names.hpp"
#include "engine/prune/default_tensors.hpp"
#include "engine/prune/file_source.hpp"
#include "engine/prune/gradients.hpp"
#include "engine/prune/mask_file.hpp"
#include "engine/prune/plan.hpp"
#include "engine/prune/remove_units.hpp"
#include "engine/prune/tied_tensors.hpp"
#include "engine/report/json.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kLeastMemory = int64_t{4} << 20;

/// Where everything goes that is written.
struct Places {
  fs::path weights;  // a file, or the folder of shards
  bool one_file = true;
  fs::path masks;
  fs::path report;
  fs::path workspace;  // a name under which plain files may lie until they are encoded
  Existing existing = Existing::refuse;
  std::string shown;  // in the report
};

std::unique_ptr<RE2> compiled(std::string_view option, const std::string& pattern) {
  auto expression = std::make_unique<RE2>(pattern, RE2::Quiet);
  if (!expression->ok()) {
    bad_input("{}: '{}' is no regular expression: {}", option, pattern, expression->error());
  }
  return expression;
}

/// Calls take(tensor) for the tensors whose whole names match; Error(bad_input) where none does.
template <class Take>
void for_matches(std::string_view option, const std::string& pattern, const WeightFile& file, Take take) {
  const std::unique_ptr<RE2> expression = compiled(option, pattern);
  bool any = false;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    if (!RE2::FullMatch(file.tensors()[i].name, *expression)) continue;
    take(i);
    any = true;
  }
  if (!any) bad_input("{}: '{}' matches no tensor of {}", option, pattern, file.path());
}

std::vector<FileTensorOptions> options_of(const WeightFile& file, const PruneFiles& files,
                                          const std::vector<std::vector<size_t>>& tied) {
  const std::vector<FileTensor>& tensors = file.tensors();
  const bool recurrent = std::any_of(tensors.begin(), tensors.end(), [](const FileTensor& tensor) {
    return is_recurrent_weight(tensor.name) && tensor.shape.size() == 2;
  });
  std::vector<FileTensorOptions> options(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    options[i].gate_names = gate_names_of(file, tensors[i]);
    options[i].gates = std::max<int64_t>(1, static_cast<int64_t>(options[i].gate_names.size()));
    options[i].prunable = recurrent ? is_recurrent_weight(tensors[i].name) && is_floating(tensors[i].dtype)
                                    : reason_to_keep(tensors[i]).empty();
  }
  for (const auto& [pattern, count] : files.gates) {
    if (count < 1) bad_input("--gates: '{}={}' expects one gate or more", pattern, count);
    for_matches("--gates", pattern, file, [&](size_t i) {
      const FileTensor& tensor = tensors[i];
      if (tensor.shape.empty() || tensor.shape[0] % count != 0) {
        bad_input("--gates: '{}' has {} rows, which {} gates don't share evenly", tensor.name,
                  tensor.shape.empty() ? 1 : tensor.shape[0], count);
      }
      options[i].gates = count;
      options[i].gate_names.clear();
    });
  }
  for (const std::string& pattern : files.keep_diagonal) {
    for_matches("--keep-diagonal", pattern, file, [&](size_t i) {
      if (tensors[i].shape.size() != 2) {
        bad_input("--keep-diagonal: '{}' has {} dimensions, expected a matrix", tensors[i].name,
                  tensors[i].shape.size());
      }
      options[i].keep_diagonal = is_floating(tensors[i].dtype);
    });
  }
  for (const std::vector<size_t>& group : tied) {
    FileTensorOptions& first = options[group.front()];
    for (size_t member = 1; member < group.size(); ++member) {
      FileTensorOptions& other = options[group[member]];
      first.prunable = first.prunable && other.prunable;
      first.keep_diagonal = first.keep_diagonal || other.keep_diagonal;
      if (first.gates == 1) first.gates = other.gates, first.gate_names = other.gate_names;
      first.tied.push_back(group[member]);
      other.is_tied = true;
    }
  }
  return options;
}

/// The files of a cut, written as it streams by.
class FileOutput final : public CutOutput {
 public:
  /// Masks of the tensors with these numbers are written.
  FileOutput(const WeightFile& file, const std::string& path, bool one_file, Existing existing,
             const std::string& masks_path, Existing masks_existing, const std::set<size_t>& masked)
      : weights_(file, path, one_file, existing), masks_of_(file.tensors().size(), kNone) {
    std::vector<FileTensor> entries;
    std::map<std::string, std::string> shapes;
    for (size_t number : masked) {
      entries.push_back(mask_entry(file.tensors()[number]));
      shapes.insert(mask_shape(file.tensors()[number]));
    }
    masks_ = std::make_unique<SafetensorsWriter>(masks_path, entries, std::move(shapes), masks_existing);
    for (size_t number : masked) masks_of_[number] = masks_->index(file.tensors()[number].name);
  }

  void write(size_t tensor, int64_t begin, int64_t count, const void* data) override {
    weights_.write(tensor, begin, count, data);
  }
  void write_mask(size_t tensor, int64_t begin, int64_t count, const void* bytes) override {
    if (masks_of_[tensor] != kNone) masks_->write(masks_of_[tensor], begin, count, bytes);
  }
  void finish_weights() { weights_.finish(); }
  void finish_masks() { masks_->finish(); }

 private:
  static constexpr size_t kNone = ~size_t{0};
  WeightOutput weights_;
  std::unique_ptr<SafetensorsWriter> masks_;
  std::vector<size_t> masks_of_;
};

/// A diagonal is kept by its score, infinity, which outweighs its group's others where there is a group.
void check_keep_diagonal(const PruneFiles& files, const PruneConfig& config, Criterion criterion) {
  if (files.keep_diagonal.empty() || files.masks_only) return;
  const Pattern pattern = parse_pattern(config.pattern).kind;
  const bool single = pattern == Pattern::element || pattern == Pattern::n_of_m;
  const bool block = pattern == Pattern::block && config.reduce != "product";
  if (criterion != Criterion::random && (single || block)) return;
  bad_input(
      "--keep-diagonal keeps weights by their scores: it can't be had with pattern '{}', reduction '{}' and "
      "criterion '{}'",
      config.pattern, config.reduce, config.criterion);
}

void check_remove_units(const PruneFiles& files, const PruneConfig& config, const Places& places) {
  if (!files.remove_units) return;
  if (files.masks_only || config.pattern != "unit") {
    bad_input("--remove-units removes hidden units: expected prune.pattern 'unit', found '{}'",
              files.masks_only ? "masks" : config.pattern);
  }
  if (!files.masks.empty()) {
    bad_input(
        "--remove-units can't be had with --masks; apply the masks first, then remove units of what they "
        "leave");
  }
  if (!places.one_file && !files.dry_run) {
    bad_input("--remove-units writes one file; expected an output that is named like one, found '{}'",
              places.shown);
  }
}

/// What masks alone leave.
PruneOutcome masked_outcome(FileSource& source) {
  PruneOutcome outcome;
  for (size_t t = 0; t < source.tensors().size(); ++t) {
    const SourceTensor& info = source.tensors()[t];
    TensorOutcome tensor;
    tensor.name = info.name;
    tensor.shape = info.shape;
    tensor.pruned = source.masked(t);
    tensor.size = static_cast<uint64_t>(info.size());
    tensor.kept = source.count_kept(t, 0, info.size());
    outcome.total += tensor.size;
    if (tensor.pruned) {
      outcome.prunable += tensor.size;
      outcome.kept += tensor.kept;
    }
    outcome.tensors.push_back(std::move(tensor));
  }
  outcome.passes = 1;
  outcome.groups.push_back({"all", outcome.prunable, outcome.prunable - outcome.kept, std::nan(""), "masks"});
  return outcome;
}

/// The file without the units that were cut.
void write_smaller(const WeightFile& smaller, const PruneFiles& files, const Places& places,
                   PruneReport& report) {
  report.hidden = remaining_units(report.outcome);
  report.bytes_after = report.sparse_bytes = 0;
  for (const FileTensor& tensor : smaller.tensors()) {
    report.sparse_bytes += static_cast<uint64_t>(tensor.bytes());
  }
  report.bytes_after = report.sparse_bytes;
  if (files.dry_run) return;
  ReadingProgress progress(files.listener, files.stop);
  const BeforeBlock before_block = progress.copying("write", smaller);
  if (files.sparse_encoding) {
    encode_sparse(smaller, places.weights.string(), places.existing, before_block);
  } else {
    copy_weights(smaller, places.weights.string(), places.existing, before_block);
  }
  report.bytes_after = static_cast<uint64_t>(fs::file_size(places.weights));
  fs::remove(places.masks);  // of a file that was replaced
  write_file(places.report.string(), prune_report_json(report), places.existing);
}

/// One of the criteria of kernels/criteria.hpp, by which `config` scores; Wanda's is another one of other
/// statistics.
Criterion check_criterion(const ScoreFiles& scores, const PruneFiles& files, PruneConfig& config) {
  const bool wanda = !files.masks_only && config.criterion == kWanda;
  if (wanda && scores.activations == nullptr) {
    bad_input("the criterion wanda weighs by the norms of inputs; expected a file of --activations");
  }
  if (!wanda && scores.activations != nullptr) {
    bad_input("--activations serve the criterion wanda alone; found '{}'", config.criterion);
  }
  // |w|·‖x‖ is |w|·Σ|g| of another statistic: one rounding, the same kernel.
  if (wanda) config.criterion = to_string(Criterion::taylor_absolute);
  const Criterion criterion = files.masks_only ? Criterion::magnitude : find_criterion(config.criterion);
  if (!wanda && statistic_of(criterion) != Statistic::none && scores.gradients.empty()) {
    bad_input("prune.criterion \"{}\" scores by gradients; expected a file of them, found none",
              config.criterion);
  }
  check_keep_diagonal(files, config, criterion);
  return criterion;
}

}  // namespace

PruneReport prune_weights(const WeightFile& file, const ScoreFiles& scores, const PruneFiles& files,
                          const PruneConfig& wanted, uint64_t seed, Backend& backend,
                          const std::function<CutOutput*(const std::set<size_t>& masked)>& open_output) {
  if (files.memory != 0 && files.memory < kLeastMemory) {
    bad_input("--memory is {} bytes; expected at least {}", files.memory, kLeastMemory);
  }
  PruneConfig config = wanted;
  const Criterion criterion = check_criterion(scores, files, config);
  const std::vector<std::vector<size_t>> tied = find_tied(file);
  const std::vector<FileTensorOptions> options = options_of(file, files, tied);
  FileSource source(backend, file, scores, options, files.memory);

  PruneReport report;
  report.weights = file.path();
  report.criterion = files.masks_only ? "masks" : wanted.criterion;
  report.formula = files.masks_only ? "" : std::string(source.formula_of(criterion));
  report.scope = config.scope;
  report.pattern = config.pattern;
  report.sparsity = config.sparsity;
  report.percentile = config.percentile;
  report.seed = seed;
  for (const std::vector<size_t>& group : tied) {
    std::vector<std::string>& names = report.tied.emplace_back();
    for (size_t member : group) names.push_back(file.tensors()[member].name);
  }

  std::set<size_t> masked;  // numbers in the file
  Plan plan;
  plan.selected.assign(source.tensors().size(), false);
  if (!files.masks_only) plan = make_plan(source.tensors(), config, seed);
  for (size_t t = 0; t < source.tensors().size(); ++t) {
    const size_t number = source.file_tensor(t);
    if (plan.selected[t] || source.masked(t)) {
      masked.insert(number);
      masked.insert(options[number].tied.begin(), options[number].tied.end());
      continue;
    }
    const std::string_view reason = reason_to_keep(file.tensors()[number]);
    report.carried.push_back({source.tensors()[t].name, std::string(reason.empty() ? "not chosen" : reason)});
  }
  int64_t weights = 0;
  for (size_t t = 0; t < plan.selected.size(); ++t)
    weights += plan.selected[t] ? source.tensors()[t].size() : 0;
  source.watch(files.listener, files.stop, weights);
  if (!files.dry_run) source.set_output(open_output(masked));
  if (files.masks_only) {
    source.finish_writing();
    report.outcome = masked_outcome(source);
  } else {
    report.outcome = prune(source, config, seed);
  }

  for (const TensorOutcome& tensor : report.outcome.tensors) {
    const size_t number = file.index(tensor.name);
    const uint64_t width = static_cast<uint64_t>(size_of(file.tensors()[number].dtype));
    const uint64_t dense = tensor.size * width, bitmap = tensor.kept * width + (tensor.size + 7) / 8;
    report.sparse_bytes += std::min(dense, bitmap) * (1 + options[number].tied.size());
    report.bytes_before += dense * (1 + options[number].tied.size());
  }
  report.bytes_after = files.sparse_encoding ? report.sparse_bytes : report.bytes_before;
  return report;
}

namespace {

PruneReport prune_to(const std::unique_ptr<WeightFile>& file, const PruneFiles& files,
                     const PruneConfig& config, uint64_t seed, const Places& places, Backend& backend) {
  check_remove_units(files, config, places);
  std::vector<std::unique_ptr<WeightFile>> opened;
  const auto open = [&opened](const fs::path& path) -> const WeightFile* {
    if (path.empty()) return nullptr;
    return opened.emplace_back(open_weights(path.string())).get();
  };
  ScoreFiles scores;
  for (const fs::path& path : files.gradients) scores.gradients.push_back(open(path));
  scores.activations = open(files.activations);
  scores.masks = open(files.masks);

  // Plain files that are only to be encoded lie in a folder that goes away.
  std::optional<AtomicFolder> workspace;
  std::unique_ptr<FileOutput> output;
  fs::path plain = places.weights;
  const auto open_output = [&](const std::set<size_t>& masked) -> FileOutput* {
    if (files.remove_units) return nullptr;  // what is left is known when all is counted
    if (files.sparse_encoding) {
      workspace.emplace(places.workspace.string(), Existing::replace);
      plain = workspace->building();
      if (places.one_file) plain /= "weights.safetensors";
    }
    output = std::make_unique<FileOutput>(*file, plain.string(), places.one_file,
                                          files.sparse_encoding ? Existing::refuse : places.existing,
                                          places.masks.string(), places.existing, masked);
    return output.get();
  };
  PruneReport report = prune_weights(*file, scores, files, config, seed, backend, open_output);
  report.output = places.shown;
  report.bytes_before = static_cast<uint64_t>(file_bytes(*file));
  if (files.remove_units) {
    write_smaller(*without_units(*file, report.outcome), files, places, report);
    return report;
  }
  if (files.dry_run) {
    if (!files.sparse_encoding) report.bytes_after = report.bytes_before;
    return report;
  }
  if (!files.sparse_encoding) {
    output->finish_masks();
    output->finish_weights();
  } else {
    output->finish_weights();
    ReadingProgress progress(files.listener, files.stop);
    const BeforeBlock before_block = progress.copying("encode", *file);
    if (places.one_file) {
      encode_sparse(SafetensorsFile(plain.string()), places.weights.string(), places.existing, before_block);
    } else {
      encode_shards(ShardedSafetensors((plain / fs::path(file->path()).filename()).string()),
                    places.weights.string(), before_block);
    }
    output->finish_masks();
  }
  report.bytes_after = static_cast<uint64_t>(file_bytes(*open_weights(
      (places.one_file ? places.weights : places.weights / fs::path(file->path()).filename()).string())));
  write_file(places.report.string(), prune_report_json(report), places.existing);
  return report;
}

}  // namespace

PruneReport prune_file(const fs::path& weights, const PruneFiles& files, const PruneConfig& config,
                       uint64_t seed, const fs::path& output, Backend& backend, Existing existing) {
  const std::unique_ptr<WeightFile> file = open_weights(weights.string());
  const bool sharded = dynamic_cast<const ShardedSafetensors*>(file.get()) != nullptr;
  Places places;
  places.shown = output.string();
  places.one_file = !sharded || names_weight_file(output.string());
  places.existing = existing;
  if (places.one_file) {
    places.weights = output;
    places.masks = output.string() + ".masks.safetensors";
    places.report = output.string() + ".report.json";
    places.workspace = output.string() + ".plain";
    if (!files.dry_run) {
      for (const fs::path& path : {places.weights, places.masks, places.report}) {
        check_output(path.string(), existing);
      }
    }
    return prune_to(file, files, config, seed, places, backend);
  }
  if (files.dry_run) return prune_to(file, files, config, seed, places, backend);
  check_not_over_input(*file, output.string());
  AtomicFolder folder(output.string(), existing);
  places.weights = folder.building();
  places.masks = places.weights / "masks.safetensors";
  places.report = places.weights / "report.json";
  places.workspace = output.string() + ".plain";
  places.existing = Existing::refuse;
  PruneReport report = prune_to(file, files, config, seed, places, backend);
  folder.commit();
  return report;
}

PruneReport prune_into_folder(const fs::path& weights, const PruneFiles& files, const PruneConfig& config,
                              uint64_t seed, const fs::path& folder, const std::string& name,
                              const std::string& shown, Backend& backend) {
  Places places;
  places.weights = folder / name;
  places.masks = folder / "masks.safetensors";
  places.report = folder / "report.json";
  places.workspace = folder / "plain";
  places.shown = shown;
  return prune_to(open_weights(weights.string()), files, config, seed, places, backend);
}

}  // namespace coppice
