#include "tests/fuzz/targets.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engine/files/npz.hpp"
#include "engine/files/safetensors.hpp"
#include "engine/files/sparse_encoding.hpp"
#include "engine/files/weight_file.hpp"
#include "kernels/error.hpp"

namespace coppice::fuzz {
namespace {

[[noreturn]] void broken(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

/// Bytes under a name, without a disk.
class MemoryFile {
 public:
  MemoryFile(const void* data, size_t size) : descriptor_(::memfd_create("fuzz", 0)) {
    const char* from = static_cast<const char*>(data);
    for (size_t done = 0; done < size;) {
      const ssize_t put = ::write(descriptor_, from + done, size - done);
      if (put <= 0) broken("no memory for the file");
      done += static_cast<size_t>(put);
    }
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

/// Reads everything forwards, then some again from the start; what is honest about a size larger than the
/// file (the sparse encoding) only in part.
void read_all(const WeightFile& file) {
  std::vector<float> values(1000);
  std::vector<char> raw(8000);
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const int64_t size = std::min<int64_t>(file.tensors()[i].size(), 20'000);
    for (int64_t begin = 0; begin < size; begin += 1000) {
      file.read_f32(i, begin, std::min<int64_t>(1000, size - begin), values.data());
    }
    file.read(i, 0, std::min<int64_t>(size, 1000), raw.data());
    if (file.stored_bytes(i) < 0) broken("a tensor takes less than no bytes");
  }
}

template <class Open>
void expect_answer(const Open& open) {
  try {
    const auto file = open();
    read_all(*file);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::bad_input) broken(error.what());
  }
}

/// Two tensors, a [2] and b [3], of f32.
std::string whole_shard() {
  std::string header =
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[3],"data_offsets":[8,20]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i));
  return bytes + header + std::string(20, '\x3f');
}

}  // namespace

void safetensors(const uint8_t* data, size_t size) {
  const MemoryFile file(data, size);
  expect_answer([&] { return std::make_unique<SafetensorsFile>(file.path()); });
}

void npz(const uint8_t* data, size_t size) {
  const MemoryFile file(data, size);
  expect_answer([&] { return std::make_unique<NpzFile>(file.path()); });
}

void sparse(const uint8_t* data, size_t size) {
  const MemoryFile file(data, size);
  expect_answer([&]() -> std::unique_ptr<WeightFile> {
    auto plain = std::make_unique<SafetensorsFile>(file.path());
    if (!is_sparse_encoded(*plain)) return plain;
    return std::make_unique<SparseEncodedFile>(std::move(plain));
  });
}

void shards(const uint8_t* data, size_t size) {
  // The index names shards in its own folder, so it needs one.
  struct Folder {
    // In memory where there is such a place: a hunt writes it a million times.
    std::string name = std::filesystem::exists("/dev/shm")
                           ? "/dev/shm/coppice-fuzz-XXXXXX"
                           : (std::filesystem::temp_directory_path() / "coppice-fuzz-XXXXXX").string();
    Folder() {
      if (::mkdtemp(name.data()) == nullptr) broken("no scratch folder");
    }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(name, ignored);
    }
  };
  static const Folder scratch;
  const std::string& folder = scratch.name;
  const std::string shard = folder + "/s.safetensors", index = folder + "/i.json";
  const auto put = [](const std::string& path, const void* from, size_t bytes) {
    std::FILE* file = std::fopen(path.c_str(), "wb");
    if (file == nullptr || (bytes != 0 && std::fwrite(from, 1, bytes, file) != bytes)) broken(path);
    std::fclose(file);
  };
  const std::string whole = whole_shard();
  if (!std::filesystem::exists(shard)) put(shard, whole.data(), whole.size());
  put(index, data, size);
  expect_answer([&] { return std::make_unique<ShardedSafetensors>(index); });
}

}  // namespace coppice::fuzz
