#include "engine/config/bytes.hpp"

#include <charconv>
#include <utility>

#include "kernels/error.hpp"

namespace coppice {

int64_t parse_bytes(std::string_view option, std::string_view text) {
  static constexpr std::pair<std::string_view, int64_t> kUnits[] = {{"", 1},
                                                                    {"B", 1},
                                                                    {"kB", 1'000},
                                                                    {"MB", 1'000'000},
                                                                    {"GB", 1'000'000'000},
                                                                    {"TB", 1'000'000'000'000},
                                                                    {"K", 1 << 10},
                                                                    {"M", 1 << 20},
                                                                    {"G", int64_t{1} << 30},
                                                                    {"KiB", 1 << 10},
                                                                    {"MiB", 1 << 20},
                                                                    {"GiB", int64_t{1} << 30},
                                                                    {"TiB", int64_t{1} << 40}};
  int64_t number = 0, bytes = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc() && number > 0) {
    const std::string_view unit(rest, static_cast<size_t>(end - rest));
    for (const auto& [name, size] : kUnits) {
      if (unit == name && !__builtin_mul_overflow(number, size, &bytes)) return bytes;
    }
  }
  bad_input("{} is \"{}\"; expected bytes, as in 256MiB or 2GiB", option, text);
}

}  // namespace coppice
