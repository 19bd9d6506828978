#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <map>

#include "engine/config/bytes.hpp"
#include "engine/config/pattern.hpp"
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
  return text + "; wanda |w| * ||x|| (needs --activations)";
}

/// "rnn\\.W=4": what stands behind the last '=' is how many.
std::pair<std::string, int64_t> parse_gates(const std::string& text) {
  const size_t equals = text.rfind('=');
  int64_t count = 0;
  const char* const end = text.data() + text.size();
  const char* const begin = equals == text.npos ? end : text.data() + equals + 1;
  const auto [rest, error] = std::from_chars(begin, end, count);
  if (error != std::errc() || rest != end || count < 1) {
    bad_input("--gates is '{}'; expected PATTERN=N, as in '.*weight=4'", text);
  }
  return {text.substr(0, equals), count};
}

std::string report_text(const PruneReport& report, bool dry_run) {
  const PruneOutcome& outcome = report.outcome;
  const auto count = [](uint64_t n) { return count_text(static_cast<double>(n)); };
  const auto bytes = [](uint64_t n) { return bytes_text(static_cast<double>(n)); };
  std::string text = kept_table(outcome.tensors);
  // What was carried over is told in a line: a large checkpoint has hundreds of such tensors.
  std::map<std::string, size_t> reasons;
  for (const CarriedTensor& tensor : report.carried) ++reasons[tensor.reason];
  std::string carried;
  for (const auto& [reason, tensors] : reasons) {
    carried += fmt::format("{}{} {}", carried.empty() ? "" : ", ", tensors, reason);
  }
  if (!carried.empty()) text += fmt::format("carried over: {}\n", carried);
  for (const std::vector<std::string>& names : report.tied) {
    text += fmt::format("tied, cut once: {}\n", fmt::join(names, ", "));
  }
  if (report.hidden >= 0) text += fmt::format("units removed: {} are left of every layer\n", report.hidden);
  for (size_t g = 0; g < std::min<size_t>(outcome.groups.size(), 16); ++g) {
    const GroupOutcome& group = outcome.groups[g];
    text += fmt::format("{}: {} of {} units cut{}\n", group.name, count(group.cut), count(group.units),
                        group.threshold_text.empty() ? "" : ", threshold " + group.threshold_text);
  }
  if (outcome.groups.size() > 16) {
    text += fmt::format("and {} more groups (--json)\n", outcome.groups.size() - 16);
  }
  text += fmt::format("weights read {} times{}\n", outcome.passes,
                      outcome.bracket_misses == 0
                          ? ""
                          : fmt::format("; the sample's bracket missed {} times", outcome.bracket_misses));
  text +=
      fmt::format("{}: {} of {} prunable weights kept, {} (before {}; at most {} in the sparse encoding)\n",
                  dry_run ? "nothing written" : report.output, count(outcome.kept), count(outcome.prunable),
                  bytes(report.bytes_after), bytes(report.bytes_before), bytes(report.sparse_bytes));
  return text;
}

}  // namespace

void add_prune(CLI::App& program) {
  struct Options : Command {
    std::string weights;
    std::vector<std::string> gradients;
    std::string activations;
    std::string masks;
    std::vector<std::string> keep_diagonal;
    std::vector<std::string> gates;  // "RE=4"
    std::string memory;
    std::string recipe_file;
    std::vector<std::string> prune;  // "prune.key=value", from the options below
    bool criterion = false, scope = false, wanda = false;
    bool remove_units = false;
    bool sparse_encoding = false;
    bool dry_run = false;

    PruneFiles files() const {
      PruneFiles files;
      files.gradients.assign(gradients.begin(), gradients.end());
      files.activations = activations;
      files.masks = masks;
      files.masks_only = !masks.empty() && !criterion && recipe_file.empty();
      files.keep_diagonal = keep_diagonal;
      for (const std::string& text : gates) files.gates.push_back(parse_gates(text));
      files.remove_units = remove_units;
      files.sparse_encoding = sparse_encoding;
      files.dry_run = dry_run;
      files.memory = memory.empty() ? 0 : parse_bytes("--memory", memory);
      return files;
    }
  };
  auto options = std::make_shared<Options>();
  CLI::App& verb = *program.add_subcommand("prune", "Cut a model, or any file of weights, by a score");
  verb.footer(
      "WEIGHTS is a model's folder, .safetensors, a shard index or .npz, of any size: it is streamed. "
      "Exactly\n"
      "round(S * n) of the n weights are cut, those with the lowest scores. The output is laid out as the "
      "input, with\n"
      "zeros; masks and report lie beside it (a file's) or in it (a folder's). Left alone unless --include "
      "names them:\n"
      "vectors, embeddings, heads, norms, biases, decay and mixing parameters, short convolutions.\n"
      "Example:\n"
      "  coppice prune model --gradients g.safetensors --criterion taylor-absolute --sparsity 0.9 -o pruned\n"
      "  coppice prune weights.npz --criterion magnitude --sparsity 0.8 --include '.*weight_hh.*' -o "
      "pruned.safetensors\n"
      "  coppice prune model.safetensors.index.json --criterion wanda --activations norms.safetensors "
      "--sparsity 0.5 \\\n"
      "      --memory 256MiB -o pruned");
  verb.add_option("WEIGHTS", options->weights, "What to prune")->required();
  verb.add_option(
          "--gradients", options->gradients,
          "Statistics of `coppice gradients`, or one batch's gradient under each weight's name; several "
          "files are summed")
      ->take_all()
      ->allow_extra_args(false)
      ->type_name("FILE");
  verb.add_option("--activations", options->activations,
                  "For wanda: the norm of each weight's inputs, [inputs], under its name")
      ->type_name("FILE");
  verb.add_option("--masks", options->masks,
                  "Masks made earlier: their zeros stay. Without --criterion they alone are applied")
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
  verb.add_option_function<std::string>(
          "--criterion",
          [options](const std::string& value) {
            options->criterion = true;
            options->wanda = value == kWanda;
            if (!options->wanda) options->prune.push_back("prune.criterion=" + value);
          },
          criteria_help())
      ->type_name("NAME");
  key("--sparsity", "sparsity", "Share of the units to cut, 0 to 1", "S");
  key("--percentile", "percentile", "Instead: cut what scores below this percentile", "P");
  verb.add_option_function<std::string>(
          "--scope",
          [options](const std::string& value) {
            options->scope = true;
            options->prune.push_back("prune.scope=" + value);
          },
          "What competes for one threshold: global, tensor, gate or row (wanda's default for weights and "
          "N:M)")
      ->type_name("NAME");
  key("--pattern", "pattern",
      "What is cut as one unit: element, row, column, block:RxC, unit (a hidden unit of a recurrent layer); "
      "or "
      "N:M, which keeps N of every M weights of a row",
      "NAME");
  key("--reduce", "reduce", "Rows, columns, blocks, units: sum, mean, max, l2 or product of element scores",
      "NAME");
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
  auto readers =
      patterns("--unit-readers", "Pattern unit: what reads the last recurrent layer (a model's: decoder)");
  auto diagonal = patterns("--keep-diagonal", "Matrices whose diagonal is never cut (each gate's own)");
  auto gates = patterns("--gates", "PATTERN=N: these have N gates, blocks of rows of equal height");
  verb.add_option("--recipe", options->recipe_file, "Take [prune] from this recipe first")
      ->type_name("RECIPE");
  verb.add_flag(
      "--remove-units", options->remove_units,
      "Pattern unit: write smaller tensors instead of zeros (scope: tensor, as many of each layer)");
  verb.add_flag("--sparse-encoding", options->sparse_encoding, "Write the smaller, sparse encoding");
  verb.add_flag("--dry-run", options->dry_run, "Say what would be cut and write nothing");
  verb.add_option("--memory", options->memory,
                  "What buffers may take (256MiB, 2GiB): the process takes at most 64 MiB more")
      ->type_name("SIZE");
  options->add_output(verb, "The pruned model, file or folder of shards")->required(false);
  options->add_set(verb);
  options->add_device(verb);
  options->add_seed(verb);
  options->add_manners(verb);
  verb.callback([options, include, exclude, readers, diagonal, gates] {
    if (options->output.empty() && !options->dry_run) throw CLI::RequiredError("--output (or --dry-run)");
    options->keep_diagonal = *diagonal;
    options->gates = *gates;
    // The keys of other sections don't matter here; data.train must only not be empty.
    std::vector<std::string> overrides = {"data.train=-"};
    overrides.insert(overrides.end(), options->set.begin(), options->set.end());
    overrides.insert(overrides.end(), options->prune.begin(), options->prune.end());
    if (options->seed >= 0) overrides.push_back(fmt::format("seed={}", options->seed));
    Recipe recipe = options->recipe_file.empty() ? parse_recipe("", "prune", overrides)
                                                 : read_recipe(options->recipe_file, overrides);
    if (!include->empty()) recipe.prune.include = *include;
    if (!exclude->empty()) recipe.prune.exclude = *exclude;
    if (!readers->empty()) recipe.prune.unit_readers = *readers;
    if (options->remove_units && !options->scope) recipe.prune.scope = "tensor";
    if (options->recipe_file.empty() && options->prune.empty() && !options->wanda && options->masks.empty()) {
      throw CLI::RequiredError("--criterion and --sparsity (or --recipe, or --masks)");
    }
    if (options->wanda) {
      recipe.prune.criterion = kWanda;
      const Pattern pattern = parse_pattern(recipe.prune.pattern).kind;
      const bool in_rows = pattern == Pattern::element || pattern == Pattern::n_of_m;
      if (!options->scope && in_rows) recipe.prune.scope = "row";
    }
    const PruneReport report =
        prune_model(options->weights, options->files(), recipe.prune, recipe.seed, options->output,
                    options->device_or_auto(), options->threads_or_all(), options->work());
    print_result(options->json ? prune_report_json(report) : report_text(report, options->dry_run));
  });
}

}  // namespace coppice::program
