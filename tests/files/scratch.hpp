#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "kernels/error.hpp"

namespace coppice::test {

/// A folder of a test's own, removed with it.
class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "coppice-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no scratch folder");
    folder_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::string path(const std::string& name = "") const { return (folder_ / name).string(); }
  /// Writes `bytes` and returns the path.
  std::string put(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return path(name);
  }
  size_t entries() const {
    size_t n = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_)) ++n;
    return n;
  }

 private:
  std::filesystem::path folder_;
};

inline std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace coppice::test

/// Expects Error of `error_kind` whose text holds every one of the words given.
#define EXPECT_ERROR(statement, error_kind, ...)                                        \
  do {                                                                                  \
    try {                                                                               \
      statement;                                                                        \
      ADD_FAILURE() << "no error from " #statement;                                     \
    } catch (const coppice::Error& error) {                                             \
      EXPECT_EQ(error.kind(), coppice::ErrorKind::error_kind) << error.what();          \
      for (const std::string& word : std::initializer_list<std::string>{__VA_ARGS__}) { \
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos)              \
            << "\"" << word << "\" is not in: " << error.what();                        \
      }                                                                                 \
    }                                                                                   \
  } while (false)
