#include "engine/files/atomic_write.hpp"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "kernels/error.hpp"

namespace coppice {
namespace {

namespace fs = std::filesystem;

std::string reason(int code) {
  return std::generic_category().message(code);
}

std::string without_trailing_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

fs::path folder_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

std::string partial_name(const std::string& path) {
  return fmt::format("{}.partial-{}", path, ::getpid());
}

/// Renames made durable: the folder's own data holds the names.
void sync_folder(const fs::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;  // a folder that may be written but not read: the rename itself is still atomic
  ::fsync(descriptor);
  ::close(descriptor);
}

/// Removes partial outputs of `path` whose makers are gone: each maker holds a lock on what it builds.
void remove_abandoned(const std::string& path) {
  const std::string prefix = fs::path(path).filename().string() + ".partial-";
  std::error_code ignored;
  for (fs::directory_iterator entry(folder_of(path), ignored), end; !ignored && entry != end;
       entry.increment(ignored)) {
    const std::string name = entry->path().filename().string();
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    if (name.find_first_not_of("0123456789", prefix.size()) != std::string::npos) continue;
    const int descriptor = ::open(entry->path().c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) continue;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) {
      std::error_code unremoved;
      fs::remove_all(entry->path(), unremoved);
    }
    ::close(descriptor);
  }
}

/// Renames onto a name that must be free (unless it may be replaced), without a moment between check and
/// rename.
void rename_output(const std::string& from, const std::string& to, Existing existing) {
  if (existing == Existing::refuse) {
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return;
    if (errno == EEXIST) bad_input("{}: exists; pass --force to replace it", to);
    if (errno != EINVAL && errno != ENOSYS) failure("{}: can't be put in place: {}", to, reason(errno));
    check_output(to, existing);  // a file system without the flag: check, then rename
  }
  if (::rename(from.c_str(), to.c_str()) != 0) failure("{}: can't be put in place: {}", to, reason(errno));
}

/// The first file in `folder` that no part of Coppice writes; empty when there is none.
fs::path foreign_file(const fs::path& folder) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_directory() && !entry.is_symlink()) continue;
    const std::string extension = entry.path().extension().string();
    const bool ours = extension == ".safetensors" || extension == ".json" || extension == ".jsonl" ||
                      extension == ".toml" || extension == ".html" || extension == ".svg" ||
                      extension.compare(0, 9, ".partial-") == 0;
    if (!ours || !entry.is_regular_file()) return entry.path();
  }
  return {};
}

void check_replaceable_folder(const std::string& path) {
  if (!fs::is_directory(fs::symlink_status(path))) {
    bad_input("{}: is not a folder, and a folder would replace it; remove it first", path);
  }
  const fs::path foreign = foreign_file(path);
  if (!foreign.empty()) {
    bad_input("{}: holds {}, which no model or run holds; remove the folder yourself to replace it", path,
              foreign.lexically_relative(path).string());
  }
}

}  // namespace

void check_output(const std::string& path, Existing existing) {
  if (path.empty()) bad_input("the name of the output is empty");
  const std::string name = without_trailing_slash(path);
  if (!fs::is_directory(folder_of(name))) {
    bad_input("{}: the folder {} does not exist", name, folder_of(name).string());
  }
  if (existing == Existing::refuse && fs::exists(fs::symlink_status(name))) {
    bad_input("{}: exists; pass --force to replace it", name);
  }
}

AtomicFile::AtomicFile(const std::string& path, Existing existing) : path_(path), existing_(existing) {
  check_output(path, existing);
  const fs::file_status status = fs::status(path);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    bad_input("{}: is not a regular file, and a file would replace it", path);
  }
  partial_ = partial_name(path_);
  remove_abandoned(path_);
  descriptor_ = ::open(partial_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (descriptor_ < 0) failure("{}: can't be created: {}", path_, reason(errno));
  ::flock(descriptor_, LOCK_EX | LOCK_NB);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(partial_.c_str());
}

void AtomicFile::reserve(int64_t bytes) {
  if (bytes <= 0 || ::fallocate(descriptor_, 0, 0, bytes) == 0) return;
  // File systems that can't reserve say so in several ways; those writes fail when they come to it.
  if (errno != ENOSPC && errno != EDQUOT && errno != EFBIG) return;
  failure("{}: no room for its {} bytes: {}", path_, bytes, reason(errno));
}

/// The disk begins while the rest is made: what is left for `commit` to wait for is little. Only a request:
/// nothing depends on what becomes of it.
void AtomicFile::start_write_back(int64_t offset, int64_t bytes) {
  constexpr int64_t kTogether = int64_t{8} << 20;
  const auto start = [this] {
    ::sync_file_range(descriptor_, fresh_begin_, fresh_end_ - fresh_begin_, SYNC_FILE_RANGE_WRITE);
    fresh_begin_ = fresh_end_;
  };
  if (offset != fresh_end_) {
    if (fresh_end_ - fresh_begin_ >= kTogether / 8) start();
    fresh_begin_ = offset;
  }
  fresh_end_ = offset + bytes;
  if (fresh_end_ - fresh_begin_ >= kTogether) start();
}

void AtomicFile::write(const void* data, int64_t bytes) {
  write_at(size_, data, bytes);
}

void AtomicFile::write_at(int64_t offset, const void* data, int64_t bytes) {
  const char* from = static_cast<const char*>(data);
  const int64_t begin = offset;
  while (bytes > 0) {
    const int64_t block = std::min<int64_t>(bytes, int64_t{1} << 30);
    const ssize_t put = ::pwrite(descriptor_, from, static_cast<size_t>(block), offset);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      failure("{}: writing {} bytes at byte {} failed: {}", path_, bytes, offset,
              reason(put < 0 ? errno : ENOSPC));
    }
    from += put;
    offset += put;
    bytes -= put;
    size_ = std::max(size_, offset);
  }
  start_write_back(begin, offset - begin);
}

void AtomicFile::read_at(int64_t offset, void* out, int64_t bytes) const {
  char* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got =
        ::pread(descriptor_, to, static_cast<size_t>(std::min<int64_t>(bytes, 1 << 30)), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) failure("{}: reading back {} bytes at byte {} failed", path_, bytes, offset);
    to += got;
    offset += got;
    bytes -= got;
  }
}

void AtomicFile::commit() {
  if (::ftruncate(descriptor_, size_) != 0)
    failure("{}: can't be cut to {} bytes: {}", path_, size_, reason(errno));
  if (::fsync(descriptor_) != 0) {
    failure("{}: its {} bytes can't be forced to the disk: {}", path_, size_, reason(errno));
  }
  rename_output(partial_, path_, existing_);
  ::close(descriptor_);
  descriptor_ = -1;
  sync_folder(folder_of(path_));
}

void write_file(const std::string& path, std::string_view text, Existing existing) {
  AtomicFile file(path, existing);
  file.write(text);
  file.commit();
}

AtomicFolder::AtomicFolder(const std::string& path, Existing existing)
    : path_(without_trailing_slash(path)), existing_(existing) {
  check_output(path_, existing);
  if (fs::exists(fs::symlink_status(path_))) check_replaceable_folder(path_);
  partial_ = partial_name(path_);
  remove_abandoned(path_);
  if (::mkdir(partial_.c_str(), 0777) != 0) failure("{}: can't be created: {}", path_, reason(errno));
  lock_ = ::open(partial_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ >= 0) ::flock(lock_, LOCK_EX | LOCK_NB);
}

AtomicFolder::~AtomicFolder() {
  if (lock_ >= 0) ::close(lock_);
  if (partial_.empty()) return;
  std::error_code ignored;
  fs::remove_all(partial_, ignored);
}

void AtomicFolder::commit() {
  sync_folder(partial_);
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(partial_)) {
    if (entry.is_directory()) sync_folder(entry.path());
  }
  bool swapped = false;
  if (existing_ == Existing::replace && fs::exists(fs::symlink_status(path_))) {
    check_replaceable_folder(path_);
    swapped = ::renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) == 0;
    if (!swapped) {
      // A file system that can't exchange names: a moment without the folder, but never with half of one.
      const std::string old = path_ + ".replaced";
      if (::rename(path_.c_str(), old.c_str()) != 0)
        failure("{}: can't be replaced: {}", path_, reason(errno));
      rename_output(partial_, path_, Existing::refuse);
      fs::remove_all(old);
    }
  } else {
    rename_output(partial_, path_, Existing::refuse);
  }
  sync_folder(folder_of(path_));
  if (swapped) {
    std::error_code ignored;
    fs::remove_all(partial_, ignored);  // the old folder now bears the partial name
  }
  partial_.clear();
}

}  // namespace coppice
