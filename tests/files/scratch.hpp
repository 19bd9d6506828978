#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "engine/files/weight_file.hpp"
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

/// A small file that tests/golden/make_file_goldens.py wrote.
inline std::string golden_file(const std::string& name) {
  const char* source = std::getenv("COPPICE_SOURCE_DIR");
  return std::string(source ? source : ".") + "/tests/golden/files/" + name;
}

/// The values that the script puts into arrays: see its first lines.
inline std::vector<double> golden_values(int64_t count, DType type) {
  std::vector<double> values;
  for (int64_t i = 0; i < count; ++i) {
    const double v = static_cast<double>(37 * i % 101 - 50);
    const bool is_unsigned =
        type == DType::u64 || type == DType::u32 || type == DType::u16 || type == DType::u8;
    values.push_back(is_floating(type)        ? v / 8
                     : is_unsigned            ? std::abs(v)
                     : type == DType::boolean ? v > 0
                                              : v);
  }
  return values;
}

/// Opens a file that may be damaged and reads all of it in small blocks, forwards and again: whatever it
/// holds, the worst that may happen is an Error. True when all went well.
inline bool survives(const std::string& path) {
  try {
    const std::unique_ptr<WeightFile> file = open_weights(path);
    std::vector<float> block(1000);
    for (int round = 0; round < 2; ++round) {
      for (size_t i = 0; i < file->tensors().size(); ++i) {
        // A damaged shape may be honest about a tensor that is larger than the file (the sparse encoding).
        const int64_t size = std::min<int64_t>(file->tensors()[i].size(), 100'000);
        for (int64_t begin = 0; begin < size; begin += 1000) {
          file->read_f32(i, begin, std::min<int64_t>(1000, size - begin), block.data());
        }
      }
    }
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input) << error.what();
    EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    return false;
  }
}

/// Every truncation of a file, and every byte of it changed in several ways, by `survives`.
inline void expect_survives_damage(const std::string& path) {
  SCOPED_TRACE(path);
  const Scratch scratch;
  const std::string whole = slurp(path);
  ASSERT_FALSE(whole.empty());
  const std::string copy = scratch.put(std::filesystem::path(path).filename().string(), whole);
  // In place: some file systems force a truncated and rewritten file to the disk each time.
  std::fstream file(copy, std::ios::binary | std::ios::in | std::ios::out);
  const auto set = [&](size_t at, int byte) {
    file.seekp(static_cast<std::streamoff>(at));
    file.put(static_cast<char>(byte));
    file.flush();
  };
  for (size_t at = 0; at < whole.size(); ++at) {
    for (const int change : {1, 0x80, 0xff}) {
      set(at, whole[at] ^ change);
      survives(copy);
    }
    set(at, whole[at]);
  }
  for (size_t length = whole.size(); length-- > 0;) {
    std::filesystem::resize_file(copy, length);
    EXPECT_FALSE(survives(copy)) << "cut to " << length << " bytes";
  }
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
