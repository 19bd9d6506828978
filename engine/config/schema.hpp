#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/config/recipe.hpp"

namespace coppice {

/// One recipe key. The table of these is the only place that knows the keys: parsing, `--set`, the program's
/// help, tools/recipes/KEYS.md and the resolved recipe are all made from it.
struct RecipeKey {
  /// Where the value lands. The alternative that is held is the key's type.
  using Place = std::variant<std::string& (*)(Recipe&), int64_t& (*)(Recipe&), uint64_t& (*)(Recipe&),
                             double& (*)(Recipe&), float& (*)(Recipe&), bool& (*)(Recipe&),
                             OptimizerKind& (*)(Recipe&), std::vector<std::string>& (*)(Recipe&)>;

  std::string_view section;  // "" for the keys above all sections
  std::string_view name;
  Place place;
  std::string_view doc;  // one line, no full stop
  struct Allowed {
    std::vector<std::string_view> choices;                  // text: these; empty: any
    double low = -std::numeric_limits<double>::infinity();  // numbers: low <= value <= high
    double high = std::numeric_limits<double>::infinity();
    bool below_high = false;  // value < high instead
  };
  Allowed allowed;
  bool inherits = false;  // [retrain]: what is not said there is as in [train]

  std::string full_name() const;  // "train.epochs"
};

/// All keys, in the order in which recipes and docs show them.
std::span<const RecipeKey> recipe_keys();

/// A recipe from a TOML file, then `overrides` ("section.key=value", as after `--set`) on top of it.
/// Throws Error(bad_input) naming file and line (or the override), the key, what was expected and what was
/// found; for an unknown key, the nearest known one. The result has passed `check_recipe`.
Recipe read_recipe(const std::filesystem::path& file, std::span<const std::string> overrides = {});

/// The same from text; `name` stands for the file in messages.
Recipe parse_recipe(std::string_view toml, std::string_view name,
                    std::span<const std::string> overrides = {});

/// What no single key can say: keys that contradict each other, or that another one makes necessary.
void check_recipe(const Recipe& recipe);

/// Trained weights bring their architecture with them. Throws Error(bad_input) where `found` is not what the
/// recipe *said* (keys that it left out follow the weights), with the overrides that would mend it.
void check_model_is_meant(const Recipe& recipe, const ModelConfig& found);

/// The recipe with every key written out, as TOML; `parse_recipe` of it gives the same recipe back.
std::string write_recipe(const Recipe& recipe);

/// The recipe with its file names made absolute, so that a run can be resumed from another folder.
Recipe with_absolute_paths(Recipe recipe);

/// Every key with its type, default and line of doc: plain text for a terminal, and Markdown for
/// tools/recipes/KEYS.md.
std::string describe_recipe_keys();
std::string recipe_keys_markdown();

/// The word in `known` that is nearest to `word` by edit distance, or "" when none is near enough to be
/// meant.
std::string nearest(std::string_view word, std::span<const std::string> known);

}  // namespace coppice
