#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/coppice/command.hpp"

namespace coppice::program {

void add_gradients(CLI::App& program) {
  struct Options : Command {
    std::string model;
    std::string recipe_file;
  };
  auto options = std::make_shared<Options>();
  CLI::App& verb =
      *program.add_subcommand("gradients", "Sum a model's gradients over training data, for scores");
  verb.footer(
      "For every tensor NAME the file holds NAME.sum, NAME.absolute and NAME.squared: the sums of g, |g| and "
      "g^2 over\n"
      "the batches, whose number is in the metadata as \"count\".\n"
      "Example:\n  coppice gradients model --recipe tools/recipes/text_lm.toml --set data.train=my_text.txt "
      "-o g.safetensors");
  verb.add_option("MODEL", options->model, "A model's folder")->required();
  verb.add_option("--recipe", options->recipe_file, "A recipe (TOML): [data] and prune.gradient_batches")
      ->required()
      ->type_name("RECIPE");
  options->add_output(verb, "The file of statistics (.safetensors)");
  options->add_set(verb);
  options->add_device(verb);
  options->add_seed(verb);
  options->add_manners(verb);
  verb.callback([options] {
    const int64_t batches =
        gradients_of(options->model, options->recipe(options->recipe_file), options->output, options->work());
    if (options->json) {
      print_result(nlohmann::ordered_json{{"output", options->output}, {"batches", batches}}.dump(2) + "\n");
    } else {
      print_result(fmt::format("{}: statistics of {} batches\n", options->output, batches));
    }
  });
}

}  // namespace coppice::program
