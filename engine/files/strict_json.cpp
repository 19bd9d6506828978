#include "engine/files/strict_json.hpp"

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "kernels/error.hpp"

namespace coppice {

nlohmann::json parse_json(std::string_view text, const std::string& what, int max_depth) {
  using nlohmann::json;
  // To nlohmann's scanner a NUL is the end of the input, and whatever follows would pass unseen.
  const size_t nul = text.find('\0');
  if (nul != text.npos) bad_input("{} is not valid JSON: byte {} is NUL", what, nul);
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
        keys.emplace_back();
        [[fallthrough]];
      case json::parse_event_t::array_start:
        if (depth >= max_depth) bad_input("{} nests deeper than {} levels", what, max_depth);
        break;
      case json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case json::parse_event_t::key:
        if (!keys.back().insert(parsed.get<std::string>()).second) {
          bad_input("{} has the key \"{}\" twice", what, parsed.get<std::string>());
        }
        break;
      default:
        break;
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::exception& error) {
    bad_input("{} is not valid JSON: {}", what, error.what());
  }
}

}  // namespace coppice
