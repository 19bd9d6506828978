#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace coppice::test {

/// Where real corpora and models lie, which can't be committed: $COPPICE_DATA, else ../shared/data beside the
/// checkout. Tests that use them skip, saying so, where they are absent.
inline std::filesystem::path data_path(const std::string& name) {
  if (const char* folder = std::getenv("COPPICE_DATA")) return std::filesystem::path(folder) / name;
  const char* source = std::getenv("COPPICE_SOURCE_DIR");
  return std::filesystem::path(source ? source : ".") / "../shared/data" / name;
}

}  // namespace coppice::test

#define COPPICE_REQUIRE_DATA(name)                                                    \
  if (!std::filesystem::exists(coppice::test::data_path(name)))                       \
  GTEST_SKIP() << "no " << coppice::test::data_path(name).string() << " on this machine"
