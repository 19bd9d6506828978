#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/config/recipe.hpp"

namespace coppice::c_api {

/// "key=value" texts of a caller. A function takes the keys that are its own; what is left must be keys of
/// recipes, by their full names, or without the section that the function serves.
class Options {
 public:
  Options(const char* const* options, size_t count);

  bool has(std::string_view key) const;
  /// The last value of a key, or all of them in order.
  std::optional<std::string> take(std::string_view key);
  std::vector<std::string> take_all(std::string_view key);
  std::string take_or(std::string_view key, std::string fallback);
  /// "true" or "false"; Error(bad_input) naming the key for anything else.
  bool take_flag(std::string_view key);
  int64_t take_number(std::string_view key, int64_t fallback);
  /// "256MiB", "1000000".
  int64_t take_bytes(std::string_view key);
  /// "PATTERN=N".
  std::vector<std::pair<std::string, int64_t>> take_counts(std::string_view key);

  void put(std::string key, std::string value) { options_.emplace_back(std::move(key), std::move(value)); }

  /// The recipe that what is left makes. Keys without a section are those above all sections, else of
  /// `section`.
  Recipe recipe(std::string_view section) const;
  /// Throws Error(bad_input) that names the first key that nobody took.
  void end() const;

 private:
  std::vector<std::pair<std::string, std::string>> options_;
};

/// [prune] as the program's options give it: the criterion wanda, its scope, and patterns that come again.
struct PruneOptions {
  Recipe recipe;
  bool wanda = false;
  bool criterion = false;  // one was named
};
PruneOptions take_prune_options(Options& options);

}  // namespace coppice::c_api
