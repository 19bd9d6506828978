#include "engine/sensitivity.hpp"

#include <optional>

#include "engine/data/data.hpp"
#include "engine/model/model_folder.hpp"
#include "engine/prune/gradients.hpp"
#include "engine/prune/plan.hpp"
#include "engine/report/sensitivity_pages.hpp"
#include "engine/train/trainer.hpp"
#include "engine/verbs.hpp"
#include "kernels/error.hpp"

namespace coppice {

namespace {

namespace fs = std::filesystem;

/// The dense weights while others lie in the store; it gets them back whatever happens.
class SavedValues {
 public:
  explicit SavedValues(ParameterStore& store)
      : store_(store), bytes_(store.size() * static_cast<int64_t>(sizeof(float))) {
    saved_ = Buffer(store.backend(), bytes_, "the dense weights");
    store.backend().copy(store.values().data, saved_.data(), bytes_);
  }
  void restore() {
    store_.backend().copy(saved_.data(), store_.values().data, bytes_);
    store_.values_changed();
  }

 private:
  ParameterStore& store_;
  int64_t bytes_;
  Buffer saved_;
};

}  // namespace

SensitivityReport sensitivity_of(const fs::path& model, const Recipe& recipe,
                                 std::span<const double> sparsities, const fs::path& output,
                                 const RunOptions& options) {
  const Existing existing = options.force ? Existing::replace : Existing::refuse;
  check_output(output.string(), existing);
  for (double sparsity : sparsities) {
    if (!(sparsity >= 0.0 && sparsity <= 1.0)) bad_input("a sparsity is {}; expected 0 to 1", sparsity);
  }
  const auto backend = open_backend(recipe.device, backend_options(recipe));
  const ModelDescription description = read_model(model);
  DataSet data =
      open_data(recipe.data, recipe.seed, description.vocabulary ? &*description.vocabulary : nullptr,
                description.model.loss);
  const std::unique_ptr<Network> network = load_model(*backend, model);
  check_same_shape(network->data_shape(), data.shape, model);
  ParameterStore& store = network->store();

  const Criterion criterion = find_criterion(recipe.prune.criterion);
  const Statistic kind = statistic_of(criterion);
  GradientStatistics statistics;
  if (kind != Statistic::none) {
    statistics = collect_gradients(*network, *data.train, recipe.prune, recipe.train.loss_reduction, kind,
                                   options.listener, options.stop);
  }
  // Which tensors take part is for the recipe to say; each then competes for itself.
  PruneConfig config = recipe.prune;
  const std::vector<bool> selected = make_plan(store_source(store)->tensors(), config, recipe.seed).selected;
  config.include.clear();
  config.exclude.clear();
  config.scope = "tensor";
  config.min_density = 0.0;

  SensitivityReport report;
  report.model = model.string();
  report.criterion = to_string(criterion);
  report.formula = formula(criterion);
  report.seed = recipe.seed;
  report.sparsities.assign(sparsities.begin(), sparsities.end());
  const bool validated = data.valid->batches() > 0;
  BatchSource& held_out = validated ? *data.valid : *data.test;
  report.split = validated ? "valid" : "test";
  const auto loss = [&] {
    const Evaluation evaluation = evaluate(*network, held_out, "sensitivity", options.listener, options.stop);
    report.targets = static_cast<uint64_t>(evaluation.totals.count);
    return evaluation.totals.mean();
  };
  report.dense_loss = loss();
  if (report.targets == 0) bad_input("{}: the recipe's data have no held-out part", model.string());

  SavedValues saved(store);
  const auto add_curve = [&](const Segment& segment, int64_t begin, int64_t rows, const std::string& gate) {
    SensitivityCurve& curve = report.curves.emplace_back();
    curve.tensor = segment.name;
    curve.gate = gate;
    curve.name = gate.empty() ? segment.name : segment.name + ":" + gate;
    MemoryTensor piece;
    piece.info.name = curve.name;
    piece.info.shape = segment.shape;
    piece.info.shape[0] = rows;
    curve.size = static_cast<uint64_t>(piece.info.size());
    piece.weights = piece.output = store.values().data + begin;
    const void* const statistic = kind == Statistic::none ? nullptr : statistics.of(kind).data + begin;
    if (kind == Statistic::sum) piece.sum = statistic;
    if (kind == Statistic::absolute) piece.absolute = statistic;
    if (kind == Statistic::squared) piece.squared = statistic;
    for (double sparsity : sparsities) {
      MemorySource source(*backend, {piece});
      prune(source, config, recipe.seed, sparsity);
      store.values_changed();
      curve.losses.push_back(loss());
      saved.restore();
    }
  };
  const std::span<const Segment> segments = store.segments();
  for (size_t i = 0; i < segments.size(); ++i) {
    if (!selected[i]) continue;
    const Segment& segment = segments[i];
    add_curve(segment, segment.offset, segment.rows(), "");
    const int64_t rows = segment.rows() / segment.gates;
    for (int64_t gate = 0; segment.gates > 1 && gate < segment.gates; ++gate) {
      const bool named = static_cast<int64_t>(segment.gate_names.size()) == segment.gates;
      add_curve(segment, segment.offset + gate * rows * segment.cols(), rows,
                named ? std::string(1, segment.gate_names[static_cast<size_t>(gate)]) : std::to_string(gate));
    }
  }

  AtomicFolder folder(output.string(), existing);
  write_file((fs::path(folder.building()) / "sensitivity.json").string(), sensitivity_json(report));
  write_file((fs::path(folder.building()) / "sensitivity.html").string(), sensitivity_html(report));
  folder.commit();
  return report;
}

}  // namespace coppice
