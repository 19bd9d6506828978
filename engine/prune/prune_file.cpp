#include "engine/prune/prune_file.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/files/safetensors.hpp"
#include "engine/files/sparse_encoding.hpp"
#include "engine/files/weight_file.hpp"
#include "engine/model/gate_names.hpp"
#include "engine/prune/gradients.hpp"
#include "engine/prune/source.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

/// One tensor of a plain file of weights, in memory.
struct PlainTensor {
  std::vector<std::byte> raw;  // as in the file
  std::vector<float> values;   // as selection sees them; f64 tensors are scored from `raw`
  std::vector<float> statistic;
  std::vector<double> statistic64;
  std::vector<uint64_t> mask;
};

}  // namespace

PruneReport prune_file(const std::filesystem::path& weights, const std::filesystem::path& gradients,
                       const PruneConfig& config, uint64_t seed, const std::filesystem::path& output,
                       bool sparse_encoding, Backend& backend, Existing existing) {
  const std::unique_ptr<WeightFile> file = open_weights(weights.string());
  const std::unique_ptr<WeightFile> statistics =
      gradients.empty() ? nullptr : open_weights(gradients.string());
  const Statistic kind = statistic_of(find_criterion(config.criterion));
  const char* const suffix = kind == Statistic::sum        ? ".sum"
                             : kind == Statistic::absolute ? ".absolute"
                                                           : ".squared";
  const std::vector<FileTensor>& tensors = file->tensors();
  const bool recurrent = std::any_of(tensors.begin(), tensors.end(),
                                     [](const FileTensor& t) { return is_recurrent_weight(t.name); });
  std::vector<PlainTensor> held(tensors.size());
  std::vector<MemoryTensor> sources;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const FileTensor& tensor = tensors[i];
    PlainTensor& plain = held[i];
    plain.raw.resize(static_cast<size_t>(tensor.bytes()));
    if (tensor.size() != 0) file->read(i, 0, tensor.size(), plain.raw.data());
    if (!is_floating(tensor.dtype)) continue;
    MemoryTensor& source = sources.emplace_back();
    source.info.name = tensor.name;
    source.info.shape = tensor.shape;
    source.info.gate_names = gate_names_of(*file, tensor);
    source.info.gates = std::max<int64_t>(1, static_cast<int64_t>(source.info.gate_names.size()));
    source.info.prunable = recurrent ? is_recurrent_weight(tensor.name) : tensor.shape.size() >= 2;
    plain.mask.assign(static_cast<size_t>((tensor.size() + 63) / 64), ~uint64_t{0});
    source.mask = plain.mask.data();
    const void* statistic = nullptr;
    const std::string name = tensor.name + suffix;
    const bool known = kind != Statistic::none && statistics && statistics->contains(name);
    if (known && statistics->tensor(name).shape != tensor.shape) {
      bad_input("{}: tensor \"{}\" has another shape than \"{}\" of {}", gradients.string(), name,
                tensor.name, weights.string());
    }
    if (tensor.dtype == DType::f64) {
      source.info.dtype = DType::f64;
      source.weights = plain.raw.data();
      if (known) plain.statistic64 = statistics->read_f64(name);
      statistic = plain.statistic64.data();
    } else {
      plain.values = file->read_f32(tensor.name);
      source.weights = plain.values.data();
      if (known) plain.statistic = statistics->read_f32(name);
      statistic = plain.statistic.data();
    }
    if (!known) continue;
    (kind == Statistic::sum        ? source.sum
     : kind == Statistic::absolute ? source.absolute
                                   : source.squared) = statistic;
  }
  MemorySource source(backend, std::move(sources));
  PruneReport report;
  report.outcome = prune(source, config, seed);

  // The file's own bits, +0 where cut: whatever the type, +0 is all bits zero.
  SafetensorsWriter writer(output.string(), tensors, file->metadata(), existing);
  std::vector<FileTensor> masked;
  std::map<std::string, std::string> shapes;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto width = static_cast<size_t>(size_of(tensors[i].dtype));
    bool cut = false;
    for (size_t e = 0; !held[i].mask.empty() && e < static_cast<size_t>(tensors[i].size()); ++e) {
      if (held[i].mask[e / 64] >> (e % 64) & 1) continue;
      std::memset(held[i].raw.data() + e * width, 0, width);
      cut = true;
    }
    writer.write(tensors[i].name, held[i].raw.data(), tensors[i].size());
    if (!cut) continue;
    masked.push_back({tensors[i].name, DType::u8, {(tensors[i].size() + 7) / 8}});
    shapes["shape:" + tensors[i].name] = fmt::format("{}", fmt::join(tensors[i].shape, ","));
  }
  writer.finish();
  if (sparse_encoding) encode_sparse(SafetensorsFile(output.string()), output.string(), Existing::replace);
  SafetensorsWriter masks(output.string() + ".masks.safetensors", masked, std::move(shapes), existing);
  for (const FileTensor& tensor : masked) {
    masks.write(tensor.name, held[file->index(tensor.name)].mask.data(), tensor.size());
  }
  masks.finish();
  for (size_t i = 0; i < tensors.size(); ++i)
    report.bytes_before += static_cast<uint64_t>(file->stored_bytes(i));
  report.bytes_after = static_cast<uint64_t>(std::filesystem::file_size(output));
  return report;
}

}  // namespace coppice
