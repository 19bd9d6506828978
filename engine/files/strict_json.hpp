#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace coppice {

/// Parses JSON that somebody else wrote. nlohmann's parser alone keeps the last of duplicate keys silently
/// and nests without end; here a repeated key, a depth beyond `max_depth`, invalid UTF-8 and syntax errors
/// are Error(bad_input) with a sentence that starts with `what` ("x.safetensors: header").
nlohmann::json parse_json(std::string_view text, const std::string& what, int max_depth = 32);

}  // namespace coppice
