#include "engine/inspect.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "engine/files/input_file.hpp"
#include "engine/files/weight_file.hpp"
#include "engine/model/model_folder.hpp"
#include "engine/report/json.hpp"
#include "engine/report/table.hpp"
#include "kernels/error.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

double share(uint64_t part, int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::string tensors_text(const std::vector<TensorFacts>& facts) {
  size_t gates = 0;
  for (const TensorFacts& fact : facts) gates = std::max(gates, fact.gate_names.size());
  std::vector<std::vector<std::string>> rows = {{"tensor", "type", "shape", "values", "sparsity"}};
  for (size_t g = 0; g < gates; ++g) rows[0].push_back(g == 0 ? "by gate" : "");
  int64_t total = 0;
  uint64_t zeros = 0;
  std::string warnings;
  for (const TensorFacts& fact : facts) {
    std::vector<std::string> row = {fact.tensor.name, std::string(to_string(fact.tensor.dtype)),
                                    shape_text(fact.tensor.shape),
                                    count_text(static_cast<double>(fact.tensor.size())),
                                    percent_text(share(fact.counted.zeros, fact.tensor.size()))};
    for (size_t g = 0; g < fact.gate_names.size(); ++g) {
      const int64_t size = fact.tensor.size() / static_cast<int64_t>(fact.gate_names.size());
      row.push_back(fmt::format("{} {}", fact.gate_names[g], percent_text(share(fact.gate_zeros[g], size))));
    }
    rows.push_back(std::move(row));
    total += fact.tensor.size();
    zeros += fact.counted.zeros;
    if (fact.counted.not_finite != 0) {
      warnings += fmt::format("  {}: {} values are not finite\n", fact.tensor.name, fact.counted.not_finite);
    }
  }
  rows.push_back({"all", "", "", count_text(static_cast<double>(total)), percent_text(share(zeros, total))});
  return align_columns(rows) + warnings;
}

void inspect_run(const fs::path& folder, bool as_json) {
  const fs::path file = folder / "report.json";
  if (fs::exists(file)) {
    RunReport report = parse_report(read_file(file.string()), file.string());
    report.folder = folder.string();  // it may have been moved since
    print_result(as_json ? report_json(report) : closing_table(report));
    return;
  }
  if (as_json) {
    print_result(Json{{"run", folder.string()}, {"complete", false}}.dump(2) + "\n");
  } else {
    print_result(
        fmt::format("{0}: a run that is not complete; go on with: coppice resume {0}\n", folder.string()));
  }
}

}  // namespace

void add_inspect(CLI::App& program) {
  struct Options : Command {
    std::string path;
  };
  auto options = std::make_shared<Options>();
  CLI::App& verb = *program.add_subcommand("inspect", "Show what is in a file of weights, a model or a run");
  verb.footer(
      "Example:\n  coppice inspect my_run\n  coppice inspect my_run/sparse\n  coppice inspect "
      "checkpoint.npz");
  verb.add_option("PATH", options->path, "A file of weights, a model's folder or a run's folder")->required();
  options->add_manners(verb);
  verb.callback([options] {
    const fs::path path = options->path;
    if (!fs::exists(path)) bad_input("{}: no such file or folder", options->path);
    if (fs::is_directory(path) && !is_model_folder(path) && fs::exists(path / "recipe.toml")) {
      inspect_run(path, options->json);
      return;
    }
    if (options->json) {
      print_result(inspection_json(path));
      return;
    }
    std::optional<ModelDescription> description;
    if (fs::is_directory(path) && is_model_folder(path)) description = read_model(path);
    const std::unique_ptr<WeightFile> file = open_weights(options->path);
    const std::vector<TensorFacts> facts = tensor_facts(*file);
    std::string text = fmt::format("{}: {}, {}\n", options->path, file->format(),
                                   bytes_text(static_cast<double>(bytes_under(file->path()))));
    if (description) text += fmt::format("{}\n", model_text(*description));
    print_result(text + tensors_text(facts));
  });
}

}  // namespace coppice::program
