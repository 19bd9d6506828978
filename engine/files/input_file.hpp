#pragma once

#include <cstdint>
#include <string>

namespace coppice {

/// A regular file open for reading at any offset. Reads go through `pread` into the caller's blocks and never
/// through a mapping: mapped pages count in the process's resident memory, and a file that shrinks under a
/// mapping kills the process instead of raising an error.
class InputFile {
 public:
  /// Throws Error(bad_input) when there is no such file, or when it is not a regular file.
  explicit InputFile(const std::string& path);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  InputFile& operator=(InputFile&&) = delete;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }

  /// Exactly `bytes` bytes from `offset`. Throws Error(bad_input) when the file ends before that.
  void read_at(int64_t offset, void* out, int64_t bytes) const;

 private:
  std::string path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

/// The whole of a file, for what is small enough to be read at once (texts, headers, recipes).
std::string read_file(const std::string& path);

}  // namespace coppice
