#include "engine/files/safetensors.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "engine/files/number_formats.hpp"
#include "tests/data_path.hpp"
#include "tests/files/scratch.hpp"

namespace coppice {
namespace {

using test::Scratch;
using test::slurp;

constexpr DType kAllTypes[] = {DType::f64, DType::f32, DType::f16,    DType::bf16, DType::i64,
                               DType::i32, DType::i16, DType::i8,     DType::u64,  DType::u32,
                               DType::u16, DType::u8,  DType::boolean};

/// A file by hand: header as given, then data.
std::string with_header(const std::string& header, const std::string& data = "") {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

std::string random_bytes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

TEST(Safetensors, RoundTripsAllTypesAndOddSizes) {
  const Scratch scratch;
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::vector<FileTensor> tensors;
  for (DType type : kAllTypes) {
    for (int64_t size : {0, 1, 3, 7, 31, 32, 33, 255, 257}) {
      tensors.push_back({fmt::format("{} {}", to_string(type), size), type, {size}});
    }
    tensors.push_back({fmt::format("{} scalar", to_string(type)), type, {}});
    tensors.push_back({fmt::format("{} matrix", to_string(type)), type, {5, 1, 7}});
    tensors.push_back({fmt::format("{} empty", to_string(type)), type, {3, 0, 2}});
  }
  std::map<std::string, std::string> bytes;
  SafetensorsWriter writer(scratch.path("x.safetensors"), tensors,
                           {{"format", "pt"}, {"ключ \"\n", "значение"}});
  for (const FileTensor& tensor : tensors) {
    bytes[tensor.name] =
        random_bytes(static_cast<size_t>(tensor.bytes()), seed + static_cast<uint32_t>(bytes.size()));
    const int64_t half = tensor.size() / 2;
    const size_t index = writer.index(tensor.name);
    writer.write(index, 0, half, bytes[tensor.name].data());
    writer.write(index, half, tensor.size() - half, bytes[tensor.name].data() + half * size_of(tensor.dtype));
  }
  writer.finish();

  const SafetensorsFile file(scratch.path("x.safetensors"));
  ASSERT_EQ(file.tensors().size(), tensors.size());
  EXPECT_EQ(file.metadata().at("ключ \"\n"), "значение");
  EXPECT_EQ(file.metadata().size(), 2u);
  for (const FileTensor& tensor : tensors) {
    const size_t index = file.index(tensor.name);
    EXPECT_EQ(file.tensors()[index].dtype, tensor.dtype);
    EXPECT_EQ(file.tensors()[index].shape, tensor.shape);
    std::string back(static_cast<size_t>(tensor.bytes()) + 1, '#');  // the last byte is a sentinel
    file.read(index, 0, tensor.size(), back.data());
    EXPECT_EQ(back, bytes[tensor.name] + "#") << tensor.name;
  }
}

TEST(Safetensors, SameTensorsSameFile) {
  const Scratch scratch;
  const float values[3] = {1, 2, 3};
  for (bool reversed : {false, true}) {
    std::vector<FileTensor> tensors = {
        {"b", DType::f16, {3}}, {"a", DType::f32, {3}}, {"c", DType::f32, {1}}};
    if (reversed) std::swap(tensors[0], tensors[2]);
    SafetensorsWriter writer(scratch.path(reversed ? "1" : "0"), tensors);
    for (const FileTensor& tensor : tensors) writer.write(tensor.name, values, tensor.size());
    writer.finish();
  }
  EXPECT_EQ(slurp(scratch.path("0")), slurp(scratch.path("1")));
  const SafetensorsFile file(scratch.path("0"));
  EXPECT_EQ(file.tensors()[0].name, "a");  // wide elements first, then by name
  EXPECT_EQ(file.tensors()[1].name, "c");
  EXPECT_EQ(file.tensors()[2].name, "b");
  uint64_t length = 0;
  std::memcpy(&length, slurp(scratch.path("0")).data(), 8);
  EXPECT_EQ(length % 8, 0u);
}

TEST(Safetensors, WriterRefusesHolesGapsAndDuplicates) {
  const Scratch scratch;
  const float values[4] = {};
  EXPECT_ERROR(SafetensorsWriter(scratch.path("x"), {{"a", DType::f32, {1}}, {"a", DType::f32, {2}}}),
               bad_input, "a");
  SafetensorsWriter writer(scratch.path("x"), {{"a", DType::f32, {4}}, {"b", DType::f32, {2}}});
  EXPECT_ERROR(writer.write(0, 1, 2, values), failure, "\"a\"", "hole");
  EXPECT_ERROR(writer.write(0, 3, 2, values), bad_input, "\"a\"");
  EXPECT_ERROR(writer.write("c", values, 1), bad_input, "\"c\"");
  EXPECT_ERROR(writer.write("b", values, 1), bad_input, "\"b\"");
  writer.write("a", values, 4);
  EXPECT_ERROR(writer.finish(), failure, "\"b\"", "0 of 2");
  EXPECT_FALSE(std::filesystem::exists(scratch.path("x")));
}

TEST(Safetensors, TakesNothingOnTrust) {
  const Scratch scratch;
  const auto refused = [&](const std::string& bytes, std::initializer_list<std::string> words) {
    const std::string path = scratch.put("lie.safetensors", bytes);
    try {
      SafetensorsFile file(path);
      ADD_FAILURE() << "accepted: " << bytes;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      const std::string text = error.what();
      EXPECT_NE(text.find(path), std::string::npos) << text;
      for (const std::string& word : words)
        EXPECT_NE(text.find(word), std::string::npos) << word << " in " << text;
    }
  };
  const auto entry = [](const char* name, const char* type, const char* shape, const char* offsets) {
    return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, type, shape, offsets);
  };
  const std::string four(4, 'x'), eight(8, 'x');
  refused("", {"0 bytes"});
  refused("short", {"5 bytes"});
  refused(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10), {"header would have"});
  refused(std::string("\x10\0\0\0\0\0\0\0{}", 10), {"ends inside its header"});
  refused(with_header(""), {"does not start with"});
  refused(with_header("  {}"), {"does not start with"});
  refused(with_header("[1]"), {"does not start with"});
  refused(with_header("{"), {"not valid JSON"});
  refused(with_header("{}x"), {"not valid JSON"});
  refused(with_header(std::string("{}\0", 3)), {"not valid JSON"});
  refused(with_header("{\"a\xff\":1}"), {"not valid JSON"});
  refused(with_header("{\"a\":1}"), {"\"a\"", "number", "expected an object"});
  refused(with_header("{\"a\":{}}"), {"\"a\"", "no dtype"});
  refused(with_header("{" + entry("a", "F32", "[1]", "[0,4]") + "," + entry("a", "F32", "[1]", "[0,4]") + "}",
                      four),
          {"\"a\" twice"});
  refused(with_header(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", four),
          {"\"dtype\" twice"});
  refused(with_header(R"({"__metadata__":{"k":"1","k":"2"}})"), {"\"k\" twice"});
  refused(with_header(R"({"__metadata__":{"k":1}})"), {"__metadata__", "\"k\"", "number"});
  refused(with_header(R"({"__metadata__":[]})"), {"__metadata__", "array"});
  refused(with_header(R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", four), {"nests deeper"});
  refused(with_header("{\"a\":" + std::string(100000, '[')), {"nests deeper"});
  refused(with_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}})", four),
          {"\"more\""});
  refused(with_header("{" + entry("a", "F31", "[1]", "[0,4]") + "}", four), {"\"a\"", "F31", "unknown"});
  refused(with_header(R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", four), {"dtype is number"});
  refused(with_header("{" + entry("a", "F32", "1", "[0,4]") + "}", four), {"\"a\"", "shape is number"});
  for (const char* bad :
       {"-1", "1.0", "1e0", "1.5", "18446744073709551616", "9223372036854775808", "\"1\"", "null"}) {
    refused(with_header("{" + entry("a", "F32", fmt::format("[{}]", bad).c_str(), "[0,4]") + "}", four),
            {"\"a\"", "shape", "whole numbers"});
    refused(with_header("{" + entry("a", "F32", "[1]", fmt::format("[0,{}]", bad).c_str()) + "}", four),
            {"\"a\"", "data_offsets", "whole numbers"});
  }
  refused(with_header("{" + entry("a", "F32", "[4294967296,4294967296]", "[0,4]") + "}", four),
          {"\"a\"", "overflows"});
  refused(with_header("{" + entry("a", "F64", "[2305843009213693952]", "[0,0]") + "}"),
          {"\"a\"", "overflows"});
  refused(with_header("{" + entry("a", "F32", "[1]", "[0]") + "}", four), {"\"a\"", "two numbers"});
  refused(with_header("{" + entry("a", "F32", "[1]", "[0,4,8]") + "}", four), {"\"a\"", "two numbers"});
  refused(with_header("{" + entry("a", "F32", "[1]", "[4,0]") + "}", four), {"\"a\"", "-4 bytes"});
  refused(with_header("{" + entry("a", "F32", "[2]", "[0,4]") + "}", four), {"\"a\"", "4 bytes", "takes 8"});
  refused(with_header("{" + entry("a", "F32", "[2]", "[0,8]") + "}", four),
          {"\"a\"", "ends at byte 8", "has 4"});
  refused(with_header("{" + entry("a", "F32", "[1]", "[0,4]") + "}", eight), {"4 trailing bytes"});
  refused(with_header("{" + entry("a", "F32", "[1]", "[4,8]") + "}", eight), {"\"a\"", "hole"});
  refused(with_header("{" + entry("a", "F32", "[1]", "[0,4]") + "," + entry("b", "F16", "[3]", "[2,8]") + "}",
                      eight),
          {"\"b\"", "inside another tensor"});
  refused(with_header("{" + entry("a", "F32", "[2]", "[0,8]") + "," + entry("b", "F32", "[2]", "[0,8]") + "}",
                      eight),
          {"\"b\"", "inside another tensor"});
}

TEST(Safetensors, EveryTruncationIsAnError) {
  const Scratch scratch;
  const float values[3] = {1, 2, 3};
  SafetensorsWriter writer(scratch.path("x"), {{"a", DType::f32, {3}}, {"b", DType::u8, {2}}}, {{"k", "v"}});
  writer.write("a", values, 3);
  writer.write("b", values, 2);
  writer.finish();
  const std::string whole = slurp(scratch.path("x"));
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::string path = scratch.put("cut", whole.substr(0, length));
    EXPECT_ERROR(SafetensorsFile file(path), bad_input, path);
  }
}

TEST(Safetensors, AFileThatShrinksIsAnErrorNotACrash) {
  const Scratch scratch;
  const std::vector<float> values(1000, 1.0f);
  SafetensorsWriter writer(scratch.path("x"), {{"a", DType::f32, {1000}}});
  writer.write("a", values.data(), 1000);
  writer.finish();
  const SafetensorsFile file(scratch.path("x"));
  std::filesystem::resize_file(scratch.path("x"), 200);
  EXPECT_ERROR(file.read_f32("a"), bad_input, scratch.path("x"), "ends at byte 200");
}

TEST(Safetensors, MissingTensorsFilesAndFolders) {
  const Scratch scratch;
  EXPECT_ERROR(open_weights(scratch.path("none.safetensors")), bad_input, "none.safetensors", "no such file");
  EXPECT_ERROR(open_weights(scratch.path()), bad_input, "folder without weights.safetensors");
  EXPECT_ERROR(SafetensorsFile file(scratch.path()), bad_input, "is a folder");
  scratch.put("x.safetensors", with_header("{}"));
  const auto file = open_weights(scratch.path("x.safetensors"));
  EXPECT_TRUE(file->tensors().empty());
  EXPECT_ERROR(file->tensor("w"), bad_input, "x.safetensors", "\"w\"");
}

TEST(Safetensors, Shards) {
  const Scratch scratch;
  const float values[4] = {1, 2, 3, 4};
  const auto put = [&](const char* shard, std::vector<FileTensor> tensors) {
    SafetensorsWriter writer(scratch.path(shard), tensors, {}, Existing::replace);
    for (const FileTensor& tensor : tensors) writer.write(tensor.name, values, tensor.size());
    writer.finish();
  };
  put("m-1.safetensors", {{"a", DType::f32, {4}}, {"c", DType::f32, {2}}});
  put("m-2.safetensors", {{"b", DType::f32, {3}}});
  const std::string index = scratch.path("model.safetensors.index.json");
  const auto map = [&](const std::string& entries) {
    scratch.put("model.safetensors.index.json",
                R"({"metadata":{"total_size":36},"weight_map":{)" + entries + "}}");
  };
  map(R"("a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors")");
  const auto file = open_weights(scratch.path());  // a folder is opened by its index
  EXPECT_EQ(file->format(), "safetensors shards");
  ASSERT_EQ(file->tensors().size(), 3u);
  EXPECT_EQ(file->read_f32("b"), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(file->read_f32("c"), (std::vector<float>{1, 2}));
  EXPECT_EQ(file->metadata().at("total_size"), "36");

  map(R"("a":"m-1.safetensors","b":"m-2.safetensors")");
  EXPECT_ERROR(open_weights(index), bad_input, "m-1.safetensors", "\"c\"");
  map(R"("a":"m-1.safetensors","b":"m-1.safetensors","c":"m-1.safetensors")");
  EXPECT_ERROR(open_weights(index), bad_input, "\"b\"", "does not hold it");
  map(R"("a":"m-1.safetensors","b":"m-3.safetensors","c":"m-1.safetensors")");
  EXPECT_ERROR(open_weights(index), bad_input, "m-3.safetensors", "no such file");
  map(R"("a":"../m-1.safetensors")");
  EXPECT_ERROR(open_weights(index), bad_input, "same folder");
  map(R"("a":"m-1.safetensors","a":"m-2.safetensors")");
  EXPECT_ERROR(open_weights(index), bad_input, "\"a\" twice");
  map(R"("a":3)");
  EXPECT_ERROR(open_weights(index), bad_input, "\"a\"", "number");
  scratch.put("model.safetensors.index.json", R"({"config":1})");
  EXPECT_ERROR(open_weights(index), bad_input, "weight_map");
  put("m-2.safetensors", {{"a", DType::f32, {3}}, {"b", DType::f32, {3}}});
  map(R"("a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors")");
  EXPECT_ERROR(open_weights(index), bad_input, "m-2.safetensors", "\"a\"");
}

TEST(NumberFormats, EveryHalfIsExact) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const int sign = half >> 15, exponent = (half >> 10) & 31, fraction = half & 1023;
    const float value = half_to_float(half);
    EXPECT_EQ(std::signbit(value), sign == 1);
    if (exponent == 31) {
      if (fraction == 0) {
        EXPECT_TRUE(std::isinf(value));
      } else {
        EXPECT_TRUE(std::isnan(value));
        EXPECT_EQ((std::bit_cast<uint32_t>(value) >> 13) & 1023u, static_cast<uint32_t>(fraction));
      }
    } else {
      const double magnitude =
          exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
      EXPECT_EQ(static_cast<double>(value), sign ? -magnitude : magnitude);
    }
    const float wide = bfloat16_to_float(half);
    EXPECT_EQ(std::bit_cast<uint32_t>(wide), bits << 16);
  }
}

TEST(NumberFormats, ReadsUnalignedAndConverts) {
  const Scratch scratch;
  // One byte in front makes every tensor behind it unaligned.
  const double doubles[2] = {1.0 / 3.0, -0.0};
  const uint16_t halves[2] = {0x0001, 0xfc00};
  const int64_t integers[1] = {int64_t{1} << 40};
  std::string data = "x";
  data.append(reinterpret_cast<const char*>(doubles), 16);
  data.append(reinterpret_cast<const char*>(halves), 4);
  data.append(reinterpret_cast<const char*>(halves), 4);
  data.append(reinterpret_cast<const char*>(integers), 8);
  const std::string path =
      scratch.put("x.safetensors", with_header(R"({"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},)"
                                               R"("b":{"dtype":"F64","shape":[2],"data_offsets":[1,17]},)"
                                               R"("c":{"dtype":"F16","shape":[2],"data_offsets":[17,21]},)"
                                               R"("d":{"dtype":"BF16","shape":[2],"data_offsets":[21,25]},)"
                                               R"("e":{"dtype":"I64","shape":[1],"data_offsets":[25,33]}}  )",
                                               data));
  const SafetensorsFile file(path);
  EXPECT_EQ(file.read_f32("a"), std::vector<float>{1.0f});  // 'x' is not 0
  EXPECT_EQ(file.read_f32("b")[0], static_cast<float>(1.0 / 3.0));
  EXPECT_TRUE(std::signbit(file.read_f32("b")[1]));
  EXPECT_EQ(file.read_f64("b")[0], 1.0 / 3.0);
  EXPECT_EQ(file.read_f32("c"), (std::vector<float>{0x1p-24f, -std::numeric_limits<float>::infinity()}));
  EXPECT_EQ(file.read_f32("d")[0], std::bit_cast<float>(uint32_t{0x10000}));
  EXPECT_EQ(file.read_f64("e"), std::vector<double>{0x1p40});
  float one = 0;
  file.read_f32(1, 1, 1, &one);
  EXPECT_ERROR(file.read_f32(1, 1, 2, &one), bad_input, "\"b\"", "[1, 3)");
}

TEST(Safetensors, ReadsWhatThePackageWrites) {
  const auto file = open_weights(test::golden_file("package.safetensors"));
  EXPECT_EQ(file->format(), "safetensors");
  EXPECT_EQ(file->metadata().at("author"), "Ünïcode");
  EXPECT_EQ(file->tensors().size(), 17u);
  for (const FileTensor& tensor : file->tensors()) {
    EXPECT_EQ(file->read_f64(tensor.name), test::golden_values(tensor.size(), tensor.dtype)) << tensor.name;
  }
  EXPECT_EQ(file->tensor("f2 matrix").dtype, DType::f16);
  EXPECT_EQ(file->tensor("b1 matrix").dtype, DType::boolean);
  EXPECT_TRUE(file->tensor("scalar").shape.empty());
  EXPECT_EQ(file->tensor("empty").shape, (std::vector<int64_t>{2, 0}));
  const auto brain = open_weights(test::golden_file("package_bf16.safetensors"));
  EXPECT_EQ(brain->tensor("bf16 matrix").dtype, DType::bf16);
  EXPECT_EQ(brain->read_f64("bf16 matrix"), test::golden_values(15, DType::bf16));
}

/// The package's files come out byte for byte when their tensors are written again.
TEST(Safetensors, WritesAsThePackageDoes) {
  const Scratch scratch;
  const auto file = open_weights(test::golden_file("package_bf16.safetensors"));
  copy_weights(*file, scratch.path("again.safetensors"));
  const auto again = open_weights(scratch.path("again.safetensors"));
  ASSERT_EQ(again->tensors().size(), file->tensors().size());
  for (size_t i = 0; i < file->tensors().size(); ++i)
    EXPECT_EQ(again->tensors()[i].name, file->tensors()[i].name);
  EXPECT_EQ(slurp(scratch.path("again.safetensors")), slurp(file->path()));
}

TEST(Safetensors, SurvivesDamage) {
  test::expect_survives_damage(test::golden_file("package_bf16.safetensors"));
}

TEST(Safetensors, RealModel) {
  COPPICE_REQUIRE_DATA("charlm_bronte");
  const auto file = open_weights(test::data_path("charlm_bronte").string());
  EXPECT_EQ(file->tensor("embedding.weight").shape, (std::vector<int64_t>{108, 128}));
  EXPECT_EQ(file->tensor("lstm.weight_ih_l0").shape, (std::vector<int64_t>{512, 128}));
  EXPECT_EQ(file->metadata().at("format"), "pt");
}

}  // namespace
}  // namespace coppice
