#include "engine/files/npz.hpp"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "kernels/error.hpp"

namespace coppice {
namespace {

// The zip format: APPNOTE.TXT of PKWARE. A member is a local header and its bytes; the central directory at
// the end lists all members again and is what counts.
constexpr uint32_t kLocalHeader = 0x0403'4b50, kCentralHeader = 0x0201'4b50, kEnd = 0x0605'4b50;
constexpr uint32_t kZip64End = 0x0606'4b50, kZip64Locator = 0x0706'4b50;
constexpr int64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kZip64EndBytes = 56,
                  kLocatorBytes = 20;
constexpr uint32_t kMax32 = 0xffff'ffff;
constexpr uint16_t kDate1980 = 0x21;  // 1 January 1980, the first day that the format knows

constexpr int64_t kBlock = int64_t{1} << 18;
constexpr int64_t kMaxNpyHeader = 1 << 20;

template <class T>
T load(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
void append(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

/// The Python literal in a .npy header: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class NpyHeader {
 public:
  NpyHeader(std::string_view text, std::string what) : text_(text), what_(std::move(what)) { parse(); }

  DType dtype = DType::f32;
  bool fortran = false;
  std::vector<int64_t> shape;
  int64_t bytes = 0;  // of all elements

 private:
  [[noreturn]] void malformed(const char* expected) const {
    bad_input("{}: malformed .npy header at byte {}: expected {}", what_, at_, expected);
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }
  bool take(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::string_view string() {
    skip_space();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') malformed("a quoted string (structured types are not weights)");
    const size_t end = text_.find(quote, at_ + 1);
    if (end == text_.npos) malformed("a closing quote");
    const std::string_view value = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return value;
  }
  bool boolean() {
    skip_space();
    for (const bool value : {true, false}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return value;
      }
    }
    malformed("True or False");
  }
  int64_t number() {
    skip_space();
    const size_t first = at_;
    int64_t value = 0;
    bool overflow = false;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      overflow = overflow || __builtin_mul_overflow(value, int64_t{10}, &value) ||
                 __builtin_add_overflow(value, int64_t{text_[at_] - '0'}, &value);
      ++at_;
    }
    if (at_ == first) malformed("a whole number from 0");
    if (overflow) bad_input("{}: a dimension overflows 64 bits", what_);
    if (at_ < text_.size() && text_[at_] == 'L') ++at_;  // written by Python 2
    return value;
  }

  void parse() {
    bool has_type = false, has_order = false, has_shape = false;
    if (!take('{')) malformed("'{'");
    while (!take('}')) {
      const std::string_view key = string();
      if (!take(':')) malformed("':'");
      if (key == "descr" && !has_type) {
        parse_type(string());
        has_type = true;
      } else if (key == "fortran_order" && !has_order) {
        fortran = boolean();
        has_order = true;
      } else if (key == "shape" && !has_shape) {
        parse_shape();
        has_shape = true;
      } else {
        bad_input("{}: .npy header has the key '{}' {}", what_, key,
                  key == "descr" || key == "fortran_order" || key == "shape" ? "twice" : "too");
      }
      if (!take(',')) {
        if (!take('}')) malformed("',' or '}'");
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) malformed("nothing behind '}'");
    if (!has_type || !has_order || !has_shape) {
      bad_input("{}: .npy header lacks {}", what_,
                !has_type    ? "descr"
                : !has_order ? "fortran_order"
                             : "shape");
    }
    bytes = size_of(dtype);
    bool overflow = false;
    for (int64_t d : shape) overflow = overflow || __builtin_mul_overflow(bytes, d, &bytes);
    if (overflow) bad_input("{}: the shape's product overflows 64 bits", what_);
  }

  void parse_shape() {
    if (!take('(')) malformed("'('");
    while (!take(')')) {
      shape.push_back(number());
      if (!take(',')) {
        if (!take(')')) malformed("',' or ')'");
        break;
      }
    }
  }

  void parse_type(std::string_view descr) {
    struct Named {
      std::string_view code;
      DType type;
    };
    constexpr Named kCodes[] = {{"f8", DType::f64}, {"f4", DType::f32}, {"f2", DType::f16},
                                {"i8", DType::i64}, {"i4", DType::i32}, {"i2", DType::i16},
                                {"i1", DType::i8},  {"u8", DType::u64}, {"u4", DType::u32},
                                {"u2", DType::u16}, {"u1", DType::u8},  {"b1", DType::boolean}};
    if (!descr.empty() && descr[0] == '>' && descr != ">i1" && descr != ">u1" && descr != ">b1") {
      bad_input("{}: type '{}' is big-endian; save it as little-endian", what_, descr);
    }
    const bool prefixed =
        !descr.empty() && (descr[0] == '<' || descr[0] == '|' || descr[0] == '=' || descr[0] == '>');
    for (const Named& known : kCodes) {
      if (prefixed && descr.substr(1) == known.code) {
        dtype = known.type;
        return;
      }
    }
    bad_input("{}: type '{}' is not supported; expected float16, 32 or 64, an integer type, or bool", what_,
              descr);
  }

  std::string_view text_;
  std::string what_;
  size_t at_ = 0;
};

/// Magic string, version and length of the .npy header: where the literal starts and how long it is.
struct NpyPrefix {
  int64_t start = 0;
  int64_t length = 0;
};

NpyPrefix parse_npy_prefix(const char* bytes, int64_t available, const std::string& what) {
  if (available < 10 || std::memcmp(bytes, "\x93NUMPY", 6) != 0) bad_input("{}: is not a .npy array", what);
  const int major = static_cast<uint8_t>(bytes[6]);
  if (major < 1 || major > 3) bad_input("{}: .npy format {} is unknown; known are 1, 2 and 3", what, major);
  if (major == 1) return {10, load<uint16_t>(bytes + 8)};
  if (available < 12) bad_input("{}: ends inside its .npy header", what);
  return {12, load<uint32_t>(bytes + 8)};
}

}  // namespace

/// One member read from its start to its end, inflated where needed, checksummed on the way.
class NpzFile::Stream {
 public:
  Stream(const InputFile& file, const Member& member, std::string what)
      : file_(file), member_(member), what_(std::move(what)) {
    if (member_.deflated) {
      input_.resize(static_cast<size_t>(std::min(kBlock, std::max<int64_t>(member_.compressed, 1))));
      if (::inflateInit2(&inflate_, -MAX_WBITS) != Z_OK) failure("{}: zlib can't start", what_);
      started_ = true;
    }
  }
  ~Stream() {
    if (started_) ::inflateEnd(&inflate_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  int64_t position() const { return position_; }  // in the uncompressed member

  void read(void* out, int64_t bytes) {
    if (bytes > member_.uncompressed - position_) bad_input("{}: ends before its last element", what_);
    if (member_.deflated) {
      inflate_next(static_cast<char*>(out), bytes);
    } else {
      file_.read_at(member_.offset + position_, out, bytes);
    }
    checksum(out, bytes);
    position_ += bytes;
    if (position_ == member_.uncompressed) finish();
  }

  void skip_to(int64_t position) {
    std::vector<char> dropped(static_cast<size_t>(std::min(kBlock, position - position_)));
    while (position_ < position) {
      read(dropped.data(), std::min(static_cast<int64_t>(dropped.size()), position - position_));
    }
  }

 private:
  void checksum(const void* data, int64_t bytes) {
    const Bytef* from = static_cast<const Bytef*>(data);
    while (bytes > 0) {
      const int64_t part = std::min<int64_t>(bytes, int64_t{1} << 30);
      checksum_ = ::crc32(checksum_, from, static_cast<uInt>(part));
      from += part;
      bytes -= part;
    }
  }

  void inflate_next(char* out, int64_t bytes) {
    while (bytes > 0) {
      refill();
      const int64_t part = std::min<int64_t>(bytes, int64_t{1} << 30);
      inflate_.next_out = reinterpret_cast<Bytef*>(out);
      inflate_.avail_out = static_cast<uInt>(part);
      const uInt before_in = inflate_.avail_in;
      const int code = ::inflate(&inflate_, Z_NO_FLUSH);
      const int64_t made = part - inflate_.avail_out;
      ended_ = code == Z_STREAM_END;
      if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
        bad_input("{}: its compressed data are damaged", what_);
      out += made;
      bytes -= made;
      if (bytes > 0 && (ended_ || (made == 0 && before_in == inflate_.avail_in))) {
        bad_input("{}: its compressed data end early", what_);
      }
    }
  }

  void refill() {
    if (inflate_.avail_in > 0) return;
    const int64_t part = std::min(static_cast<int64_t>(input_.size()), member_.compressed - taken_);
    file_.read_at(member_.offset + taken_, input_.data(), part);
    taken_ += part;
    inflate_.next_in = reinterpret_cast<Bytef*>(input_.data());
    inflate_.avail_in = static_cast<uInt>(part);
  }

  void finish() {
    if (member_.deflated && !ended_) {  // the end-of-stream mark may stand behind the last byte
      char none = 0;
      refill();
      inflate_.next_out = reinterpret_cast<Bytef*>(&none);
      inflate_.avail_out = 1;
      ended_ = ::inflate(&inflate_, Z_NO_FLUSH) == Z_STREAM_END && inflate_.avail_out == 1;
    }
    if (member_.deflated && (!ended_ || inflate_.avail_in > 0 || taken_ != member_.compressed)) {
      bad_input("{}: its compressed data hold more than the {} bytes declared", what_, member_.uncompressed);
    }
    if (member_.checked && checksum_ != member_.checksum) {
      bad_input("{}: its checksum is {:08x}, but the archive says {:08x}", what_, checksum_,
                member_.checksum);
    }
  }

  const InputFile& file_;
  const Member& member_;
  std::string what_;
  std::vector<char> input_;
  z_stream inflate_{};
  bool started_ = false;
  bool ended_ = false;
  int64_t taken_ = 0;     // compressed bytes
  int64_t position_ = 0;  // uncompressed bytes
  uint32_t checksum_ = 0;
};

struct NpzFile::Cache {
  std::mutex mutex;
  size_t tensor = 0;               // that the stream or the elements belong to
  std::unique_ptr<Stream> stream;  // of a deflated member, or following the reads of a stored one
  std::vector<char> elements;      // of a Fortran-ordered tensor, in its own order
};

namespace {

/// Fields of the central directory that count.
struct CentralEntry {
  NpzFile::Member member;
  int64_t local_header = 0;
};

struct Directory {
  int64_t offset = 0;
  int64_t bytes = 0;
  int64_t entries = 0;
};

Directory find_directory(const InputFile& file) {
  const std::string& path = file.path();
  // The record at the end may be followed by a comment of up to 64 KiB, which must reach exactly to the end.
  const int64_t tail_bytes = std::min<int64_t>(file.size(), kEndBytes + 0xffff);
  std::string tail(static_cast<size_t>(tail_bytes), '\0');
  file.read_at(file.size() - tail_bytes, tail.data(), tail_bytes);
  int64_t at = tail_bytes - kEndBytes;
  while (at >= 0 && !(load<uint32_t>(tail.data() + at) == kEnd &&
                      at + kEndBytes + load<uint16_t>(tail.data() + at + 20) == tail_bytes)) {
    --at;
  }
  if (at < 0) bad_input("{}: is not a whole .npz file: it has no central directory at its end", path);
  const char* end = tail.data() + at;
  const int64_t end_offset = file.size() - tail_bytes + at;
  Directory directory;
  directory.entries = load<uint16_t>(end + 10);
  directory.bytes = load<uint32_t>(end + 12);
  directory.offset = load<uint32_t>(end + 16);
  if (load<uint16_t>(end + 4) != 0 || load<uint16_t>(end + 6) != 0)
    bad_input("{}: spans several disks", path);
  int64_t directory_end = end_offset;
  if (directory.entries == 0xffff || directory.bytes == kMax32 || directory.offset == kMax32) {
    char locator[kLocatorBytes], record[kZip64EndBytes];
    if (end_offset < kLocatorBytes) bad_input("{}: its zip64 directory is missing", path);
    file.read_at(end_offset - kLocatorBytes, locator, kLocatorBytes);
    const uint64_t where = load<uint64_t>(locator + 8);
    if (load<uint32_t>(locator) != kZip64Locator ||
        where > static_cast<uint64_t>(std::max<int64_t>(0, end_offset - kLocatorBytes - kZip64EndBytes))) {
      bad_input("{}: its zip64 directory is missing", path);
    }
    file.read_at(static_cast<int64_t>(where), record, kZip64EndBytes);
    if (load<uint32_t>(record) != kZip64End) bad_input("{}: its zip64 directory is missing", path);
    const uint64_t entries = load<uint64_t>(record + 32), bytes = load<uint64_t>(record + 40),
                   offset = load<uint64_t>(record + 48);
    const uint64_t size = static_cast<uint64_t>(file.size());
    if (entries > size || bytes > size || offset > size)
      bad_input("{}: its central directory lies about its place", path);
    directory = {static_cast<int64_t>(offset), static_cast<int64_t>(bytes), static_cast<int64_t>(entries)};
    directory_end = static_cast<int64_t>(where);
  }
  if (directory.offset + directory.bytes != directory_end) {
    bad_input("{}: its central directory should end at byte {}, but it says {} + {}", path, directory_end,
              directory.offset, directory.bytes);
  }
  return directory;
}

/// Zip64 values stand in an extra field, in this order, for those 32-bit fields that are all ones.
void read_zip64(std::string_view extra, const std::string& what, uint64_t& uncompressed, uint64_t& compressed,
                uint64_t& local_header) {
  while (extra.size() >= 4) {
    const uint16_t id = load<uint16_t>(extra.data()), bytes = load<uint16_t>(extra.data() + 2);
    if (bytes > extra.size() - 4) break;
    if (id == 1) {
      std::string_view values = extra.substr(4, bytes);
      for (uint64_t* field : {&uncompressed, &compressed, &local_header}) {
        if (*field != kMax32) continue;
        if (values.size() < 8) bad_input("{}: its zip64 field is too short", what);
        *field = load<uint64_t>(values.data());
        values.remove_prefix(8);
      }
      return;
    }
    extra.remove_prefix(4 + static_cast<size_t>(bytes));
  }
}

std::vector<CentralEntry> read_directory(const InputFile& file) {
  const std::string& path = file.path();
  const Directory directory = find_directory(file);
  std::string text(static_cast<size_t>(directory.bytes), '\0');
  file.read_at(directory.offset, text.data(), directory.bytes);
  std::vector<CentralEntry> entries;
  std::string_view rest = text;
  while (!rest.empty()) {
    if (static_cast<int64_t>(rest.size()) < kCentralBytes || load<uint32_t>(rest.data()) != kCentralHeader) {
      bad_input("{}: its central directory is damaged at member {}", path, entries.size());
    }
    const size_t name_bytes = load<uint16_t>(rest.data() + 28),
                 extra_bytes = load<uint16_t>(rest.data() + 30),
                 comment_bytes = load<uint16_t>(rest.data() + 32);
    const size_t whole = kCentralBytes + name_bytes + extra_bytes + comment_bytes;
    if (rest.size() < whole)
      bad_input("{}: its central directory is damaged at member {}", path, entries.size());
    CentralEntry entry;
    entry.member.name = std::string(rest.substr(kCentralBytes, name_bytes));
    const std::string what = fmt::format("{}: member \"{}\"", path, entry.member.name);
    const uint16_t flags = load<uint16_t>(rest.data() + 8), method = load<uint16_t>(rest.data() + 10);
    if ((flags & 1) != 0) bad_input("{}: is encrypted", what);
    if (method != 0 && method != 8)
      bad_input("{}: compression method {} is not stored or deflated", what, method);
    entry.member.deflated = method == 8;
    entry.member.checksum = load<uint32_t>(rest.data() + 16);
    uint64_t compressed = load<uint32_t>(rest.data() + 20), uncompressed = load<uint32_t>(rest.data() + 24),
             local_header = load<uint32_t>(rest.data() + 42);
    read_zip64(rest.substr(kCentralBytes + name_bytes, extra_bytes), what, uncompressed, compressed,
               local_header);
    const uint64_t limit = static_cast<uint64_t>(directory.offset);
    if (local_header > limit || compressed > limit - local_header)
      bad_input("{}: lies outside the archive", what);
    // Deflate reaches 1032 : 1 at most; whoever declares more wants memory, not an array.
    if (method == 0 ? uncompressed != compressed : uncompressed > compressed * 1032 + 1032) {
      bad_input("{}: declares {} bytes, which {} bytes in the archive can't hold", what, uncompressed,
                compressed);
    }
    entry.member.compressed = static_cast<int64_t>(compressed);
    entry.member.uncompressed = static_cast<int64_t>(uncompressed);
    entry.local_header = static_cast<int64_t>(local_header);
    entries.push_back(std::move(entry));
    rest.remove_prefix(whole);
  }
  if (static_cast<int64_t>(entries.size()) != directory.entries) {
    bad_input("{}: its central directory lists {} members, but says {}", path, entries.size(),
              directory.entries);
  }
  std::stable_sort(entries.begin(), entries.end(), [](const CentralEntry& a, const CentralEntry& b) {
    return a.local_header < b.local_header;
  });
  int64_t free_from = 0;
  for (CentralEntry& entry : entries) {
    const std::string what = fmt::format("{}: member \"{}\"", path, entry.member.name);
    if (entry.local_header < free_from) bad_input("{}: overlaps the member before it", what);
    if (entry.local_header > directory.offset - kLocalBytes) bad_input("{}: lies outside the archive", what);
    char header[kLocalBytes];
    file.read_at(entry.local_header, header, kLocalBytes);
    const int64_t name_bytes = load<uint16_t>(header + 26), extra_bytes = load<uint16_t>(header + 28);
    const int64_t start = entry.local_header + kLocalBytes + name_bytes + extra_bytes;
    if (load<uint32_t>(header) != kLocalHeader || start > directory.offset ||
        entry.member.compressed > directory.offset - start) {
      bad_input("{}: its local header is damaged", what);
    }
    std::string name(static_cast<size_t>(name_bytes), '\0');
    file.read_at(entry.local_header + kLocalBytes, name.data(), name_bytes);
    const uint16_t method = entry.member.deflated ? 8 : 0;
    if (name != entry.member.name || load<uint16_t>(header + 8) != method) {
      bad_input("{}: its local header (\"{}\") says otherwise than the central directory", what, name);
    }
    entry.member.offset = start;
    free_from = start + entry.member.compressed;
  }
  return entries;
}

}  // namespace

NpzFile::NpzFile(const std::string& path) : WeightFile(path), file_(path), cache_(std::make_unique<Cache>()) {
  char magic[6] = {};
  if (file_.size() >= 6) file_.read_at(0, magic, 6);
  bare_ = std::memcmp(magic, "\x93NUMPY", 6) == 0;
  if (bare_) {
    Member member;
    member.name = std::filesystem::path(path).stem().string();
    member.compressed = member.uncompressed = file_.size();
    member.checked = false;
    members_.push_back(std::move(member));
  } else {
    for (CentralEntry& entry : read_directory(file_)) members_.push_back(std::move(entry.member));
  }
  std::vector<FileTensor> tensors;
  for (Member& member : members_) {
    FileTensor tensor;
    tensor.name = member.name;
    if (!bare_) {
      if (tensor.name.size() < 5 || tensor.name.compare(tensor.name.size() - 4, 4, ".npy") != 0) {
        bad_input("{}: member \"{}\" is not named NAME.npy, so it is no array", path, member.name);
      }
      tensor.name.resize(tensor.name.size() - 4);
    }
    const std::string what = fmt::format("{}: array \"{}\"", path, tensor.name);
    std::string start(static_cast<size_t>(std::min<int64_t>(12, member.uncompressed)), '\0');
    Stream stream(file_, member, what);
    // A member that ends here is no array, and says so below; its checksum needs no look.
    if (static_cast<int64_t>(start.size()) < member.uncompressed)
      stream.read(start.data(), static_cast<int64_t>(start.size()));
    const NpyPrefix prefix = parse_npy_prefix(start.data(), static_cast<int64_t>(start.size()), what);
    member.header = prefix.start + prefix.length;
    if (prefix.length > kMaxNpyHeader || member.header > member.uncompressed) {
      bad_input("{}: ends inside its .npy header", what);
    }
    std::string text = start.substr(static_cast<size_t>(prefix.start));
    const int64_t rest = member.header - static_cast<int64_t>(start.size());
    if (rest > 0) {
      text.resize(static_cast<size_t>(prefix.length));
      stream.read(text.data() + (prefix.length - rest), rest);
    }
    text.resize(static_cast<size_t>(prefix.length));
    const NpyHeader header(text, what);
    if (header.bytes != member.uncompressed - member.header) {
      bad_input("{}: its shape and type take {} bytes, but {} are there", what, header.bytes,
                member.uncompressed - member.header);
    }
    tensor.dtype = header.dtype;
    tensor.shape = header.shape;
    // Of up to one dimension that is not 1, both orders are the same.
    const auto longer = [](int64_t d) { return d != 1; };
    member.fortran = header.fortran && std::count_if(header.shape.begin(), header.shape.end(), longer) > 1;
    tensors.push_back(std::move(tensor));
  }
  set_tensors(std::move(tensors));
}

NpzFile::~NpzFile() = default;

bool NpzFile::random_access() const {
  return std::none_of(members_.begin(), members_.end(),
                      [](const Member& member) { return member.deflated || member.fortran; });
}

void NpzFile::read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const {
  const int64_t width = size_of(tensors()[tensor].dtype);
  if (members_[tensor].fortran) return read_transposed(tensor, begin, count, out);
  read_member(tensor, members_[tensor].header + begin * width, out, count * width);
}

void NpzFile::read_member(size_t tensor, int64_t offset, void* out, int64_t bytes) const {
  const Member& member = members_[tensor];
  if (bare_) return file_.read_at(offset, out, bytes);
  const std::lock_guard lock(cache_->mutex);
  Cache& cache = *cache_;
  const bool follows =
      cache.stream != nullptr && cache.tensor == tensor && cache.stream->position() == offset;
  if (!follows && !member.deflated && offset != member.header) {
    return file_.read_at(member.offset + offset, out, bytes);  // out of turn: nothing to sum up
  }
  if (!follows && (cache.stream == nullptr || cache.tensor != tensor || cache.stream->position() > offset)) {
    cache.stream.reset();
    std::vector<char>().swap(cache.elements);
    cache.tensor = tensor;
    cache.stream = std::make_unique<Stream>(file_, member,
                                            fmt::format("{}: array \"{}\"", path(), tensors()[tensor].name));
  }
  try {
    cache.stream->skip_to(offset);
    cache.stream->read(out, bytes);
  } catch (...) {
    cache.stream.reset();
    throw;
  }
}

void NpzFile::read_transposed(size_t tensor, int64_t begin, int64_t count, void* out) const {
  const FileTensor& info = tensors()[tensor];
  const Member& member = members_[tensor];
  const int64_t width = size_of(info.dtype);
  const std::lock_guard lock(cache_->mutex);
  Cache& cache = *cache_;
  if (cache.elements.empty() || cache.tensor != tensor) {
    cache.stream.reset();
    std::vector<char>().swap(cache.elements);
    cache.tensor = tensor;
    Stream stream(file_, member, fmt::format("{}: array \"{}\"", path(), info.name));
    std::vector<char> elements;
    if (bare_) {
      elements.resize(static_cast<size_t>(info.bytes()));
      file_.read_at(member.header, elements.data(), info.bytes());
    } else {
      stream.skip_to(member.header);
      while (stream.position() < member.uncompressed) {  // grows as bytes really come
        const int64_t part = std::min(kBlock * 16, member.uncompressed - stream.position());
        elements.resize(elements.size() + static_cast<size_t>(part));
        stream.read(elements.data() + elements.size() - part, part);
      }
    }
    cache.elements = std::move(elements);
  }
  // Walks the row-major index of each element and keeps its place in column-major order beside it.
  const size_t rank = info.shape.size();
  std::vector<int64_t> index(rank), stride(rank);
  int64_t step = 1, rest = begin, place = 0;
  for (size_t d = 0; d < rank; ++d) {
    stride[d] = step;
    step *= info.shape[d];
  }
  for (size_t d = rank; d-- > 0;) {
    index[d] = rest % info.shape[d];
    rest /= info.shape[d];
    place += index[d] * stride[d];
  }
  char* to = static_cast<char*>(out);
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(to + i * width, cache.elements.data() + place * width, static_cast<size_t>(width));
    for (size_t d = rank; d-- > 0;) {
      place += stride[d];
      if (++index[d] < info.shape[d]) break;
      place -= stride[d] * info.shape[d];
      index[d] = 0;
    }
  }
}

namespace {

std::string npy_header(const FileTensor& tensor, const std::string& path) {
  std::string_view code;
  switch (tensor.dtype) {
    case DType::f64:
      code = "<f8";
      break;
    case DType::f32:
      code = "<f4";
      break;
    case DType::f16:
      code = "<f2";
      break;
    case DType::i64:
      code = "<i8";
      break;
    case DType::i32:
      code = "<i4";
      break;
    case DType::i16:
      code = "<i2";
      break;
    case DType::i8:
      code = "|i1";
      break;
    case DType::u64:
      code = "<u8";
      break;
    case DType::u32:
      code = "<u4";
      break;
    case DType::u16:
      code = "<u2";
      break;
    case DType::u8:
      code = "|u1";
      break;
    case DType::boolean:
      code = "|b1";
      break;
    case DType::bf16:
      bad_input("{}: tensor \"{}\" is bf16, which NumPy's format does not have; write .safetensors", path,
                tensor.name);
  }
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': (", code);
  for (size_t d = 0; d < tensor.shape.size(); ++d) {
    text += fmt::format("{}{}", tensor.shape[d],
                        tensor.shape.size() == 1      ? ","
                        : d + 1 < tensor.shape.size() ? ", "
                                                      : "");
  }
  text += "), }";
  // The elements start on a multiple of 64, as NumPy's own files have it.
  const size_t unpadded = 10 + text.size() + 1;
  text.append((64 - unpadded % 64) % 64, ' ');
  text += '\n';
  if (text.size() > 0xffff) bad_input("{}: tensor \"{}\" has too many dimensions", path, tensor.name);
  std::string header("\x93NUMPY\x01\x00", 8);
  append(header, static_cast<uint16_t>(text.size()));
  return header + text;
}

std::vector<FileTensor> by_name(std::vector<FileTensor> tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const FileTensor& a, const FileTensor& b) { return a.name < b.name; });
  return tensors;
}

bool is_large(int64_t bytes) {
  return bytes >= int64_t{kMax32};
}

/// A local header (30 bytes), or the fields of it that a central header repeats.
std::string member_fields(const std::string& name, int64_t bytes, uint32_t checksum, bool zip64) {
  std::string fields;
  const bool ascii =
      std::all_of(name.begin(), name.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
  append(fields, static_cast<uint16_t>(zip64 ? 45 : 20));      // version needed
  append(fields, static_cast<uint16_t>(ascii ? 0 : 1 << 11));  // names are UTF-8
  append(fields, uint16_t{0});                                 // stored
  append(fields, uint16_t{0});                                 // midnight
  append(fields, kDate1980);
  append(fields, checksum);
  append(fields, is_large(bytes) ? kMax32 : static_cast<uint32_t>(bytes));
  append(fields, is_large(bytes) ? kMax32 : static_cast<uint32_t>(bytes));
  append(fields, static_cast<uint16_t>(name.size()));
  return fields;
}

}  // namespace

NpzWriter::NpzWriter(const std::string& path, std::vector<FileTensor> tensors, Existing existing)
    : WeightWriter(path, by_name(std::move(tensors))), file_(path, existing) {
  for (const FileTensor& tensor : this->tensors()) {
    const std::string npy = npy_header(tensor, path);
    const std::string name = tensor.name + ".npy";
    if (tensor.name.empty() || name.size() > 0xffff) {
      bad_input("{}: \"{:.40}\" can't be the name of an array: it has {} bytes", path, tensor.name,
                tensor.name.size());
    }
    const int64_t bytes = static_cast<int64_t>(npy.size()) + tensor.bytes();
    std::string local;
    append(local, kLocalHeader);
    local += member_fields(name, bytes, 0, is_large(bytes));  // the checksum follows in finish_file
    append(local, static_cast<uint16_t>(is_large(bytes) ? 20 : 0));
    local += name;
    if (is_large(bytes)) {
      append(local, uint16_t{1});
      append(local, uint16_t{16});
      append(local, static_cast<uint64_t>(bytes));
      append(local, static_cast<uint64_t>(bytes));
    }
    Place place;
    place.local_header = end_;
    place.member = end_ + static_cast<int64_t>(local.size());
    place.header = static_cast<int64_t>(npy.size());
    file_.write_at(end_, local.data(), static_cast<int64_t>(local.size()));
    file_.write_at(place.member, npy.data(), place.header);
    end_ = place.member + bytes;
    places_.push_back(place);
  }
  file_.reserve(end_);
}

void NpzWriter::write_elements(size_t tensor, int64_t begin, int64_t count, const void* data) {
  const int64_t width = size_of(tensors()[tensor].dtype);
  file_.write_at(places_[tensor].member + places_[tensor].header + begin * width, data, count * width);
}

void NpzWriter::finish_file() {
  std::string directory;
  std::vector<char> block(static_cast<size_t>(kBlock));
  for (size_t i = 0; i < places_.size(); ++i) {
    const Place& place = places_[i];
    const std::string name = tensors()[i].name + ".npy";
    const int64_t bytes = place.header + tensors()[i].bytes();
    // Elements may have come in any order, and twice: the checksum is taken of what lies there now.
    uint32_t checksum = 0;
    for (int64_t done = 0; done < bytes; done += kBlock) {
      const int64_t part = std::min(kBlock, bytes - done);
      file_.read_at(place.member + done, block.data(), part);
      checksum = static_cast<uint32_t>(
          ::crc32(checksum, reinterpret_cast<const Bytef*>(block.data()), static_cast<uInt>(part)));
    }
    file_.write_at(place.local_header + 14, &checksum, 4);
    std::string extra;
    if (is_large(bytes)) {
      append(extra, static_cast<uint64_t>(bytes));
      append(extra, static_cast<uint64_t>(bytes));
    }
    if (is_large(place.local_header)) append(extra, static_cast<uint64_t>(place.local_header));
    append(directory, kCentralHeader);
    append(directory, static_cast<uint16_t>(extra.empty() ? 20 : 45));  // made by
    directory += member_fields(name, bytes, checksum, !extra.empty());
    append(directory, static_cast<uint16_t>(extra.empty() ? 0 : extra.size() + 4));
    append(directory, uint16_t{0});  // comment
    append(directory, uint16_t{0});  // disk
    append(directory, uint16_t{0});  // attributes
    append(directory, uint32_t{0});
    append(directory, is_large(place.local_header) ? kMax32 : static_cast<uint32_t>(place.local_header));
    directory += name;
    if (!extra.empty()) {
      append(directory, uint16_t{1});
      append(directory, static_cast<uint16_t>(extra.size()));
      directory += extra;
    }
  }
  const uint64_t entries = places_.size(), bytes = directory.size();
  const bool zip64 = entries >= 0xffff || is_large(end_) || is_large(static_cast<int64_t>(bytes));
  if (zip64) {
    append(directory, kZip64End);
    append(directory, uint64_t{kZip64EndBytes - 12});
    append(directory, uint16_t{45});
    append(directory, uint16_t{45});
    append(directory, uint32_t{0});
    append(directory, uint32_t{0});
    append(directory, entries);
    append(directory, entries);
    append(directory, bytes);
    append(directory, static_cast<uint64_t>(end_));
    append(directory, kZip64Locator);
    append(directory, uint32_t{0});
    append(directory, static_cast<uint64_t>(end_) + bytes);
    append(directory, uint32_t{1});
  }
  append(directory, kEnd);
  append(directory, uint16_t{0});
  append(directory, uint16_t{0});
  append(directory, static_cast<uint16_t>(std::min<uint64_t>(entries, 0xffff)));
  append(directory, static_cast<uint16_t>(std::min<uint64_t>(entries, 0xffff)));
  append(directory, static_cast<uint32_t>(std::min<uint64_t>(bytes, kMax32)));
  append(directory, static_cast<uint32_t>(std::min<uint64_t>(static_cast<uint64_t>(end_), kMax32)));
  append(directory, uint16_t{0});
  file_.write_at(end_, directory.data(), static_cast<int64_t>(directory.size()));
  file_.commit();
}

}  // namespace coppice
