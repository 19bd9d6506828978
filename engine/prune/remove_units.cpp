#include "engine/prune/remove_units.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/error.hpp"

namespace coppice {
namespace {

/// The rows and columns of a tensor that stay.
struct Remaining {
  std::vector<int64_t> rows, cols;
};

class FileWithoutUnits final : public WeightFile {
 public:
  FileWithoutUnits(const WeightFile& file, std::vector<Remaining> remaining)
      : WeightFile(file.path()), file_(file), remaining_(std::move(remaining)) {
    metadata_ = file.metadata();
    std::vector<FileTensor> tensors = file.tensors();
    for (size_t t = 0; t < tensors.size(); ++t) {
      std::vector<int64_t>& shape = tensors[t].shape;
      if (!remaining_[t].rows.empty()) shape[0] = static_cast<int64_t>(remaining_[t].rows.size());
      if (!remaining_[t].cols.empty()) shape[1] = static_cast<int64_t>(remaining_[t].cols.size());
    }
    set_tensors(std::move(tensors));
  }
  std::string_view format() const override { return file_.format(); }
  bool random_access() const override { return file_.random_access(); }

 protected:
  void read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const override {
    const auto& [rows, cols] = remaining_[tensor];
    if (rows.empty() && cols.empty()) return file_.read(tensor, begin, count, out);
    const FileTensor& whole = file_.tensors()[tensor];
    const int64_t row_size = whole.size() / whole.shape[0];
    const int64_t width = size_of(whole.dtype);
    const int64_t left = cols.empty() ? row_size : static_cast<int64_t>(cols.size());
    std::vector<char> row(static_cast<size_t>(row_size * width));
    char* to = static_cast<char*>(out);
    for (int64_t at = begin; at < begin + count;) {
      const int64_t r = at / left, first = at % left, stop = std::min(left, first + begin + count - at);
      const int64_t from = (rows.empty() ? r : rows[static_cast<size_t>(r)]) * row_size;
      if (cols.empty()) {
        file_.read(tensor, from + first, stop - first, to);
        to += (stop - first) * width;
      } else {
        file_.read(tensor, from, row_size, row.data());
        for (int64_t c = first; c < stop; ++c, to += width) {
          std::memcpy(to, row.data() + cols[static_cast<size_t>(c)] * width, static_cast<size_t>(width));
        }
      }
      at += stop - first;
    }
  }

 private:
  const WeightFile& file_;
  std::vector<Remaining> remaining_;  // empty lists: all
};

}  // namespace

int64_t remaining_units(const PruneOutcome& outcome) {
  const LayerOutcome& first = outcome.layers.at(0);
  for (const LayerOutcome& layer : outcome.layers) {
    if (layer.kept.empty()) bad_input("--remove-units: no unit of '{}' would be left; cut less", layer.name);
    if (layer.kept.size() == first.kept.size()) continue;
    bad_input(
        "--remove-units: '{}' would be left with {} units and '{}' with {}, but the layers of a stack have "
        "one hidden "
        "size; prune.scope 'tensor' cuts as many of each",
        first.name, first.kept.size(), layer.name, layer.kept.size());
  }
  return static_cast<int64_t>(first.kept.size());
}

std::unique_ptr<WeightFile> without_units(const WeightFile& file, const PruneOutcome& outcome) {
  const UnitWiring& wiring = outcome.wiring;
  const int64_t left = remaining_units(outcome);
  std::set<std::string> stacks, layers;
  for (const LayerOutcome& layer : outcome.layers) {
    layers.insert(layer.name);
    stacks.insert(recurrent_name(layer.name)->prefix);
  }
  for (const FileTensor& tensor : file.tensors()) {
    const std::optional<RecurrentName> name = recurrent_name(tensor.name);
    if (!name || name->kind != "weight_hh" || !stacks.contains(name->prefix) ||
        layers.contains(tensor.name)) {
      continue;
    }
    bad_input(
        "--remove-units: '{}' keeps all its units, but '{}' of the same stack would be left with {}; "
        "prune.include must choose all layers or none",
        tensor.name, outcome.layers[0].name, left);
  }

  std::vector<Remaining> remaining(file.tensors().size());
  for (const UnitTensor& tensor : wiring.tensors) {
    const size_t number = file.index(outcome.tensors[tensor.tensor].name);
    const std::vector<int64_t>& shape = file.tensors()[number].shape;
    Remaining& stays = remaining[number];
    if (tensor.row_layer) {
      const UnitLayer& layer = wiring.layers[*tensor.row_layer];
      for (int64_t gate = 0; gate < layer.gates; ++gate) {
        for (uint64_t unit : outcome.layers[*tensor.row_layer].kept) {
          stays.rows.push_back(gate * layer.hidden + static_cast<int64_t>(unit));
        }
      }
    }
    if (tensor.columns.empty()) continue;
    std::vector<bool> cut(static_cast<size_t>(shape[1]), false);
    for (const UnitTensor::Columns& columns : tensor.columns) {
      const auto begin = cut.begin() + columns.begin;
      std::fill(begin, begin + wiring.layers[columns.layer].hidden, true);
      for (uint64_t unit : outcome.layers[columns.layer].kept) begin[static_cast<ptrdiff_t>(unit)] = false;
    }
    for (int64_t c = 0; c < shape[1]; ++c) {
      if (!cut[static_cast<size_t>(c)]) stays.cols.push_back(c);
    }
  }
  return std::make_unique<FileWithoutUnits>(file, std::move(remaining));
}

}  // namespace coppice
