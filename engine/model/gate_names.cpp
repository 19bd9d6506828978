#include "engine/model/gate_names.hpp"

#include "kernels/recurrence.hpp"

namespace coppice {
namespace {

/// Where "ih" or "hh" stands in the name of a recurrent layer's matrix: after "weight_" as PyTorch has it, or
/// after "w_" as many who export by hand do.
size_t place_of_operand(std::string_view name) {
  for (const std::string_view stem : {"weight_", "w_"}) {
    for (const std::string_view operand : {"ih", "hh"}) {
      for (size_t at = name.find(stem); at != std::string_view::npos; at = name.find(stem, at + 1)) {
        const size_t end = at + stem.size() + operand.size();
        const bool starts_word = at == 0 || name[at - 1] == '_' || name[at - 1] == '.';
        const bool ends_word = end == name.size() || name[end] == '_' || name[end] == '.';
        if (starts_word && ends_word && name.substr(at + stem.size()).starts_with(operand))
          return at + stem.size();
      }
    }
  }
  return std::string_view::npos;
}

}  // namespace

bool is_recurrent_weight(std::string_view name) {
  return place_of_operand(name) != std::string_view::npos;
}

std::string gate_names_of(const WeightFile& file, const FileTensor& tensor) {
  const size_t operand = place_of_operand(tensor.name);
  if (operand == std::string_view::npos) return "";
  std::string recurrent = tensor.name;
  recurrent.replace(operand, 2, "hh");
  if (!file.contains(recurrent)) return "";
  const std::vector<int64_t>& shape = file.tensor(recurrent).shape;
  if (shape.size() != 2 || shape[1] == 0 || tensor.shape.size() != 2 || tensor.shape[0] != shape[0])
    return "";
  for (const Cell cell : {Cell::lstm, Cell::gru}) {
    if (shape[0] == gate_count(cell) * shape[1]) return std::string(gate_names(cell));
  }
  return "";
}

}  // namespace coppice
