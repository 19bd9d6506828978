#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace coppice {

// Nothing is ever half-written under its final name: an output is built beside it as `NAME.partial-PID`,
// forced to the disk, and renamed. A process that is killed leaves only the partial name behind, which the
// next writer of the same output removes (a lock tells whether its maker still lives).

/// What to do with an output that is there already.
enum class Existing { refuse, replace };

/// Throws Error(bad_input) "… exists; pass --force to replace it" when `path` exists and may not be replaced,
/// and when the folder that would hold it is missing. Verbs call it first, before hours of work.
void check_output(const std::string& path, Existing existing);

/// One file. Not committed (an exception passes, say): the partial file is removed.
/// A full disk is Error(failure) naming the file and the bytes.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path, Existing existing = Existing::refuse);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }

  /// Claims room for a file of `bytes` in all, so that a full disk is known before the work and not after it.
  void reserve(int64_t bytes);
  void write(const void* data, int64_t bytes);  ///< at the end
  void write(std::string_view text) { write(text.data(), static_cast<int64_t>(text.size())); }
  void write_at(int64_t offset, const void* data, int64_t bytes);
  void read_at(int64_t offset, void* out, int64_t bytes) const;  ///< what was written before

  /// fsync, rename, fsync of the folder. Afterwards the file stands under its name.
  void commit();

 private:
  void start_write_back(int64_t offset, int64_t bytes);

  std::string path_;
  std::string partial_;
  Existing existing_;
  int descriptor_ = -1;
  int64_t size_ = 0;
  int64_t fresh_begin_ = 0, fresh_end_ = 0;  // written, but the disk was not asked to begin yet
};

/// The common case: all of the text in one call.
void write_file(const std::string& path, std::string_view text, Existing existing = Existing::refuse);

/// A folder (a model, a checkpoint) that appears whole or not at all: write files into `building()` through
/// AtomicFile (which forces each to the disk), then commit.
/// Replacing swaps the two folders in one step and then removes the old one; a folder that holds anything but
/// .safetensors, .json, .jsonl, .toml, .html and .svg files is not one of ours and is never removed.
class AtomicFolder {
 public:
  explicit AtomicFolder(const std::string& path, Existing existing = Existing::refuse);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::string& path() const { return path_; }         ///< where it will stand
  const std::string& building() const { return partial_; }  ///< where it is built
  void commit();

 private:
  std::string path_;
  std::string partial_;
  Existing existing_;
  int lock_ = -1;
};

}  // namespace coppice
