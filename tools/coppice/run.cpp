#include "engine/config/schema.hpp"
#include "engine/report/json.hpp"
#include "engine/report/table.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {

void add_run(CLI::App& program) {
  struct Options : Command {
    std::string recipe_file;
    bool help_keys = false;
    bool markdown = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App& verb =
      *program.add_subcommand("run", "Train, prune, retrain, run sparse and report, by a recipe");
  verb.footer(
      "RUN is a folder: recipe.toml (every key), dense/ retrained/ sparse/ (models), masks.safetensors,\n"
      "metrics.jsonl, report.json, report.html. Ctrl-C saves a checkpoint; `coppice resume RUN` goes on.\n"
      "Example:\n"
      "  coppice run tools/recipes/text_lm.toml -o my_run --set data.train=my_text.txt --set "
      "prune.sparsity=0.95");
  CLI::Option* recipe = verb.add_option("RECIPE", options->recipe_file, "A recipe (TOML)");
  CLI::Option* keys = verb.add_flag("--help-keys", options->help_keys, "List every recipe key and stop");
  verb.add_flag("--markdown", options->markdown, "With --help-keys: as tools/recipes/KEYS.md has it")
      ->needs(keys);
  verb.add_option("-o,--output", options->output, "The run's folder")->type_name("RUN");
  verb.add_flag("--force", options->force, "Replace an existing run");
  options->add_set(verb);
  options->add_device(verb);
  options->add_seed(verb);
  options->add_manners(verb);
  verb.callback([options, recipe] {
    if (options->help_keys) {
      print_result(options->markdown ? recipe_keys_markdown() : describe_recipe_keys());
      return;
    }
    if (recipe->empty()) throw CLI::RequiredError("RECIPE");
    if (options->output.empty()) throw CLI::RequiredError("--output");
    const Recipe resolved = options->recipe(options->recipe_file);
    const RunReport report = run_recipe(resolved, options->output, options->sparse_work());
    print_result(options->json ? report_json(report) : closing_table(report));
  });
}

}  // namespace coppice::program
