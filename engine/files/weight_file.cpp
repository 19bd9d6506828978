#include "engine/files/weight_file.hpp"

#include <algorithm>
#include <filesystem>

#include "engine/files/input_file.hpp"
#include "engine/files/npz.hpp"
#include "engine/files/number_formats.hpp"
#include "engine/files/safetensors.hpp"
#include "engine/files/sparse_encoding.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

constexpr int64_t kBlockBytes = int64_t{1} << 20;  // of raw elements on their way to numbers or another file

void check_range(const std::string& path, const FileTensor& tensor, int64_t begin, int64_t count) {
  if (begin < 0 || count < 0 || begin > tensor.size() || count > tensor.size() - begin) {
    bad_input("{}: tensor \"{}\": elements [{}, {}) were asked for, but it has {}", path, tensor.name, begin,
              begin + count, tensor.size());
  }
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace

size_t WeightFile::index(std::string_view name) const {
  const auto found = positions_.find(name);
  if (found == positions_.end()) bad_input("{}: has no tensor \"{}\"", path_, name);
  return found->second;
}

void WeightFile::set_tensors(std::vector<FileTensor> tensors) {
  tensors_ = std::move(tensors);
  positions_.clear();
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (!positions_.emplace(tensors_[i].name, i).second) {
      bad_input("{}: has the tensor \"{}\" twice", path_, tensors_[i].name);
    }
  }
}

void WeightFile::read(size_t tensor, int64_t begin, int64_t count, void* out) const {
  check_range(path_, tensors_[tensor], begin, count);
  if (count > 0) read_elements(tensor, begin, count, out);
}

void WeightFile::read_f32(size_t tensor, int64_t begin, int64_t count, float* out) const {
  const DType type = tensors_[tensor].dtype;
  if (type == DType::f32) return read(tensor, begin, count, out);
  check_range(path_, tensors_[tensor], begin, count);
  const int64_t block = kBlockBytes / size_of(type);
  std::vector<char> raw(static_cast<size_t>(std::min(count, block) * size_of(type)));
  for (int64_t done = 0; done < count; done += block) {
    const int64_t part = std::min(block, count - done);
    read_elements(tensor, begin + done, part, raw.data());
    convert_to_f32(type, raw.data(), part, out + done);
  }
}

void WeightFile::read_f64(size_t tensor, int64_t begin, int64_t count, double* out) const {
  const DType type = tensors_[tensor].dtype;
  if (type == DType::f64) return read(tensor, begin, count, out);
  check_range(path_, tensors_[tensor], begin, count);
  const int64_t block = kBlockBytes / size_of(type);
  std::vector<char> raw(static_cast<size_t>(std::min(count, block) * size_of(type)));
  for (int64_t done = 0; done < count; done += block) {
    const int64_t part = std::min(block, count - done);
    read_elements(tensor, begin + done, part, raw.data());
    convert_to_f64(type, raw.data(), part, out + done);
  }
}

std::vector<float> WeightFile::read_f32(std::string_view name) const {
  const size_t tensor = index(name);
  std::vector<float> values(static_cast<size_t>(tensors_[tensor].size()));
  read_f32(tensor, 0, tensors_[tensor].size(), values.data());
  return values;
}

std::vector<double> WeightFile::read_f64(std::string_view name) const {
  const size_t tensor = index(name);
  std::vector<double> values(static_cast<size_t>(tensors_[tensor].size()));
  read_f64(tensor, 0, tensors_[tensor].size(), values.data());
  return values;
}

std::unique_ptr<WeightFile> open_weights(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    for (const char* name : {"weights.safetensors", "model.safetensors", "model.safetensors.index.json"}) {
      const fs::path inside = fs::path(path) / name;
      if (fs::exists(inside, ignored)) return open_weights(inside.string());
    }
    bad_input(
        "{}: is a folder without weights.safetensors, model.safetensors or model.safetensors.index.json",
        path);
  }
  if (ends_with(path, ".json")) return std::make_unique<ShardedSafetensors>(path);
  char magic[6] = {};
  {
    const InputFile file(path);
    if (file.size() >= 6) file.read_at(0, magic, 6);
  }
  const std::string_view start(magic, 6);
  if (start == "\x93NUMPY" || start.substr(0, 4) == "PK\x03\x04" || start.substr(0, 4) == "PK\x05\x06" ||
      ends_with(path, ".npz") || ends_with(path, ".npy")) {
    return std::make_unique<NpzFile>(path);
  }
  auto file = std::make_unique<SafetensorsFile>(path);
  if (is_sparse_encoded(*file)) return std::make_unique<SparseEncodedFile>(std::move(file));
  return file;
}

WeightWriter::WeightWriter(std::string path, std::vector<FileTensor> tensors)
    : path_(std::move(path)), tensors_(std::move(tensors)), written_(tensors_.size(), 0) {
  std::vector<std::string_view> names;
  for (const FileTensor& tensor : tensors_) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) bad_input("{}: the tensor \"{}\" is declared twice", path_, *twice);
}

size_t WeightWriter::index(std::string_view name) const {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (tensors_[i].name == name) return i;
  }
  bad_input("{}: no tensor \"{}\" was declared", path_, name);
}

void WeightWriter::write(size_t tensor, int64_t begin, int64_t count, const void* data) {
  check_range(path_, tensors_[tensor], begin, count);
  if (begin > written_[tensor]) {
    failure("{}: tensor \"{}\": written from element {}, leaving a hole after {}", path_,
            tensors_[tensor].name, begin, written_[tensor]);
  }
  if (count > 0) write_elements(tensor, begin, count, data);
  written_[tensor] = std::max(written_[tensor], begin + count);
}

void WeightWriter::write(std::string_view name, const void* data, int64_t count) {
  const size_t tensor = index(name);
  if (count != tensors_[tensor].size()) {
    bad_input("{}: tensor \"{}\": {} elements were given, but it has {}", path_, name, count,
              tensors_[tensor].size());
  }
  write(tensor, 0, count, data);
}

void WeightWriter::finish() {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (written_[i] != tensors_[i].size()) {
      failure("{}: tensor \"{}\": only {} of {} elements were written", path_, tensors_[i].name, written_[i],
              tensors_[i].size());
    }
  }
  finish_file();
}

std::unique_ptr<WeightWriter> create_weights(const std::string& path, std::vector<FileTensor> tensors,
                                             std::map<std::string, std::string> metadata, Existing existing) {
  if (ends_with(path, ".npz")) return std::make_unique<NpzWriter>(path, std::move(tensors), existing);
  return std::make_unique<SafetensorsWriter>(path, std::move(tensors), std::move(metadata), existing);
}

void copy_weights(const WeightFile& from, const std::string& to, Existing existing,
                  const BeforeBlock& before_block) {
  const std::unique_ptr<WeightWriter> writer = create_weights(to, from.tensors(), from.metadata(), existing);
  std::vector<char> raw(static_cast<size_t>(kBlockBytes));
  for (size_t i = 0; i < from.tensors().size(); ++i) {
    const FileTensor& tensor = from.tensors()[i];
    const size_t target = writer->index(tensor.name);
    const int64_t block = kBlockBytes / size_of(tensor.dtype);
    for (int64_t begin = 0; begin < tensor.size(); begin += block) {
      const int64_t count = std::min(block, tensor.size() - begin);
      if (before_block) before_block(count);
      from.read(i, begin, count, raw.data());
      writer->write(target, begin, count, raw.data());
    }
  }
  writer->finish();
}

}  // namespace coppice
