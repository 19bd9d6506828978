#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "engine/config/schema.hpp"
#include "engine/report/json.hpp"
#include "engine/report/table.hpp"
#include "kernels/criteria.hpp"
#include "kernels/error.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {
namespace {

std::string criteria_help() {
  std::string text = "The score; the lowest are cut: ";
  for (Criterion c : kCriteria) {
    text += fmt::format("{}{} {}", c == kCriteria[0] ? "" : "; ", to_string(c), formula(c));
  }
  return text;
}

}  // namespace

void add_prune(CLI::App& program) {
  struct Options : Command {
    std::string weights;
    std::string gradients;
    std::string recipe_file;
    std::vector<std::string> prune;  // "prune.key=value", from the options below
    bool sparse_encoding = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App& verb = *program.add_subcommand("prune", "Cut a model, or any file of weights, by a score");
  verb.footer(
      "WEIGHTS is a model's folder, .safetensors (a shard index too) or .npz. Exactly round(S * n) of the n "
      "weights are\n"
      "cut, those with the lowest scores. A folder gives a folder; a file gives a file with zeros and its "
      "masks beside it.\n"
      "Example:\n"
      "  coppice prune model --gradients g.safetensors --criterion taylor-absolute --sparsity 0.9 -o pruned\n"
      "  coppice prune weights.npz --criterion magnitude --sparsity 0.8 --include '.*weight_hh.*' -o "
      "pruned.safetensors");
  verb.add_option("WEIGHTS", options->weights, "What to prune")->required();
  verb.add_option("--gradients", options->gradients,
                  "Statistics of `coppice gradients`, where the criterion needs them")
      ->type_name("FILE");
  // Each option is the recipe key of its name, so that ranges and messages are those of recipes.
  const auto key = [&](const std::string& option, const std::string& name, std::string doc,
                       const std::string& type) {
    return verb
        .add_option_function<std::string>(
            option,
            [options, name](const std::string& value) {
              options->prune.push_back(fmt::format("prune.{}={}", name, value));
            },
            std::move(doc))
        ->type_name(type);
  };
  key("--criterion", "criterion", criteria_help(), "NAME");
  key("--sparsity", "sparsity", "Share of the units to cut, 0 to 1", "S");
  key("--percentile", "percentile", "Instead: cut what scores below this percentile", "P");
  key("--scope", "scope", "What competes for one threshold: global, tensor or gate", "NAME");
  key("--pattern", "pattern", "What is cut as one unit: element, row or column", "NAME");
  key("--reduce", "reduce", "Rows, columns: sum, mean, max, l2 or product of element scores", "NAME");
  key("--min-density", "min_density", "Share of every tensor or gate that is never cut", "D");
  const auto patterns = [&](const std::string& option, std::string doc) {
    auto values = std::make_shared<std::vector<std::string>>();
    verb.add_option(option, *values, std::move(doc))
        ->take_all()
        ->allow_extra_args(false)
        ->type_name("PATTERN");
    return values;
  };
  auto include = patterns("--include", "Tensors to prune (RE2, whole names; again for more)");
  auto exclude = patterns("--exclude", "Tensors never to prune");
  verb.add_option("--recipe", options->recipe_file, "Take [prune] from this recipe first")
      ->type_name("RECIPE");
  verb.add_flag("--sparse-encoding", options->sparse_encoding, "Write the smaller, sparse encoding");
  options->add_output(verb, "The pruned model or file");
  options->add_set(verb);
  options->add_device(verb);
  options->add_seed(verb);
  options->add_manners(verb);
  verb.callback([options, include, exclude] {
    // The keys of other sections don't matter here; data.train must only not be empty.
    std::vector<std::string> overrides = {"data.train=-"};
    overrides.insert(overrides.end(), options->set.begin(), options->set.end());
    overrides.insert(overrides.end(), options->prune.begin(), options->prune.end());
    if (options->seed >= 0) overrides.push_back(fmt::format("seed={}", options->seed));
    Recipe recipe = options->recipe_file.empty() ? parse_recipe("", "prune", overrides)
                                                 : read_recipe(options->recipe_file, overrides);
    if (!include->empty()) recipe.prune.include = *include;
    if (!exclude->empty()) recipe.prune.exclude = *exclude;
    if (options->recipe_file.empty() && options->prune.empty()) {
      throw CLI::RequiredError("--criterion and --sparsity (or --recipe)");
    }
    const PruneReport report = prune_model(
        options->weights, options->gradients, recipe.prune, recipe.seed, options->output,
        options->sparse_encoding, options->device_or_auto(), options->threads_or_all(), options->work());
    const PruneOutcome& outcome = report.outcome;
    if (options->json) {
      nlohmann::ordered_json json = outcome_json(outcome);
      json["output"] = options->output;
      json["bytes"] = {{"before", report.bytes_before}, {"after", report.bytes_after}};
      print_result(json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
      return;
    }
    std::string text = kept_table(outcome.tensors);
    for (size_t g = 0; g < std::min<size_t>(outcome.groups.size(), 16); ++g) {
      const GroupOutcome& group = outcome.groups[g];
      text +=
          fmt::format("{}: {} of {} units cut{}\n", group.name, count_text(static_cast<double>(group.cut)),
                      count_text(static_cast<double>(group.units)),
                      group.threshold_text.empty() ? "" : ", threshold " + group.threshold_text);
    }
    if (outcome.groups.size() > 16)
      text += fmt::format("and {} more groups (--json)\n", outcome.groups.size() - 16);
    text += fmt::format("{}: {} of {} prunable weights kept, {} (before {})\n", options->output,
                        count_text(static_cast<double>(outcome.kept)),
                        count_text(static_cast<double>(outcome.prunable)),
                        bytes_text(static_cast<double>(report.bytes_after)),
                        bytes_text(static_cast<double>(report.bytes_before)));
    print_result(text);
  });
}

}  // namespace coppice::program
