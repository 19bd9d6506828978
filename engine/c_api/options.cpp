#include "engine/c_api/options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "engine/c_api/guard.hpp"
#include "engine/config/bytes.hpp"
#include "engine/config/schema.hpp"
#include "engine/prune/prune_file.hpp"

namespace coppice::c_api {
namespace {

int64_t number_of(std::string_view key, std::string_view text, std::string_view expected) {
  int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || rest != end || number < 0) {
    bad_input("option {} is \"{}\"; expected {}", key, text, expected);
  }
  return number;
}

}  // namespace

Options::Options(const char* const* options, size_t count) {
  if (count != 0) required(options, "options");
  for (size_t i = 0; i < count; ++i) {
    const std::string text = required(options[i], "an option");
    const size_t equals = text.find('=');
    if (equals == text.npos) bad_input("option \"{}\"; expected key=value", text);
    options_.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
}

bool Options::has(std::string_view key) const {
  return std::any_of(options_.begin(), options_.end(),
                     [&](const auto& option) { return option.first == key; });
}

std::vector<std::string> Options::take_all(std::string_view key) {
  std::vector<std::string> values;
  for (const auto& [name, value] : options_) {
    if (name == key) values.push_back(value);
  }
  std::erase_if(options_, [&](const auto& option) { return option.first == key; });
  return values;
}

std::optional<std::string> Options::take(std::string_view key) {
  std::vector<std::string> values = take_all(key);
  if (values.empty()) return std::nullopt;
  return std::move(values.back());
}

std::string Options::take_or(std::string_view key, std::string fallback) {
  return take(key).value_or(std::move(fallback));
}

bool Options::take_flag(std::string_view key) {
  const std::string value = take_or(key, "false");
  if (value != "true" && value != "false") {
    bad_input("option {} is \"{}\"; expected true or false", key, value);
  }
  return value == "true";
}

int64_t Options::take_number(std::string_view key, int64_t fallback) {
  const std::optional<std::string> value = take(key);
  return value ? number_of(key, *value, "a whole number of 0 or more") : fallback;
}

int64_t Options::take_bytes(std::string_view key) {
  const std::optional<std::string> value = take(key);
  if (!value) return 0;
  return parse_bytes(fmt::format("option {}", key), *value);
}

std::vector<std::pair<std::string, int64_t>> Options::take_counts(std::string_view key) {
  std::vector<std::pair<std::string, int64_t>> counts;
  for (const std::string& text : take_all(key)) {
    const size_t equals = text.rfind('=');
    const std::string_view count = equals == text.npos ? "" : std::string_view(text).substr(equals + 1);
    counts.emplace_back(text.substr(0, equals), number_of(key, count, "PATTERN=N, as in .*weight=4"));
  }
  return counts;
}

Recipe Options::recipe(std::string_view section) const {
  std::vector<std::string> overrides = {"data.train=-"};  // nothing is read from it
  for (const auto& [key, value] : options_) {
    const auto is_top = [&key = key](const RecipeKey& known) {
      return known.section.empty() && known.name == key;
    };
    const std::span<const RecipeKey> keys = recipe_keys();
    const bool whole =
        key.find('.') != key.npos || section.empty() || std::any_of(keys.begin(), keys.end(), is_top);
    overrides.push_back(whole ? fmt::format("{}={}", key, value)
                              : fmt::format("{}.{}={}", section, key, value));
  }
  return parse_recipe("", "options", overrides);
}

void Options::end() const {
  if (!options_.empty()) bad_input("option \"{}\" is not known here", options_.front().first);
}

PruneOptions take_prune_options(Options& options) {
  PruneOptions result;
  const std::vector<std::string> include = options.take_all("include");
  const std::vector<std::string> exclude = options.take_all("exclude");
  const std::optional<std::string> scope = options.take("scope");
  std::optional<std::string> criterion = options.take("criterion");
  result.criterion = criterion.has_value();
  result.wanda = criterion == kWanda;
  // Checked with the others, so that messages are those of recipes.
  if (criterion && !result.wanda) options.put("criterion", *criterion);
  if (scope || result.wanda) options.put("scope", scope.value_or("row"));
  result.recipe = options.recipe("prune");
  if (result.wanda) result.recipe.prune.criterion = kWanda;
  result.recipe.prune.include = include;
  result.recipe.prune.exclude = exclude;
  return result;
}

}  // namespace coppice::c_api
