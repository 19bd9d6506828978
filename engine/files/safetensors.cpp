#include "engine/files/safetensors.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/files/sparse_encoding.hpp"
#include "engine/files/strict_json.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

using nlohmann::json;

struct NamedType {
  const char* name;
  DType type;
};
constexpr NamedType kTypes[] = {{"F64", DType::f64},     {"F32", DType::f32}, {"F16", DType::f16},
                                {"BF16", DType::bf16},   {"I64", DType::i64}, {"I32", DType::i32},
                                {"I16", DType::i16},     {"I8", DType::i8},   {"U64", DType::u64},
                                {"U32", DType::u32},     {"U16", DType::u16}, {"U8", DType::u8},
                                {"BOOL", DType::boolean}};

DType parse_type(const json& value, const std::string& what) {
  if (!value.is_string()) bad_input("{}: dtype is {}, expected a string", what, value.type_name());
  for (const NamedType& known : kTypes) {
    if (value.get_ref<const std::string&>() == known.name) return known.type;
  }
  bad_input("{}: dtype \"{}\" is unknown; known are F64, F32, F16, BF16, I64 … U8 and BOOL", what,
            value.get_ref<const std::string&>());
}

/// A non-negative whole number; anything else (fractions, exponents, negatives, beyond 63 bits) is refused.
int64_t parse_count(const json& value, const std::string& what, const char* field) {
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    bad_input("{}: {} holds {}, expected whole numbers from 0", what, field,
              value.is_number() ? value.dump() : value.type_name());
  }
  return static_cast<int64_t>(value.get<uint64_t>());
}

struct Entry {
  FileTensor tensor;
  int64_t begin = 0;
  int64_t end = 0;
};

Entry parse_entry(const std::string& path, const std::string& name, const json& value) {
  const std::string what = fmt::format("{}: tensor \"{}\"", path, name);
  if (!value.is_object()) bad_input("{}: is described by {}, expected an object", what, value.type_name());
  for (const auto& [field, ignored] : value.items()) {
    if (field != "dtype" && field != "shape" && field != "data_offsets") {
      bad_input("{}: has an unknown field \"{}\"", what, field);
    }
  }
  for (const char* field : {"dtype", "shape", "data_offsets"}) {
    if (!value.contains(field)) bad_input("{}: has no {}", what, field);
  }
  Entry entry;
  entry.tensor = parse_safetensors_type(name, value["dtype"], value["shape"], what);
  const int64_t bytes = entry.tensor.bytes();
  const json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) {
    bad_input("{}: data_offsets are not a list of two numbers", what);
  }
  entry.begin = parse_count(offsets[0], what, "data_offsets");
  entry.end = parse_count(offsets[1], what, "data_offsets");
  if (entry.end < entry.begin || entry.end - entry.begin != bytes) {
    bad_input("{}: data_offsets {} hold {} bytes, but {} of shape {} takes {}", what, offsets.dump(),
              entry.end - entry.begin, safetensors_name(entry.tensor.dtype), value["shape"].dump(), bytes);
  }
  return entry;
}

int64_t header_length(const InputFile& file) {
  if (file.size() < 8) {
    bad_input("{}: is not a safetensors file: it has {} bytes, and the length of the header takes 8",
              file.path(), file.size());
  }
  uint64_t length = 0;
  file.read_at(0, &length, 8);
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeader)) {
    bad_input("{}: is not a safetensors file: its header would have {} bytes, more than {}", file.path(),
              length, kMaxSafetensorsHeader);
  }
  if (static_cast<int64_t>(length) > file.size() - 8) {
    bad_input("{}: ends inside its header: {} bytes after the first 8, expected {}", file.path(),
              file.size() - 8, length);
  }
  return static_cast<int64_t>(length);
}

}  // namespace

const char* safetensors_name(DType type) {
  for (const NamedType& known : kTypes) {
    if (known.type == type) return known.name;
  }
  return "?";
}

FileTensor parse_safetensors_type(const std::string& name, const json& dtype, const json& shape,
                                  const std::string& what) {
  FileTensor tensor;
  tensor.name = name;
  tensor.dtype = parse_type(dtype, what);
  if (!shape.is_array()) bad_input("{}: shape is {}, expected a list", what, shape.type_name());
  int64_t bytes = size_of(tensor.dtype);
  bool overflow = false;
  for (const json& dimension : shape) {
    const int64_t d = parse_count(dimension, what, "shape");
    tensor.shape.push_back(d);
    overflow = overflow || __builtin_mul_overflow(bytes, d, &bytes);
  }
  // A 0 behind dimensions whose product overflows still makes an empty tensor, but no honest file says so.
  if (overflow) bad_input("{}: shape {} overflows 64 bits", what, shape.dump());
  return tensor;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : WeightFile(path), file_(path) {
  const int64_t length = header_length(file_);
  std::string text(static_cast<size_t>(length), '\0');
  file_.read_at(8, text.data(), length);
  if (text.empty() || text[0] != '{') {
    bad_input("{}: is not a safetensors file: the header does not start with '{{'", path);
  }
  json header = parse_json(text, path + ": header", 3);
  text.clear();
  text.shrink_to_fit();

  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") {
      entries.push_back(parse_entry(path, name, value));
      continue;
    }
    if (!value.is_object()) bad_input("{}: __metadata__ is {}, expected an object", path, value.type_name());
    for (const auto& [key, string] : value.items()) {
      if (!string.is_string()) {
        bad_input("{}: __metadata__ \"{}\" is {}, expected a string", path, key, string.type_name());
      }
      metadata_[key] = string.get<std::string>();
    }
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  const int64_t data = data_ = 8 + length;
  const int64_t available = file_.size() - data;
  int64_t expected = 0;
  std::vector<FileTensor> tensors;
  tensors.reserve(entries.size());
  offsets_.reserve(entries.size());
  for (Entry& entry : entries) {
    const std::string& name = entry.tensor.name;
    if (entry.end > available) {
      bad_input("{}: tensor \"{}\": ends at byte {} of the data, which has {}", path, name, entry.end,
                available);
    }
    if (entry.begin < expected) {
      bad_input("{}: tensor \"{}\": starts at byte {}, inside another tensor that ends at {}", path, name,
                entry.begin, expected);
    }
    if (entry.begin > expected) {
      bad_input("{}: tensor \"{}\": starts at byte {}, leaving a hole after byte {}", path, name, entry.begin,
                expected);
    }
    expected = entry.end;
    offsets_.push_back(data + entry.begin);
    tensors.push_back(std::move(entry.tensor));
  }
  if (expected != available) {
    bad_input("{}: {} bytes of data, but the tensors take {}: {} trailing bytes", path, available, expected,
              available - expected);
  }
  set_tensors(std::move(tensors));
}

std::string SafetensorsFile::header_bytes() const {
  std::string bytes(static_cast<size_t>(data_), '\0');
  file_.read_at(0, bytes.data(), data_);
  return bytes;
}

void SafetensorsFile::read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const {
  const int64_t width = size_of(tensors()[tensor].dtype);
  file_.read_at(offsets_[tensor] + begin * width, out, count * width);
}

ShardedSafetensors::ShardedSafetensors(const std::string& index_path) : WeightFile(index_path) {
  const json index = parse_json(read_file(index_path), index_path + ": index", 8);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    bad_input("{}: has no object \"weight_map\", so it is no index of safetensors shards", index_path);
  }
  const std::filesystem::path folder = std::filesystem::path(index_path).parent_path();
  std::map<std::string, size_t> numbers;  // of shards by name: opened in the order of names
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string()) {
      bad_input("{}: weight_map \"{}\" is {}, expected a file name", index_path, tensor, file.type_name());
    }
    const std::string& name = file.get_ref<const std::string&>();
    if (name.empty() || name == "." || name == ".." ||
        name.find_first_of(std::string_view("/\\\0", 3)) != name.npos) {
      bad_input("{}: weight_map \"{}\" names \"{}\", expected a file in the same folder", index_path, tensor,
                name);
    }
    numbers[name] = 0;
  }
  std::vector<FileTensor> tensors;
  for (auto& [name, number] : numbers) {
    number = shards_.size();
    names_.push_back(name);
    auto file = std::make_unique<SafetensorsFile>((folder / name).string());
    if (is_sparse_encoded(*file)) {
      shards_.push_back(std::make_unique<SparseEncodedFile>(std::move(file)));
    } else {
      shards_.push_back(std::move(file));
    }
    const WeightFile& shard = *shards_.back();
    for (size_t i = 0; i < shard.tensors().size(); ++i) {
      const FileTensor& tensor = shard.tensors()[i];
      const auto entry = index["weight_map"].find(tensor.name);
      if (entry == index["weight_map"].end() || entry->get_ref<const std::string&>() != name) {
        bad_input("{}: {} holds tensor \"{}\", which weight_map does not place there", index_path, name,
                  tensor.name);
      }
      tensors.push_back(tensor);
      places_.emplace_back(number, i);
    }
  }
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    const WeightFile& shard = *shards_[numbers.at(file.get<std::string>())];
    if (!shard.contains(tensor)) {
      bad_input("{}: weight_map places tensor \"{}\" in {}, which does not hold it", index_path, tensor,
                file.get<std::string>());
    }
  }
  if (index.contains("metadata") && index["metadata"].is_object()) {
    for (const auto& [key, value] : index["metadata"].items()) {
      metadata_[key] = value.is_string() ? value.get<std::string>() : value.dump();
    }
  }
  set_tensors(std::move(tensors));
}

int64_t ShardedSafetensors::stored_bytes(size_t tensor) const {
  return shards_[places_[tensor].first]->stored_bytes(places_[tensor].second);
}

void ShardedSafetensors::read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const {
  const auto& [shard, position] = places_[tensor];
  shards_[shard]->read(position, begin, count, out);
}

namespace {

std::vector<FileTensor> in_file_order(std::vector<FileTensor> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const FileTensor& a, const FileTensor& b) {
    const int64_t width_a = size_of(a.dtype), width_b = size_of(b.dtype);
    return width_a != width_b ? width_a > width_b : a.name < b.name;
  });
  return tensors;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<FileTensor> tensors,
                                     std::map<std::string, std::string> metadata, Existing existing)
    : WeightWriter(path, in_file_order(std::move(tensors))), file_(path, existing) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t end = 0;
  for (const FileTensor& tensor : this->tensors()) {
    if (tensor.name == "__metadata__") bad_input("{}: no tensor may be named __metadata__", path);
    const int64_t begin = end;
    end += tensor.bytes();
    header[tensor.name] = {
        {"dtype", safetensors_name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
    offsets_.push_back(begin);
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception&) {
    bad_input("{}: a tensor's name or a metadata string is not valid UTF-8", path);
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeader)) {
    bad_input("{}: its header would have {} bytes, more than {}", path, length, kMaxSafetensorsHeader);
  }
  for (int64_t& offset : offsets_) offset += 8 + static_cast<int64_t>(length);
  file_.reserve(8 + static_cast<int64_t>(length) + end);
  file_.write(&length, 8);
  file_.write(text);
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, const SafetensorsFile& like, Existing existing)
    : WeightWriter(path, like.tensors()), file_(path, existing), offsets_(like.offsets()) {
  const std::string header = like.header_bytes();
  int64_t bytes = static_cast<int64_t>(header.size());
  for (const FileTensor& tensor : like.tensors()) bytes += tensor.bytes();
  file_.reserve(bytes);
  file_.write(header);
}

void SafetensorsWriter::write_elements(size_t tensor, int64_t begin, int64_t count, const void* data) {
  const int64_t width = size_of(tensors()[tensor].dtype);
  file_.write_at(offsets_[tensor] + begin * width, data, count * width);
}

void SafetensorsWriter::finish_file() {
  file_.commit();
}

}  // namespace coppice
