#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "engine/config/recipe.hpp"
#include "engine/data/batch.hpp"
#include "engine/model/layer.hpp"

namespace coppice {

// What the program can build by name, in explicit lists: objects that register themselves from static
// constructors vanish without a word when a static library is linked.

struct CellEntry {
  std::string_view name;  // [model] cell
  Cell cell;
  std::string_view doc;
};
std::span<const CellEntry> builtin_cells();
/// Throws Error(bad_input) that lists the known cells.
Cell find_cell(std::string_view name);
std::string_view to_string(Cell cell);

/// The kinds of layers, as Layer::kind() names them; tests go through this list.
std::span<const std::string_view> builtin_layers();

/// The layers of a model, input first. Throws Error(bad_input) for a model that can't be built for these
/// data.
std::vector<std::unique_ptr<Layer>> build_layers(const ModelConfig& config, const DataShape& data);

/// The tensors of such a model, without building it.
std::vector<Segment> model_segments(const ModelConfig& config, const DataShape& data);

}  // namespace coppice
