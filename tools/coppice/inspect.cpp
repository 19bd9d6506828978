#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/files/input_file.hpp"
#include "engine/files/weight_file.hpp"
#include "engine/model/gate_names.hpp"
#include "engine/model/model_folder.hpp"
#include "engine/report/json.hpp"
#include "engine/report/table.hpp"
#include "kernels/error.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Counted {
  uint64_t zeros = 0;
  uint64_t not_finite = 0;
};

struct TensorFacts {
  FileTensor tensor;
  Counted counted;
  std::string gate_names;  // one letter a gate
  std::vector<uint64_t> gate_zeros;
};

/// Counts elements [begin, begin + count), block by block: memory stays small whatever the file's size.
Counted count(const WeightFile& file, size_t tensor, int64_t begin, int64_t size) {
  constexpr int64_t kBlock = 1 << 18;
  Counted counted;
  std::vector<double> block(static_cast<size_t>(std::min(size, kBlock)));
  for (int64_t done = 0; done < size; done += kBlock) {
    const int64_t n = std::min(kBlock, size - done);
    file.read_f64(tensor, begin + done, n, block.data());
    for (int64_t i = 0; i < n; ++i) {
      if (block[static_cast<size_t>(i)] == 0.0) ++counted.zeros;
      if (!std::isfinite(block[static_cast<size_t>(i)])) ++counted.not_finite;
    }
  }
  return counted;
}

std::vector<TensorFacts> facts_of(const WeightFile& file) {
  std::vector<TensorFacts> facts;
  for (size_t t = 0; t < file.tensors().size(); ++t) {
    TensorFacts fact;
    fact.tensor = file.tensors()[t];
    fact.gate_names = gate_names_of(file, fact.tensor);
    const int64_t gates = std::max<int64_t>(1, static_cast<int64_t>(fact.gate_names.size()));
    const int64_t size = fact.tensor.size() / gates;
    for (int64_t g = 0; g < gates; ++g) {
      const Counted counted = count(file, t, g * size, size);
      fact.counted.zeros += counted.zeros;
      fact.counted.not_finite += counted.not_finite;
      if (!fact.gate_names.empty()) fact.gate_zeros.push_back(counted.zeros);
    }
    facts.push_back(std::move(fact));
  }
  return facts;
}

double share(uint64_t part, int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

Json tensors_json(const std::vector<TensorFacts>& facts) {
  Json tensors = Json::array();
  for (const TensorFacts& fact : facts) {
    Json item = {{"name", fact.tensor.name},
                 {"type", to_string(fact.tensor.dtype)},
                 {"shape", fact.tensor.shape},
                 {"zeros", fact.counted.zeros},
                 {"sparsity", share(fact.counted.zeros, fact.tensor.size())},
                 {"not_finite", fact.counted.not_finite}};
    if (!fact.gate_names.empty()) {
      const int64_t size = fact.tensor.size() / static_cast<int64_t>(fact.gate_names.size());
      for (size_t g = 0; g < fact.gate_names.size(); ++g) {
        item["gates"][std::string(1, fact.gate_names[g])] = share(fact.gate_zeros[g], size);
      }
    }
    tensors.push_back(std::move(item));
  }
  return tensors;
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

std::string model_text(const ModelDescription& description) {
  const ModelConfig& model = description.model;
  std::string text = fmt::format("{} x {} {}{}", model.layers, model.cell, model.hidden,
                                 model.bidirectional ? " bidirectional" : "");
  if (model.embedding > 0) text += fmt::format(", embedding {}", model.embedding);
  if (description.shape.inputs > 0) text += fmt::format(", {} inputs", description.shape.inputs);
  if (description.vocabulary) {
    text += fmt::format(", vocabulary of {} {}s", description.vocabulary->entries.size(),
                        description.vocabulary->token);
  }
  return text + fmt::format(", loss {}", model.loss);
}

uint64_t bytes_under(const fs::path& path) {
  if (!fs::is_directory(path)) return fs::file_size(path);
  uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) bytes += entry.file_size();
  }
  return bytes;
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
    std::optional<ModelDescription> description;
    if (fs::is_directory(path) && is_model_folder(path)) description = read_model(path);
    const std::unique_ptr<WeightFile> file = open_weights(options->path);
    const std::vector<TensorFacts> facts = facts_of(*file);
    if (options->json) {
      Json json = {{"path", options->path},
                   {"format", file->format()},
                   {"bytes", bytes_under(file->path())},
                   {"metadata", file->metadata()},
                   {"tensors", tensors_json(facts)}};
      if (description) json["model"] = model_text(*description);
      print_result(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
      return;
    }
    std::string text = fmt::format("{}: {}, {}\n", options->path, file->format(),
                                   bytes_text(static_cast<double>(bytes_under(file->path()))));
    if (description) text += fmt::format("{}\n", model_text(*description));
    print_result(text + tensors_text(facts));
  });
}

}  // namespace coppice::program
