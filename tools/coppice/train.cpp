#include "engine/report/json.hpp"
#include "engine/report/table.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {

void add_train(CLI::App& program) {
  struct Options : Command {
    std::string recipe_file;
  };
  auto options = std::make_shared<Options>();
  CLI::App& verb =
      *program.add_subcommand("train", "Train a dense model by a recipe's [data], [model] and [train]");
  verb.footer(
      "MODEL is a folder: weights.safetensors (PyTorch's names) and model.json.\n"
      "Example:\n  coppice train tools/recipes/text_lm.toml -o model --set data.train=my_text.txt");
  verb.add_option("RECIPE", options->recipe_file, "A recipe (TOML)")->required();
  options->add_output(verb, "The model's folder");
  options->add_set(verb);
  options->add_device(verb);
  options->add_seed(verb);
  options->add_manners(verb);
  verb.callback([options] {
    const RunReport report =
        train_model(options->recipe(options->recipe_file), options->output, options->work());
    print_result(options->json ? report_json(report) : models_table(report));
  });
}

}  // namespace coppice::program
