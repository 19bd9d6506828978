#include "engine/report/json.hpp"
#include "engine/report/table.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {

void add_retrain(CLI::App& program) {
  struct Options : Command {
    std::string model;
    std::string recipe_file;
  };
  auto options = std::make_shared<Options>();
  CLI::App& verb =
      *program.add_subcommand("retrain", "Train a pruned model on, by a recipe's [retrain], the cut held");
  verb.footer(
      "What is cut stays cut: the masks of the model's folder hold, or the zeros of its prunable tensors.\n"
      "Example:\n  coppice retrain pruned --recipe tools/recipes/text_lm.toml --set data.train=my_text.txt "
      "-o retrained");
  verb.add_option("MODEL", options->model, "A model's folder")->required();
  verb.add_option("--recipe", options->recipe_file, "A recipe (TOML): [data] and [retrain]")
      ->required()
      ->type_name("RECIPE");
  options->add_output(verb, "The folder of the retrained model");
  options->add_set(verb);
  options->add_device(verb);
  options->add_seed(verb);
  options->add_manners(verb);
  verb.callback([options] {
    const RunReport report = retrain_model(options->model, options->recipe(options->recipe_file),
                                           options->output, options->work());
    print_result(options->json ? report_json(report) : models_table(report));
  });
}

}  // namespace coppice::program
