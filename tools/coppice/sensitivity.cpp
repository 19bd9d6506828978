#include "engine/sensitivity.hpp"

#include <fmt/format.h>

#include "engine/report/sensitivity_pages.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {

void add_sensitivity(CLI::App& program) {
  struct Options : Command {
    std::string model;
    std::string recipe_file;
    std::vector<double> sparsities;
  };
  auto options = std::make_shared<Options>();
  CLI::App& verb =
      *program.add_subcommand("sensitivity", "Cut each tensor and gate alone, and see what the loss says");
  verb.footer(
      "By the criterion of the recipe's [prune], without retraining, on the recipe's held-out data. The "
      "model stays "
      "as it\n"
      "is; the output is a folder with sensitivity.json and sensitivity.html.\n"
      "Example:\n  coppice sensitivity my_run/dense --recipe my_run/recipe.toml -o sensitivity");
  verb.add_option("MODEL", options->model, "A model's folder")->required();
  verb.add_option("--recipe", options->recipe_file, "A recipe (TOML): [data] and [prune]")
      ->required()
      ->type_name("RECIPE");
  verb.add_option("--sparsities", options->sparsities, "Shares to cut (0.5,0.7,0.8,0.9,0.95,0.99)")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("S,S,...");
  options->add_output(verb, "A folder for the table and the plot");
  options->add_set(verb);
  options->add_device(verb);
  options->add_seed(verb);
  options->add_manners(verb);
  verb.callback([options] {
    if (options->sparsities.empty()) {
      options->sparsities.assign(std::begin(kSensitivitySparsities), std::end(kSensitivitySparsities));
    }
    const SensitivityReport report = sensitivity_of(options->model, options->recipe(options->recipe_file),
                                                    options->sparsities, options->output, options->work());
    print_result(options->json
                     ? sensitivity_json(report)
                     : sensitivity_table(report) +
                           fmt::format("{0}: sensitivity.html, sensitivity.json\n", options->output));
  });
}

}  // namespace coppice::program
