#include "engine/prune/units.hpp"

#include <algorithm>
#include <charconv>
#include <map>
#include <tuple>

#include "kernels/error.hpp"

namespace coppice {
namespace {

constexpr std::string_view kKinds[] = {"weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh"};

using LayerKey = std::tuple<std::string, int64_t, bool>;  // prefix, layer, reverse

/// The recurrent tensors of a source by layer and kind.
class Tensors {
 public:
  explicit Tensors(std::span<const SourceTensor> tensors) : tensors_(tensors) {
    for (size_t t = 0; t < tensors.size(); ++t) {
      if (const std::optional<RecurrentName> name = recurrent_name(tensors[t].name)) {
        places_[{name->prefix, name->layer, name->reverse}][name->kind] = t;
      }
    }
  }

  std::optional<size_t> find(const LayerKey& layer, const std::string& kind) const {
    const auto kinds = places_.find(layer);
    if (kinds == places_.end()) return std::nullopt;
    const auto place = kinds->second.find(kind);
    return place == kinds->second.end() ? std::nullopt : std::optional(place->second);
  }

  const SourceTensor& operator[](size_t t) const { return tensors_[t]; }

 private:
  std::span<const SourceTensor> tensors_;
  std::map<LayerKey, std::map<std::string, size_t>> places_;
};

UnitLayer layer_of(const SourceTensor& tensor, size_t index) {
  const int64_t rows = tensor.rows(), cols = tensor.cols();
  const bool whole = tensor.shape.size() == 2 && cols > 0 && rows % cols == 0;
  const int64_t gates = whole ? rows / cols : 0;
  if (gates != 1 && gates != 3 && gates != 4) {
    bad_input("prune.pattern 'unit': '{}' is [{}, {}], expected [gates * hidden, hidden] of 1, 3 or 4 gates",
              tensor.name, rows, cols);
  }
  return {index, gates, cols};
}

}  // namespace

std::optional<RecurrentName> recurrent_name(std::string_view name) {
  for (const std::string_view kind : kKinds) {
    const std::string stem = std::string(kind) + "_l";
    const size_t at = name.rfind(stem);
    if (at == name.npos || (at != 0 && name[at - 1] != '.')) continue;
    RecurrentName parts{std::string(name.substr(0, at)), std::string(kind), 0, false};
    const std::string_view rest = name.substr(at + stem.size());
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), parts.layer);
    if (error != std::errc() || parts.layer < 0) continue;
    const std::string_view suffix = rest.substr(static_cast<size_t>(end - rest.data()));
    parts.reverse = suffix == "_reverse";
    if (parts.reverse || suffix.empty()) return parts;
  }
  return std::nullopt;
}

UnitWiring find_units(std::span<const SourceTensor> list, const std::vector<bool>& chosen,
                      const std::vector<bool>& readers) {
  const Tensors tensors(list);
  UnitWiring wiring;
  std::map<std::string, size_t> by_name;
  for (size_t t = 0; t < list.size(); ++t) {
    const std::optional<RecurrentName> name = recurrent_name(list[t].name);
    if (chosen[t] && name && name->kind == "weight_hh") by_name[list[t].name] = t;
  }
  if (by_name.empty()) {
    bad_input(
        "prune.pattern 'unit' cuts recurrent layers in PyTorch's names (….weight_hh_l0), and none is chosen");
  }

  std::map<std::string, UnitTensor> touched;
  const auto touch = [&](size_t t) -> UnitTensor& {
    if (!list[t].aliases.empty()) {
      bad_input("prune.pattern 'unit': '{}' is tied with '{}', whose units these are not", list[t].name,
                list[t].aliases.front());
    }
    UnitTensor& tensor = touched[list[t].name];
    tensor.tensor = t;
    return tensor;
  };
  std::string prefix_read;  // of the stack whose last layer is read by `readers`
  for (const auto& [hh_name, hh] : by_name) {
    const RecurrentName name = *recurrent_name(hh_name);
    const UnitLayer layer = layer_of(list[hh], hh);
    const size_t index = wiring.layers.size();
    const LayerKey key{name.prefix, name.layer, name.reverse};
    wiring.layers.push_back(layer);

    if (tensors.find(key, "weight_hr")) {
      bad_input(
          "prune.pattern 'unit': the layer of '{}' has a projection (weight_hr), whose columns are its "
          "units; "
          "that is not supported",
          hh_name);
    }
    if (!tensors.find(key, "weight_ih")) {
      bad_input("prune.pattern 'unit': '{}' has no weight_ih beside it", hh_name);
    }
    for (const char* kind : {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}) {
      const std::optional<size_t> t = tensors.find(key, kind);
      if (!t) continue;
      if (list[*t].rows() != layer.gates * layer.hidden) {
        bad_input("prune.pattern 'unit': '{}' has {} rows, expected {} as '{}' has", list[*t].name,
                  list[*t].rows(), layer.gates * layer.hidden, hh_name);
      }
      touch(*t).row_layer = index;
    }
    touch(hh).columns.push_back({index, 0});

    // Both directions of a layer are read side by side, forwards first.
    const bool two = tensors.find({name.prefix, name.layer, !name.reverse}, "weight_hh").has_value();
    const int64_t begin = name.reverse ? layer.hidden : 0, width = (two ? 2 : 1) * layer.hidden;
    std::vector<size_t> reads;
    for (const bool reverse : {false, true}) {
      const auto next = tensors.find({name.prefix, name.layer + 1, reverse}, "weight_ih");
      if (next) reads.push_back(*next);
    }
    if (reads.empty()) {
      for (size_t t = 0; t < list.size(); ++t) {
        if (readers[t]) reads.push_back(t);
      }
      if (reads.empty()) {
        bad_input(
            "prune.pattern 'unit': '{}' belongs to the last layer of its stack; expected prune.unit_readers "
            "(--unit-readers) to name the tensors that read it",
            hh_name);
      }
      if (!prefix_read.empty() && prefix_read != name.prefix + "l") {
        bad_input(
            "prune.unit_readers read one stack of layers, but '{}' belongs to another; choose one with "
            "prune.include",
            hh_name);
      }
      prefix_read = name.prefix + "l";
    }
    for (size_t t : reads) {
      if (list[t].shape.size() != 2 || list[t].cols() != width) {
        bad_input("prune.pattern 'unit': '{}' has {} columns, expected {}: the units of '{}'{}", list[t].name,
                  list[t].cols(), width, hh_name, two ? " and of the other direction" : "");
      }
      touch(t).columns.push_back({index, begin});
    }
  }
  for (auto& [name, tensor] : touched) wiring.tensors.push_back(std::move(tensor));
  return wiring;
}

}  // namespace coppice
