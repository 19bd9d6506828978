#include "engine/model/gate_names.hpp"

#include "kernels/recurrence.hpp"

namespace coppice {

bool is_recurrent_weight(std::string_view name) {
  return name.find("weight_ih_l") != std::string_view::npos ||
         name.find("weight_hh_l") != std::string_view::npos;
}

std::string gate_names_of(const WeightFile& file, const FileTensor& tensor) {
  if (!is_recurrent_weight(tensor.name)) return "";
  std::string recurrent = tensor.name;
  if (const size_t input = recurrent.rfind("weight_ih_l"); input != std::string::npos) {
    recurrent.replace(input, 11, "weight_hh_l");
  }
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
