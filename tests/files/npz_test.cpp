#include "engine/files/npz.hpp"

#include <zlib.h>

#include <cstring>
#include <random>

#include "tests/data_path.hpp"
#include "tests/files/scratch.hpp"

namespace coppice {
namespace {

using test::golden_file;
using test::golden_values;
using test::Scratch;
using test::slurp;

void expect_golden(const WeightFile& file) {
  SCOPED_TRACE(file.path());
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const FileTensor& tensor = file.tensors()[i];
    const std::vector<double> expected = golden_values(tensor.size(), tensor.dtype);
    EXPECT_EQ(file.read_f64(tensor.name), expected) << tensor.name;
    // In pieces, out of turn.
    for (const int64_t begin : {tensor.size() / 2, int64_t{0}, tensor.size() / 3}) {
      std::vector<double> piece(static_cast<size_t>(std::min<int64_t>(tensor.size() - begin, 7)));
      file.read_f64(i, begin, static_cast<int64_t>(piece.size()), piece.data());
      for (size_t k = 0; k < piece.size(); ++k) EXPECT_EQ(piece[k], expected[static_cast<size_t>(begin) + k]);
    }
  }
}

TEST(Npz, ReadsWhatNumPyWrites) {
  for (const char* name : {"numpy_stored.npz", "numpy_deflated.npz"}) {
    const auto file = open_weights(golden_file(name));
    EXPECT_EQ(file->format(), "npz");
    expect_golden(*file);
    EXPECT_EQ(file->tensors().size(), name == std::string("numpy_stored.npz") ? 17u : 18u);
    EXPECT_TRUE(file->tensor("scalar").shape.empty());
    EXPECT_EQ(file->tensor("empty").shape, (std::vector<int64_t>{2, 0}));
    EXPECT_EQ(file->tensor("cube").shape, (std::vector<int64_t>{2, 3, 4}));
    EXPECT_EQ(file->tensor("f2 matrix").dtype, DType::f16);
    EXPECT_EQ(file->tensor("u1 matrix").dtype, DType::u8);
    EXPECT_EQ(file->tensor("b1 matrix").dtype, DType::boolean);
    EXPECT_TRUE(file->contains("ünïcode"));
  }
  const NpzFile deflated(golden_file("numpy_deflated.npz"));
  EXPECT_LT(deflated.stored_bytes(deflated.index("large")), deflated.tensor("large").bytes() / 4);
}

TEST(Npz, ReadsFortranOrderAsRowMajor) {
  for (const char* name : {"numpy_fortran.npz", "numpy_fortran_deflated.npz"}) {
    const auto file = open_weights(golden_file(name));
    EXPECT_EQ(file->tensors().size(), 14u);
    expect_golden(*file);
  }
}

TEST(Npz, ReadsStreamedArchivesAndBareArrays) {
  expect_golden(*open_weights(golden_file("numpy_streamed.npz")));
  const auto single = open_weights(golden_file("single.npy"));
  EXPECT_EQ(single->format(), "npy");
  ASSERT_EQ(single->tensors().size(), 1u);
  EXPECT_EQ(single->tensors()[0].name, "single");
  expect_golden(*single);
  for (const char* name : {"format_1.npy", "format_2.npy", "format_3.npy"}) {
    expect_golden(*open_weights(golden_file(name)));
  }
}

TEST(Npz, SurvivesDamage) {
  for (const char* name : {"numpy_streamed.npz", "sequences.npz", "single.npy"}) {
    test::expect_survives_damage(golden_file(name));
  }
}

TEST(Npz, NoticesChangedElements) {
  const Scratch scratch;
  std::string bytes = slurp(golden_file("numpy_stored.npz"));
  const NpzFile whole(golden_file("numpy_stored.npz"));
  const size_t at = bytes.find("vector.npy");
  bytes[at + 10 + 20 + 128 + 100] ^= 1;  // name, zip64 field, .npy header, 26th element
  const auto file = open_weights(scratch.put("changed.npz", bytes));
  EXPECT_ERROR(file->read_f32("vector"), bad_input, "changed.npz", "\"vector\"", "checksum");
  EXPECT_NO_THROW(file->read_f32("scalar"));
}

TEST(Npz, RoundTripsAllTypes) {
  const Scratch scratch;
  std::mt19937 random(5);
  std::vector<FileTensor> tensors;
  for (DType type : {DType::f64, DType::f32, DType::f16, DType::i64, DType::i32, DType::i16, DType::i8,
                     DType::u64, DType::u32, DType::u16, DType::u8, DType::boolean}) {
    for (int64_t size : {0, 1, 3, 33, 257}) {
      tensors.push_back({fmt::format("{}/{}", to_string(type), size), type, {size}});
    }
    tensors.push_back({fmt::format("{} scalar", to_string(type)), type, {}});
    tensors.push_back({fmt::format("{} кубик", to_string(type)), type, {5, 1, 7}});
  }
  std::map<std::string, std::string> bytes;
  const auto writer = create_weights(scratch.path("x.npz"), tensors, {{"dropped", "here"}});
  for (const FileTensor& tensor : tensors) {
    std::string& raw = bytes[tensor.name];
    for (int64_t i = 0; i < tensor.bytes(); ++i) raw += static_cast<char>(random());
    const size_t index = writer->index(tensor.name);
    writer->write(index, 0, tensor.size(), std::string(raw.size(), 'x').data());  // overwritten below
    writer->write(index, 0, tensor.size() / 2, raw.data());
    writer->write(index, tensor.size() / 2, tensor.size() - tensor.size() / 2,
                  raw.data() + tensor.size() / 2 * size_of(tensor.dtype));
  }
  writer->finish();
  const auto file = open_weights(scratch.path("x.npz"));
  ASSERT_EQ(file->tensors().size(), tensors.size());
  for (const FileTensor& tensor : tensors) {
    const size_t index = file->index(tensor.name);
    EXPECT_EQ(file->tensors()[index].dtype, tensor.dtype);
    EXPECT_EQ(file->tensors()[index].shape, tensor.shape);
    std::string back(static_cast<size_t>(tensor.bytes()), '#');
    file->read(index, 0, tensor.size(), back.data());
    EXPECT_EQ(back, bytes[tensor.name]);
  }
  EXPECT_ERROR(create_weights(scratch.path("y.npz"), {{"w", DType::bf16, {1}}}), bad_input, "\"w\"", "bf16");
  EXPECT_ERROR(create_weights(scratch.path("y.npz"), {{"", DType::f32, {1}}}), bad_input, "name of an array");
}

TEST(Npz, ManyMembersTakeAZip64Directory) {
  const Scratch scratch;
  std::vector<FileTensor> tensors;
  for (int i = 0; i < 0x10000; ++i) tensors.push_back({fmt::format("{:05}", i), DType::u8, {1}});
  NpzWriter writer(scratch.path("many.npz"), tensors);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const uint8_t value = static_cast<uint8_t>(i);
    writer.write(i, 0, 1, &value);
  }
  writer.finish();
  const NpzFile file(scratch.path("many.npz"));
  ASSERT_EQ(file.tensors().size(), tensors.size());
  EXPECT_EQ(file.read_f32("65535"), std::vector<float>{255});
}

/// An archive of one member, built here so that each of its fields can lie.
struct Zip {
  std::string npy = npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", std::string(8, 'x'));
  std::string name = "w.npy";
  std::string local_name = name;
  uint16_t method = 0, local_method = 0, flags = 0, entries = 1;
  uint32_t compressed = 0, uncompressed = 0, checksum = 0, local_offset = 0;
  std::string extra;  // of the central header
  int64_t directory_shift = 0;
  uint16_t disk = 0;
  std::string comment;

  static std::string npy_of(const std::string& header, const std::string& data, char major = 1) {
    std::string text = std::string("\x93NUMPY", 6) + major + '\0';
    const uint32_t length = static_cast<uint32_t>(header.size());
    text.append(reinterpret_cast<const char*>(&length), major == 1 ? 2 : 4);
    return text + header + data;
  }

  Zip() { measure(); }
  explicit Zip(std::string array) : npy(std::move(array)) { measure(); }
  void measure() {
    compressed = uncompressed = static_cast<uint32_t>(npy.size());
    checksum = static_cast<uint32_t>(
        ::crc32(0, reinterpret_cast<const Bytef*>(npy.data()), static_cast<uInt>(npy.size())));
  }

  std::string bytes() const {
    std::string out;
    const auto put = [&](auto value) { out.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
    const auto fields = [&](uint16_t how, const std::string& called) {
      put(uint16_t{20}), put(flags), put(how), put(uint32_t{0}), put(checksum), put(compressed),
          put(uncompressed);
      put(static_cast<uint16_t>(called.size()));
    };
    put(uint32_t{0x04034b50}), fields(local_method, local_name), put(uint16_t{0});
    out += local_name + npy;
    const uint32_t directory = static_cast<uint32_t>(out.size());
    put(uint32_t{0x02014b50}), put(uint16_t{20}), fields(method, name),
        put(static_cast<uint16_t>(extra.size()));
    put(uint16_t{0}), put(uint16_t{0}), put(uint16_t{0}), put(uint32_t{0}), put(local_offset);
    out += name + extra;
    const uint32_t size = static_cast<uint32_t>(out.size()) - directory;
    put(uint32_t{0x06054b50}), put(disk), put(disk), put(entries), put(entries), put(size);
    put(static_cast<uint32_t>(directory + directory_shift)), put(static_cast<uint16_t>(comment.size()));
    return out + comment;
  }
};

TEST(Npz, TakesNothingOnTrust) {
  const Scratch scratch;
  const auto refused = [&](const std::string& bytes, std::initializer_list<std::string> words) {
    const std::string path = scratch.put("lie.npz", bytes);
    try {
      open_weights(path)->read_f32("w");
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      const std::string text = error.what();
      EXPECT_NE(text.find(path), std::string::npos) << text;
      for (const std::string& word : words)
        EXPECT_NE(text.find(word), std::string::npos) << word << " in " << text;
    }
  };
  EXPECT_NO_THROW(open_weights(scratch.put("good.npz", Zip().bytes()))->read_f32("w"));

  refused("PK\x03\x04 and nothing", {"central directory"});
  const auto with = [](const auto& change) {
    Zip zip;
    change(zip);
    return zip.bytes();
  };
  refused(with([](Zip& z) { z.name = z.local_name = "w.txt"; }), {"w.txt", "no array"});
  refused(with([](Zip& z) { z.local_name = "v.npy"; }), {"w.npy", "v.npy"});
  refused(with([](Zip& z) { z.method = z.local_method = 12; }), {"w.npy", "method 12"});
  refused(with([](Zip& z) { z.method = 8; }), {"w.npy", "otherwise"});
  refused(with([](Zip& z) { z.method = z.local_method = 8; }), {"\"w\"", "compressed data"});
  refused(with([](Zip& z) { z.flags = 1; }), {"encrypted"});
  refused(with([](Zip& z) { z.entries = 2; }), {"1 members, but says 2"});
  refused(with([](Zip& z) { z.disk = 1; }), {"disks"});
  refused(with([](Zip& z) { z.directory_shift = 1; }), {"central directory should end"});
  refused(with([](Zip& z) { z.directory_shift = -1; }), {"central directory should end"});
  refused(with([](Zip& z) { z.uncompressed += 1; }), {"w.npy", "can't hold"});
  refused(with([](Zip& z) { z.compressed = z.uncompressed = 0xfffffff0; }), {"w.npy", "outside"});
  refused(with([](Zip& z) { z.local_offset = 5; }), {"w.npy", "local header"});
  refused(with([](Zip& z) { z.local_offset = 0xfffffff0; }), {"w.npy", "outside"});
  refused(with([](Zip& z) { z.checksum ^= 1; }), {"\"w\"", "checksum"});
  refused(with([](Zip& z) { z.compressed = z.uncompressed = 0xffffffff; }),
          {"w.npy"});  // zip64 without its field
  refused(with([](Zip& z) {
            z.compressed = z.uncompressed = 0xffffffff;
            z.extra = std::string("\x01\0\x08\0abcdefgh", 12);
          }),
          {"w.npy", "zip64"});
  refused(with([](Zip& z) {
            z.method = z.local_method = 8;
            z.uncompressed = 0xfffffff0;  // deflate can't reach that
          }),
          {"w.npy", "can't hold"});
  EXPECT_NO_THROW(
      open_weights(scratch.put("good.npz", with([](Zip& z) { z.comment = "PK\x05\x06 and more"; }))));
  EXPECT_NO_THROW(open_weights(scratch.put("good.npz", with([](Zip& z) {
                                             const uint64_t size = z.compressed;
                                             z.compressed = z.uncompressed = 0xffffffff;
                                             z.extra = std::string("\x01\0\x10\0", 4);
                                             for (int i = 0; i < 2; ++i)
                                               z.extra.append(reinterpret_cast<const char*>(&size), 8);
                                           }))));

  const std::string eight(8, 'x');
  const auto header = [&](const std::string& text, std::initializer_list<std::string> words) {
    refused(Zip(Zip::npy_of(text, eight)).bytes(), words);
  };
  const auto array = [&](const std::string& descr, const std::string& shape) {
    return fmt::format("{{'descr': {}, 'fortran_order': False, 'shape': {}, }}", descr, shape);
  };
  header("", {"\"w\"", "malformed"});
  header("{", {"malformed"});
  header("{}", {"lacks descr"});
  header(array("'<f4'", "(2,)") + "x", {"nothing behind"});
  header(array("'<f4'", "(3,)"), {"\"w\"", "12 bytes, but 8"});
  header(array("'<f8'", "(2,)"), {"16 bytes, but 8"});
  header(array("'>f4'", "(2,)"), {"big-endian"});
  header(array("'f4'", "(2,)"), {"'f4'", "not supported"});
  header(array("'<c8'", "(1,)"), {"'<c8'"});
  header(array("'|V2'", "(4,)"), {"'|V2'"});
  header(array("'|O'", "(1,)"), {"'|O'"});
  header(array("[('a', '<f4')]", "(2,)"), {"structured"});
  header(array("'<f4'", "(-2,)"), {"whole number"});
  header(array("'<f4'", "(2.0,)"), {"malformed"});
  header(array("'<f4'", "2"), {"'('"});
  header(array("'<f4'", "(99999999999999999999,)"), {"overflows"});
  header(array("'<f4'", "(4294967296, 4294967296)"), {"overflows"});
  header("{'descr': '<f4', 'fortran_order': 1, 'shape': (2,)}", {"True or False"});
  header("{'descr': '<f4', 'descr': '<f4', 'shape': (2,)}", {"'descr' twice"});
  header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}", {"'more'"});
  header("{'descr': '<f4', 'shape': (2,)}", {"lacks fortran_order"});
  refused(Zip(Zip::npy_of(array("'<f4'", "(2,)"), eight, 4)).bytes(), {"format 4"});
  refused(Zip(std::string("\x93NUMPY\x02\0\xff\xff\xff\x7f", 12) + "{}").bytes(),
          {"ends inside its .npy header"});
  refused(Zip("no array at all").bytes(), {"is not a .npy array"});
  refused(Zip("").bytes(), {"is not a .npy array"});
  for (const char* good : {"(2)", "(2L,)", "(1, 2)", "( 2 , 1 , )"}) {
    EXPECT_NO_THROW(
        open_weights(scratch.put("good.npz", Zip(Zip::npy_of(array("'<f4'", good), eight)).bytes()))
            ->read_f32("w"))
        << good;
  }
}

TEST(Npz, RealModel) {
  COPPICE_REQUIRE_DATA("g2p_en");
  const auto file = open_weights(test::data_path("g2p_en/checkpoint20.npz").string());
  EXPECT_EQ(file->tensors().size(), 12u);
  EXPECT_EQ(file->tensor("enc_w_hh").shape, (std::vector<int64_t>{768, 256}));
  const std::vector<float> values = file->read_f32("enc_w_hh");  // to the end: its checksum holds
  EXPECT_EQ(values.size(), 768u * 256u);
}

}  // namespace
}  // namespace coppice
