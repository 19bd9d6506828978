#include "engine/files/sparse_encoding.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "engine/files/strict_json.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

using nlohmann::json;

constexpr const char* kKey = "sparse_encoding";
constexpr int64_t kEscape = 255;
constexpr int64_t kCodeBlock = int64_t{1} << 16;  // bytes of code between marks, and in one read
constexpr int64_t kElementBlock = int64_t{1} << 17;

/// Calls visit(i) for every element of the block that is not +0.
template <class Word, class Visit>
void for_each_value(const char* block, int64_t count, const Visit& visit) {
  for (int64_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, block + i * static_cast<int64_t>(sizeof(Word)), sizeof(Word));
    if (word != 0) visit(i);
  }
}

template <class Visit>
void for_each_value(int64_t width, const char* block, int64_t count, const Visit& visit) {
  switch (width) {
    case 1:
      return for_each_value<uint8_t>(block, count, visit);
    case 2:
      return for_each_value<uint16_t>(block, count, visit);
    case 4:
      return for_each_value<uint32_t>(block, count, visit);
    default:
      return for_each_value<uint64_t>(block, count, visit);
  }
}

/// Calls visit(first element, elements, raw bytes) for consecutive blocks of a tensor.
template <class Visit>
void for_each_block(const WeightFile& file, size_t tensor, const BeforeBlock& before_block,
                    const Visit& visit) {
  const FileTensor& info = file.tensors()[tensor];
  std::vector<char> block(static_cast<size_t>(std::min(info.size(), kElementBlock) * size_of(info.dtype)));
  for (int64_t begin = 0; begin < info.size(); begin += kElementBlock) {
    const int64_t count = std::min(kElementBlock, info.size() - begin);
    if (before_block) before_block(count);
    file.read(tensor, begin, count, block.data());
    visit(begin, count, block.data());
  }
}

struct Counts {
  int64_t values = 0;
  int64_t deltas = 0;  // bytes of them
};

Counts count_both(const WeightFile& file, size_t tensor, const BeforeBlock& before_block) {
  Counts counts;
  int64_t position = 0;
  const int64_t width = size_of(file.tensors()[tensor].dtype);
  for_each_block(file, tensor, before_block, [&](int64_t begin, int64_t count, const char* block) {
    for_each_value(width, block, count, [&](int64_t i) {
      counts.deltas += (begin + i - position) / kEscape + 1;
      position = begin + i + 1;
      ++counts.values;
    });
  });
  counts.deltas += (file.tensors()[tensor].size() - position) / kEscape;
  return counts;
}

int64_t bitmap_bytes(int64_t size) {
  return size / 8 + (size % 8 != 0);
}

std::string values_name(const std::string& name) {
  return name + ".sparse_values";
}
std::string code_name(const std::string& name, std::string_view encoding) {
  return fmt::format("{}.sparse_{}", name, encoding);
}

/// Gathers bytes and hands them on in blocks.
class TensorStream {
 public:
  TensorStream(WeightWriter& writer, const std::string& name)
      : writer_(writer), tensor_(writer.index(name)), width_(size_of(writer.tensors()[tensor_].dtype)) {}
  void append(const char* bytes, int64_t count) {
    pending_.insert(pending_.end(), bytes, bytes + count);
    if (static_cast<int64_t>(pending_.size()) >= kCodeBlock) flush();
  }
  void append(int64_t byte) {
    const char value = static_cast<char>(byte);
    append(&value, 1);
  }
  void flush() {
    const int64_t count = static_cast<int64_t>(pending_.size()) / width_;
    writer_.write(tensor_, written_, count, pending_.data());
    written_ += count;
    pending_.clear();
  }

 private:
  WeightWriter& writer_;
  size_t tensor_;
  int64_t width_;
  int64_t written_ = 0;
  std::vector<char> pending_;
};

void write_bitmap(const WeightFile& from, size_t tensor, WeightWriter& writer,
                  const BeforeBlock& before_block) {
  const FileTensor& info = from.tensors()[tensor];
  const int64_t width = size_of(info.dtype);
  TensorStream values(writer, values_name(info.name)), code(writer, code_name(info.name, "bitmap"));
  for_each_block(from, tensor, before_block, [&](int64_t, int64_t count, const char* block) {
    static_assert(kElementBlock % 8 == 0, "a block starts on a whole byte of the bitmap");
    std::vector<char> bits(static_cast<size_t>(bitmap_bytes(count)), 0);
    for_each_value(width, block, count, [&](int64_t i) {
      bits[static_cast<size_t>(i / 8)] = static_cast<char>(bits[static_cast<size_t>(i / 8)] | 1 << (i % 8));
      values.append(block + i * width, width);
    });
    code.append(bits.data(), static_cast<int64_t>(bits.size()));
  });
  values.flush();
  code.flush();
}

void write_deltas(const WeightFile& from, size_t tensor, WeightWriter& writer,
                  const BeforeBlock& before_block) {
  const FileTensor& info = from.tensors()[tensor];
  const int64_t width = size_of(info.dtype);
  TensorStream values(writer, values_name(info.name)), code(writer, code_name(info.name, "deltas"));
  int64_t position = 0;
  for_each_block(from, tensor, before_block, [&](int64_t begin, int64_t count, const char* block) {
    for_each_value(width, block, count, [&](int64_t i) {
      for (; begin + i - position >= kEscape; position += kEscape) code.append(kEscape);
      code.append(begin + i - position);
      position = begin + i + 1;
      values.append(block + i * width, width);
    });
  });
  for (; info.size() - position >= kEscape; position += kEscape) code.append(kEscape);
  values.flush();
  code.flush();
}

void write_dense(const WeightFile& from, size_t tensor, WeightWriter& writer,
                 const BeforeBlock& before_block) {
  const size_t target = writer.index(from.tensors()[tensor].name);
  for_each_block(from, tensor, before_block, [&](int64_t begin, int64_t count, const char* block) {
    writer.write(target, begin, count, block);
  });
}

}  // namespace

int64_t count_values(const WeightFile& file, size_t tensor) {
  int64_t values = 0;
  const int64_t width = size_of(file.tensors()[tensor].dtype);
  for_each_block(file, tensor, {}, [&](int64_t, int64_t count, const char* block) {
    for_each_value(width, block, count, [&](int64_t) { ++values; });
  });
  return values;
}

SparseEncodingReport encode_sparse(const WeightFile& from, const std::string& to, Existing existing,
                                   const BeforeBlock& before_block) {
  check_output(to, existing);
  SparseEncodingReport report;
  std::set<std::string> names;
  for (const FileTensor& tensor : from.tensors()) names.insert(tensor.name);
  std::vector<FileTensor> stored;
  json described = json::object();
  for (size_t i = 0; i < from.tensors().size(); ++i) {
    const FileTensor& tensor = from.tensors()[i];
    const Counts counts = count_both(from, i, before_block);
    EncodedTensor encoded{tensor.name, "dense", tensor.size(), counts.values, tensor.bytes(), tensor.bytes()};
    const int64_t description = 256 + 2 * static_cast<int64_t>(tensor.name.size());
    const int64_t values = counts.values * size_of(tensor.dtype) + description;
    int64_t least = tensor.bytes();
    for (const auto& [encoding, code] :
         {std::pair<const char*, int64_t>{"bitmap", bitmap_bytes(tensor.size())},
          {"deltas", counts.deltas}}) {
      // A tensor that already bears one of our names stays as it is, and the one that would want it too.
      const bool clash =
          names.count(values_name(tensor.name)) + names.count(code_name(tensor.name, encoding)) > 0;
      if (clash || values + code >= least) continue;
      least = values + code;
      encoded.encoding = encoding;
      encoded.encoded_bytes = values - description + code;
    }
    if (encoded.encoding == "dense") {
      stored.push_back(tensor);
    } else {
      stored.push_back({values_name(tensor.name), tensor.dtype, {counts.values}});
      const int64_t code = encoded.encoded_bytes - counts.values * size_of(tensor.dtype);
      stored.push_back({code_name(tensor.name, encoded.encoding), DType::u8, {code}});
      described[tensor.name] = {
          {"encoding", encoded.encoding}, {"dtype", safetensors_name(tensor.dtype)}, {"shape", tensor.shape}};
    }
    report.dense_bytes += encoded.dense_bytes;
    report.encoded_bytes += encoded.encoded_bytes;
    report.tensors.push_back(std::move(encoded));
  }
  std::map<std::string, std::string> metadata = from.metadata();
  try {
    metadata[kKey] = json{{"schema", 1}, {"tensors", described}}.dump();
  } catch (const json::exception&) {
    bad_input("{}: a tensor's name is not valid UTF-8", from.path());
  }
  SafetensorsWriter writer(to, std::move(stored), std::move(metadata), existing);
  for (size_t i = 0; i < report.tensors.size(); ++i) {
    const std::string& encoding = report.tensors[i].encoding;
    if (encoding == "bitmap") {
      write_bitmap(from, i, writer, before_block);
    } else if (encoding == "deltas") {
      write_deltas(from, i, writer, before_block);
    } else {
      write_dense(from, i, writer, before_block);
    }
  }
  writer.finish();
  report.file_bytes = InputFile(to).size();
  return report;
}

bool is_sparse_encoded(const SafetensorsFile& file) {
  return file.metadata().count(kKey) > 0;
}

SparseEncodedFile::SparseEncodedFile(std::unique_ptr<SafetensorsFile> file)
    : WeightFile(file->path()), file_(std::move(file)) {
  metadata_ = file_->metadata();
  const auto found = metadata_.find(kKey);
  if (found == metadata_.end()) bad_input("{}: is not in the sparse encoding", path());
  const json description = parse_json(found->second, path() + ": sparse_encoding", 5);
  metadata_.erase(found);
  if (!description.is_object() || !description.contains("schema") || description["schema"] != 1) {
    bad_input("{}: sparse_encoding is of a schema other than 1", path());
  }
  if (!description.contains("tensors") || !description["tensors"].is_object()) {
    bad_input("{}: sparse_encoding has no object \"tensors\"", path());
  }
  std::vector<FileTensor> tensors;
  std::set<std::string> parts;  // tensors of the file that stand for others
  for (const auto& [name, value] : description["tensors"].items()) {
    const std::string what = fmt::format("{}: sparse tensor \"{}\"", path(), name);
    if (!value.is_object() || value.size() != 3 || !value.contains("encoding") || !value.contains("dtype") ||
        !value.contains("shape")) {
      bad_input("{}: expected an object of encoding, dtype and shape", what);
    }
    Part part;
    FileTensor tensor = parse_safetensors_type(name, value["dtype"], value["shape"], what);
    const std::string encoding = value["encoding"].is_string() ? value["encoding"].get<std::string>() : "";
    if (encoding != "bitmap" && encoding != "deltas") {
      bad_input("{}: its encoding is {}, expected \"bitmap\" or \"deltas\"", what, value["encoding"].dump());
    }
    part.encoding = encoding == "bitmap" ? Encoding::bitmap : Encoding::deltas;
    for (const std::string& needed : {values_name(name), code_name(name, encoding)}) {
      if (!file_->contains(needed)) bad_input("{}: \"{}\" is missing", what, needed);
      parts.insert(needed);
    }
    part.values = file_->index(values_name(name));
    part.code = file_->index(code_name(name, encoding));
    const FileTensor& values = file_->tensors()[part.values];
    const FileTensor& code = file_->tensors()[part.code];
    if (values.dtype != tensor.dtype || values.shape.size() != 1 || code.dtype != DType::u8 ||
        code.shape.size() != 1) {
      bad_input("{}: its values must be {} and its code U8, each of one dimension", what,
                safetensors_name(tensor.dtype));
    }
    if (part.encoding == Encoding::bitmap && code.size() != bitmap_bytes(tensor.size())) {
      bad_input("{}: its bitmap has {} bytes, expected {} for {} elements", what, code.size(),
                bitmap_bytes(tensor.size()), tensor.size());
    }
    // A byte of deltas covers 255 elements at most: no file may ask for more memory than that.
    if (part.encoding == Encoding::deltas && tensor.size() / kEscape > code.size()) {
      bad_input("{}: {} bytes of deltas can't reach the end of {} elements", what, code.size(),
                tensor.size());
    }
    if (values.size() > tensor.size()) {
      bad_input("{}: has {} values for {} elements", what, values.size(), tensor.size());
    }
    tensors.push_back(std::move(tensor));
    parts_.push_back(std::move(part));
  }
  for (size_t i = 0; i < file_->tensors().size(); ++i) {
    const FileTensor& tensor = file_->tensors()[i];
    if (parts.count(tensor.name) > 0) continue;
    tensors.push_back(tensor);
    Part part;
    part.values = i;
    parts_.push_back(std::move(part));
  }
  set_tensors(std::move(tensors));
}

SparseEncodedFile::~SparseEncodedFile() = default;

std::string_view SparseEncodedFile::encoding(size_t tensor) const {
  switch (parts_[tensor].encoding) {
    case Encoding::bitmap:
      return "bitmap";
    case Encoding::deltas:
      return "deltas";
    case Encoding::dense:
      break;
  }
  return "dense";
}

int64_t SparseEncodedFile::stored_bytes(size_t tensor) const {
  const Part& part = parts_[tensor];
  const int64_t values = file_->tensors()[part.values].bytes();
  return part.encoding == Encoding::dense ? values : values + file_->tensors()[part.code].bytes();
}

const std::vector<SparseEncodedFile::Mark>& SparseEncodedFile::marks(size_t tensor) const {
  const Part& part = parts_[tensor];
  const std::lock_guard lock(mutex_);
  if (!part.marks.empty()) return part.marks;
  const std::string what = fmt::format("{}: sparse tensor \"{}\"", path(), tensors()[tensor].name);
  const int64_t size = tensors()[tensor].size();
  const int64_t code_bytes = file_->tensors()[part.code].size();
  std::vector<Mark> marks{{}};
  Mark at;
  std::vector<uint8_t> code(static_cast<size_t>(std::min(kCodeBlock, code_bytes)));
  for (; at.code < code_bytes;) {
    if (at.code > 0) marks.push_back(at);
    const int64_t bytes = std::min(kCodeBlock, code_bytes - at.code);
    file_->read(part.code, at.code, bytes, code.data());
    for (int64_t i = 0; i < bytes; ++i) {
      const int64_t byte = code[static_cast<size_t>(i)];
      if (part.encoding == Encoding::bitmap) {
        at.value += std::popcount(static_cast<uint8_t>(byte));
        at.element += 8;
      } else {
        at.value += byte < kEscape;
        at.element += byte + (byte < kEscape);
      }
    }
    if (part.encoding == Encoding::bitmap && at.element > size) {
      const int unused = static_cast<int>(at.element - size);
      if ((code[static_cast<size_t>(bytes - 1)] >> (8 - unused)) != 0) {
        bad_input("{}: its bitmap marks elements behind the last", what);
      }
    }
    at.code += bytes;
    if (part.encoding == Encoding::deltas && at.element > size) {
      bad_input("{}: its deltas reach element {}, but it has {}", what, at.element - 1, size);
    }
  }
  if (part.encoding == Encoding::deltas && size - at.element >= kEscape) {
    bad_input("{}: its deltas stop at element {}, but it has {}", what, at.element, size);
  }
  if (at.value != file_->tensors()[part.values].size()) {
    bad_input("{}: its code marks {} values, but there are {}", what, at.value,
              file_->tensors()[part.values].size());
  }
  part.marks = std::move(marks);
  return part.marks;
}

void SparseEncodedFile::read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const {
  const Part& part = parts_[tensor];
  if (part.encoding == Encoding::dense) return file_->read(part.values, begin, count, out);
  std::memset(out, 0, static_cast<size_t>(count * size_of(tensors()[tensor].dtype)));
  if (part.encoding == Encoding::bitmap) {
    read_bitmap(tensor, begin, count, static_cast<char*>(out));
  } else {
    read_deltas(tensor, begin, count, static_cast<char*>(out));
  }
}

void SparseEncodedFile::read_bitmap(size_t tensor, int64_t begin, int64_t count, char* out) const {
  const Part& part = parts_[tensor];
  const int64_t width = size_of(tensors()[tensor].dtype), end = begin + count;
  Mark at = marks(tensor)[static_cast<size_t>(begin / 8 / kCodeBlock)];
  std::vector<uint8_t> code(static_cast<size_t>(std::min(kCodeBlock, bitmap_bytes(end) - at.code)));
  std::vector<char> values;
  for (; at.element < end;) {
    const int64_t bytes = std::min(static_cast<int64_t>(code.size()), bitmap_bytes(end) - at.code);
    file_->read(part.code, at.code, bytes, code.data());
    // Values of the block from the first that was asked for.
    int64_t before = 0, inside = 0;
    const auto each = [&](const auto& visit) {
      for (int64_t i = 0; i < bytes; ++i) {
        for (uint32_t bits = code[static_cast<size_t>(i)]; bits != 0; bits &= bits - 1) {
          visit(at.element + 8 * i + std::countr_zero(bits));
        }
      }
    };
    each([&](int64_t element) {
      before += element < begin;
      inside += element >= begin && element < end;
    });
    values.resize(static_cast<size_t>(inside * width));
    file_->read(part.values, at.value + before, inside, values.data());
    const char* next = values.data();
    each([&](int64_t element) {
      if (element < begin || element >= end) return;
      std::memcpy(out + (element - begin) * width, next, static_cast<size_t>(width));
      next += width;
    });
    at.code += bytes;
    at.element += 8 * bytes;
    at.value += before + inside;
  }
}

void SparseEncodedFile::read_deltas(size_t tensor, int64_t begin, int64_t count, char* out) const {
  const Part& part = parts_[tensor];
  const int64_t width = size_of(tensors()[tensor].dtype), end = begin + count;
  const std::vector<Mark>& known = marks(tensor);
  const auto after =
      std::upper_bound(known.begin(), known.end(), begin,
                       [](int64_t element, const Mark& mark) { return element < mark.element; });
  Mark at = *(after - 1);
  const int64_t code_bytes = file_->tensors()[part.code].size();
  std::vector<uint8_t> code(static_cast<size_t>(std::min(kCodeBlock, code_bytes - at.code)));
  std::vector<char> values;
  while (at.element < end && at.code < code_bytes) {
    const int64_t bytes = std::min(static_cast<int64_t>(code.size()), code_bytes - at.code);
    file_->read(part.code, at.code, bytes, code.data());
    int64_t before = 0, inside = 0;
    const auto each = [&](const auto& visit) {
      int64_t element = at.element;
      for (int64_t i = 0; i < bytes && element < end; ++i) {
        const int64_t byte = code[static_cast<size_t>(i)];
        element += byte;
        if (byte < kEscape) visit(element++);
      }
      return element;
    };
    const int64_t reached = each([&](int64_t element) {
      before += element < begin;
      inside += element >= begin && element < end;
    });
    values.resize(static_cast<size_t>(inside * width));
    file_->read(part.values, at.value + before, inside, values.data());
    const char* next = values.data();
    each([&](int64_t element) {
      if (element < begin || element >= end) return;
      std::memcpy(out + (element - begin) * width, next, static_cast<size_t>(width));
      next += width;
    });
    at.code += bytes;
    at.element = reached;
    at.value += before + inside;
  }
}

}  // namespace coppice
