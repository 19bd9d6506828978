#include "engine/c_api/arrays.hpp"

#include <coppice/coppice.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/c_api/control.hpp"
#include "engine/c_api/guard.hpp"
#include "engine/c_api/tensors.hpp"
#include "engine/prune/gradients.hpp"
#include "engine/prune/prune.hpp"
#include "engine/prune/prune_file.hpp"
#include "engine/prune/select.hpp"
#include "engine/report/json.hpp"

namespace coppice::c_api {
namespace {

using Json = nlohmann::ordered_json;

std::vector<CallersTensor> check_tensors(const coppice_tensor* tensors, size_t count) {
  std::vector<CallersTensor> checked;
  if (count != 0) required(tensors, "tensors");
  const size_t step = count == 0 ? 0 : tensors->size;  // of the version that the caller was compiled with
  for (size_t t = 0; t < count; ++t) {
    const auto* const tensor =
        reinterpret_cast<const coppice_tensor*>(reinterpret_cast<const char*>(tensors) + t * step);
    checked.push_back(check_tensor(tensor));
    if (checked.back().is_piece) {
      bad_input("tensor \"{}\" is a piece; expected whole tensors: pieces are for a coppice_selection",
                checked.back().whole_name);
    }
  }
  return checked;
}

char* json_text(const Json& json) {
  return copy_text(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

Json plan_json(const Plan& plan, const ParameterSource& source, const PruneConfig& config) {
  Json groups = Json::array();
  for (const PlanGroup& group : plan.groups) {
    Json tensors = Json::array();
    for (const PlanPart& part : group.parts) {
      const std::string& name = source.tensors()[part.tensor].name;
      if (tensors.empty() || tensors.back() != name) tensors.push_back(name);
    }
    groups.push_back({{"name", group.name},
                      {"units", group.units},
                      {"cut", plan.percentile ? Json(nullptr) : Json(group.cut)},
                      {"tensors", std::move(tensors)}});
  }
  return {{"criterion", config.criterion},
          {"formula", source.formula_of(plan.scoring.criterion)},
          {"scope", config.scope},
          {"pattern", config.pattern},
          {"groups", std::move(groups)}};
}

/// Scores of a tensor in row-major order, made of the keys by which selection orders it.
template <class T>
void score(ParameterSource& source, const Scoring& scoring, Statistic statistic, T* scores) {
  SelectionOps& ops = source.backend().selection();
  const SourceTensor& tensor = source.tensors()[0];
  Plan plan;  // of one tensor, which starts the total order
  plan.scoring = scoring;
  plan.positions = {0};
  std::vector<Key> keys;
  std::vector<int64_t> starts;
  if (tensor.size() == 0) return;
  source.read(0, 0, tensor.size(), statistic, false, [&](const ParameterSource::Run& run) {
    const ScoreBlock block = block_of(plan, source.tensors(), 0, run);
    std::vector<Place> none;
    refuse_nan(ops.bracket(scoring, block, 0, 0, 0, none), plan, source, 0);
    starts.clear();
    for (int64_t at = 0; at < run.count; at += SelectionOps::kSampleLine) starts.push_back(at);
    keys.clear();
    ops.sample(scoring, block, starts, keys);
    for (size_t i = 0; i < keys.size(); ++i) {
      scores[run.begin + static_cast<int64_t>(i)] = keys[i] == kCutAlready
                                                        ? -std::numeric_limits<T>::infinity()
                                                        : static_cast<T>(score_of(scoring, keys[i]));
    }
  });
}

}  // namespace

ArrayOptions array_options(const char* const* options, size_t count) {
  Options given(options, count);
  ArrayOptions result;
  result.keep_diagonal = given.take_all("keep_diagonal");
  if (!given.has("device")) given.put("device", "cpu");
  const PruneOptions prune = take_prune_options(given);
  result.config = prune.recipe.prune;
  result.wanda = prune.wanda;
  // |w|·‖x‖ is |w|·Σ|g| of another statistic: one rounding, the same kernel.
  if (prune.wanda) result.config.criterion = to_string(Criterion::taylor_absolute);
  result.seed = prune.recipe.seed;
  result.device = prune.recipe.device;
  result.threads = static_cast<int>(prune.recipe.threads);
  if (!result.keep_diagonal.empty() &&
      (result.config.criterion == to_string(Criterion::random) || result.config.pattern != "element")) {
    bad_input("keep_diagonal keeps single weights: it can't be had with pattern '{}' and criterion '{}'",
              result.config.pattern, result.config.criterion);
  }
  return result;
}

}  // namespace coppice::c_api

using namespace coppice::c_api;

extern "C" {

coppice_status coppice_prune_tensors(const coppice_tensor* tensors, size_t tensor_count,
                                     const char* const* options, size_t option_count,
                                     const coppice_control* control, uint64_t* kept, char** report_json) {
  return guarded([&] {
    const ArrayOptions given = array_options(options, option_count);
    std::vector<CallersTensor> checked = check_tensors(tensors, tensor_count);
    Control told(control);
    std::string note;
    const auto backend = coppice::open_backend(given.device, {.threads = given.threads}, &note);
    told.log(note);
    const auto arrays = open_tensors(*backend, checked, given.wanda, given.keep_diagonal, false);
    coppice::ParameterSource& source = arrays->source();
    const coppice::Plan plan = coppice::make_plan(source.tensors(), given.config, given.seed);
    int64_t selected = 0;
    for (size_t t = 0; t < checked.size(); ++t) selected += plan.selected[t] ? checked[t].size() : 0;
    arrays->watch(&told, &told.stop(), selected);
    arrays->write();
    const coppice::PruneOutcome outcome = coppice::prune(source, given.config, given.seed);
    arrays->finish(plan.selected);
    if (kept != nullptr) *kept = outcome.kept;
    if (report_json != nullptr) *report_json = json_text(coppice::outcome_json(outcome));
  });
}

coppice_status coppice_plan_tensors(const coppice_tensor* tensors, size_t tensor_count,
                                    const char* const* options, size_t option_count, char** json) {
  return guarded([&] {
    required(json, "json");
    const ArrayOptions given = array_options(options, option_count);
    std::vector<CallersTensor> checked = check_tensors(tensors, tensor_count);
    const auto backend = coppice::open_backend("cpu", {.threads = 1});
    for (CallersTensor& tensor : checked) tensor.on_device = false;  // nothing is read
    const auto arrays = open_tensors(*backend, checked, given.wanda, given.keep_diagonal, false);
    coppice::PruneConfig shown = given.config;
    if (given.wanda) shown.criterion = coppice::kWanda;
    const coppice::Plan plan = coppice::make_plan(arrays->source().tensors(), given.config, given.seed);
    *json = json_text(plan_json(plan, arrays->source(), shown));
  });
}

coppice_status coppice_score_tensor(const coppice_tensor* tensor, const char* const* options,
                                    size_t option_count, void* scores) {
  return guarded([&] {
    const ArrayOptions given = array_options(options, option_count);
    std::vector<CallersTensor> checked = {check_tensor(tensor)};
    if (checked[0].size() != 0) required(scores, "scores");
    const auto backend = coppice::open_backend(given.device, {.threads = given.threads});
    const auto arrays = open_tensors(*backend, checked, given.wanda, {}, true);
    coppice::ParameterSource& source = arrays->source();
    coppice::Scoring scoring;
    scoring.criterion = coppice::find_criterion(given.config.criterion);
    scoring.seed = given.seed;
    scoring.wide = source.tensors()[0].dtype == coppice::DType::f64;
    const coppice::Statistic statistic = coppice::statistic_of(scoring.criterion);
    if (scoring.wide) {
      score(source, scoring, statistic, static_cast<double*>(scores));
    } else {
      score(source, scoring, statistic, static_cast<float*>(scores));
    }
  });
}

}  // extern "C"
