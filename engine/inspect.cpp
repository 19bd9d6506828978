#include "engine/inspect.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/model/gate_names.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Counts elements [begin, begin + size).
TensorFacts::Counted count(const WeightFile& file, size_t tensor, int64_t begin, int64_t size) {
  constexpr int64_t kBlock = 1 << 18;
  TensorFacts::Counted counted;
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

}  // namespace

std::vector<TensorFacts> tensor_facts(const WeightFile& file) {
  std::vector<TensorFacts> facts;
  for (size_t t = 0; t < file.tensors().size(); ++t) {
    TensorFacts fact;
    fact.tensor = file.tensors()[t];
    fact.gate_names = gate_names_of(file, fact.tensor);
    const int64_t gates = std::max<int64_t>(1, static_cast<int64_t>(fact.gate_names.size()));
    const int64_t size = fact.tensor.size() / gates;
    for (int64_t g = 0; g < gates; ++g) {
      const TensorFacts::Counted counted = count(file, t, g * size, size);
      fact.counted.zeros += counted.zeros;
      fact.counted.not_finite += counted.not_finite;
      if (!fact.gate_names.empty()) fact.gate_zeros.push_back(counted.zeros);
    }
    facts.push_back(std::move(fact));
  }
  return facts;
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

std::string inspection_json(const fs::path& path) {
  if (!fs::exists(path)) bad_input("{}: no such file or folder", path.string());
  const std::unique_ptr<WeightFile> file = open_weights(path.string());
  Json json = {{"path", path.string()},
               {"format", file->format()},
               {"bytes", bytes_under(file->path())},
               {"metadata", file->metadata()},
               {"tensors", tensors_json(tensor_facts(*file))}};
  if (fs::is_directory(path) && is_model_folder(path)) json["model"] = model_text(read_model(path));
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace coppice
