#include "engine/files/input_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "kernels/error.hpp"

namespace coppice {

InputFile::InputFile(const std::string& path) : path_(path) {
  // O_NONBLOCK: opening a named pipe must fail below, not wait for a writer.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) {
    const int code = errno;
    if (code == ENOENT || code == ENOTDIR) bad_input("{}: there is no such file", path);
    bad_input("{}: can't be opened: {}", path, std::generic_category().message(code));
  }
  struct stat status {};
  const bool known = ::fstat(descriptor_, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    descriptor_ = -1;
    bad_input("{}: is {}, expected a regular file", path,
              known && S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe");
  }
  size_ = status.st_size;
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)), size_(other.size_) {}

void InputFile::read_at(int64_t offset, void* out, int64_t bytes) const {
  char* to = static_cast<char*>(out);
  while (bytes > 0) {
    const int64_t block =
        std::min<int64_t>(bytes, int64_t{1} << 30);  // one call moves at most 2 GiB on Linux
    const ssize_t got = ::pread(descriptor_, to, static_cast<size_t>(block), offset);
    if (got < 0) {
      if (errno == EINTR) continue;
      failure("{}: reading at byte {} failed: {}", path_, offset, std::generic_category().message(errno));
    }
    if (got == 0) bad_input("{}: ends at byte {}, expected {} bytes more", path_, offset, bytes);
    to += got;
    offset += got;
    bytes -= got;
  }
}

std::string read_file(const std::string& path) {
  const InputFile file(path);
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read_at(0, text.data(), file.size());
  return text;
}

}  // namespace coppice
