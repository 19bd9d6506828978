#include "engine/c_api/control.hpp"
#include "engine/c_api/guard.hpp"
#include "engine/c_api/options.hpp"
#include "engine/config/schema.hpp"
#include "engine/report/json.hpp"
#include "engine/verbs.hpp"

using namespace coppice::c_api;

namespace {

std::vector<std::string> overrides_of(const char* const* options, size_t count) {
  std::vector<std::string> list;
  if (count != 0) required(options, "options");
  for (size_t i = 0; i < count; ++i) list.emplace_back(required(options[i], "an option"));
  return list;
}

void finish(const coppice::RunReport& report, const Control& control, char** report_json) {
  control.log(report.device_note);
  if (report_json != nullptr) *report_json = copy_text(coppice::report_json(report));
}

}  // namespace

extern "C" {

coppice_status coppice_run_recipe(const char* recipe_file, const char* run, const char* const* options,
                                  size_t option_count, int force, const coppice_control* control,
                                  char** report_json) {
  return guarded([&] {
    const coppice::Recipe recipe =
        coppice::read_recipe(required(recipe_file, "recipe_file"), overrides_of(options, option_count));
    Control told(control);
    finish(coppice::run_recipe(recipe, required(run, "run"), told.options(force != 0)), told, report_json);
  });
}

coppice_status coppice_resume_run(const char* run, const coppice_control* control, char** report_json) {
  return guarded([&] {
    Control told(control);
    finish(coppice::resume_run(required(run, "run"), told.options(false)), told, report_json);
  });
}

coppice_status coppice_evaluate(const char* model, const char* data, const char* const* options,
                                size_t option_count, const coppice_control* control,
                                coppice_metrics* metrics) {
  return guarded([&] {
    Options given(options, option_count);
    coppice::EvaluateOptions evaluate;
    evaluate.data = required(data, "data");
    evaluate.sparse = given.take_flag("sparse");
    evaluate.layout = given.take_or("layout", "auto");
    evaluate.values = given.take_or("values", "fp32");
    if (!evaluate.sparse && (evaluate.layout != "auto" || evaluate.values != "fp32"))
      coppice::bad_input("option {} without sparse=true", evaluate.layout != "auto" ? "layout" : "values");
    evaluate.batch_size = given.take_number("batch_size", 0);
    evaluate.steps = given.take_number("steps", 0);
    const coppice::Recipe recipe = given.recipe("");
    evaluate.device = recipe.device;
    evaluate.threads = recipe.threads;
    Control told(control);
    required(metrics, "metrics");
    const coppice::EvaluateReport report =
        coppice::evaluate_model(required(model, "model"), evaluate, told.options(false));
    const coppice::ModelMetrics& found = report.metrics;
    fill(metrics,
         {0, found.loss, found.perplexity, found.bits_per_char, found.accuracy, found.targets,
          found.units_per_second, report.weight_bytes},
         "metrics");
  });
}

}  // extern "C"
