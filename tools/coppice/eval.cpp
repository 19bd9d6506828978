#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/report/json.hpp"
#include "engine/report/table.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {

void add_eval(CLI::App& program) {
  struct Options : Command {
    std::string model;
    EvaluateOptions evaluate;
  };
  auto options = std::make_shared<Options>();
  CLI::App& verb = *program.add_subcommand("eval", "Measure a model on data");
  verb.footer("Example:\n  coppice eval my_run/sparse --data held_out.txt --sparse");
  verb.add_option("MODEL", options->model, "A model's folder")->required();
  verb.add_option("--data", options->evaluate.data, "Text, .npz or .ts, as the model was trained on")
      ->required()
      ->type_name("FILE");
  options->add_sparse(verb);
  verb.add_option("--batch-size", options->evaluate.batch_size, "0: as the model was trained")
      ->check(CLI::NonNegativeNumber)
      ->type_name("B");
  verb.add_option("--steps", options->evaluate.steps, "0: as the model was trained")
      ->check(CLI::NonNegativeNumber)
      ->type_name("T");
  options->add_device(verb);
  options->add_manners(verb);
  verb.callback([options] {
    options->evaluate.device = options->device_or_auto();
    options->evaluate.threads = options->threads_or_all();
    options->evaluate.sparse = options->sparse;
    options->evaluate.layout = options->layout;
    options->evaluate.values = options->values;
    const EvaluateReport result = evaluate_model(options->model, options->evaluate, options->sparse_work());
    RunReport report;  // for its words
    report.metric = result.metric;
    report.unit = result.unit;
    report.task = result.metric == "accuracy" ? "classification" : "language_model";
    if (options->json) {
      nlohmann::ordered_json json = metrics_json(report, result.metrics);
      json["metric"] = result.metric;
      json["unit"] = result.unit;
      json["weight_bytes"] = result.weight_bytes;
      json["layouts"] = result.layouts;
      print_result(json.dump(2) + "\n");
      return;
    }
    print_result(fmt::format("{} {}  loss {:.4f}  {} targets  {} {}/s  matrices {}\n", metric_title(report),
                             metric_text(report, result.metrics), result.metrics.loss,
                             count_text(static_cast<double>(result.metrics.targets)),
                             count_text(result.metrics.units_per_second), result.unit,
                             bytes_text(static_cast<double>(result.weight_bytes))));
  });
}

}  // namespace coppice::program
