#pragma once

#include <cstdint>
#include <string_view>

namespace coppice {

/// "256MiB", "2GB", "1000000" as a number of bytes, 1 or more. Throws Error(bad_input) that names the option.
int64_t parse_bytes(std::string_view option, std::string_view text);

}  // namespace coppice
