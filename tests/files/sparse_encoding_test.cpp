#include "engine/files/sparse_encoding.hpp"

#include <bit>
#include <cstring>
#include <random>
#include <thread>

#include "tests/files/scratch.hpp"

namespace coppice {
namespace {

using test::Scratch;
using test::slurp;

struct Tensor {
  FileTensor info;
  std::string bytes;
};

/// Random bits, of which about `density` of the elements are not +0; the odd −0 among them.
Tensor random_tensor(const std::string& name, DType type, int64_t size, double density,
                     std::mt19937_64& random) {
  Tensor tensor{{name, type, {size}}, std::string(static_cast<size_t>(size * size_of(type)), '\0')};
  std::uniform_real_distribution<double> uniform;
  const size_t width = static_cast<size_t>(size_of(type));
  for (size_t i = 0; i < static_cast<size_t>(size); ++i) {
    if (uniform(random) >= density) continue;
    if (uniform(random) < 0.1) {
      tensor.bytes[(i + 1) * width - 1] = '\x80';
      continue;
    }
    for (size_t b = 0; b < width; ++b) tensor.bytes[i * width + b] = static_cast<char>(random());
  }
  return tensor;
}

std::string write_plain(const std::string& path, const std::vector<Tensor>& tensors) {
  std::vector<FileTensor> infos;
  for (const Tensor& tensor : tensors) infos.push_back(tensor.info);
  SafetensorsWriter writer(path, infos, {{"kept", "as it is"}});
  for (const Tensor& tensor : tensors)
    writer.write(tensor.info.name, tensor.bytes.data(), tensor.info.size());
  writer.finish();
  return path;
}

TEST(SparseEncoding, GivesBackEveryBit) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const Scratch scratch;
  std::vector<Tensor> tensors;
  for (DType type :
       {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i32, DType::u8, DType::boolean}) {
    for (int64_t size : {0, 1, 3, 7, 31, 255, 257, 5000, 140'001}) {  // the last spans blocks and marks
      for (double density : {0.0, 0.001, 0.01, 0.1, 0.5, 1.0}) {
        tensors.push_back(random_tensor(fmt::format("{} {} {}", to_string(type), size, density), type, size,
                                        density, random));
      }
    }
  }
  const auto plain = open_weights(write_plain(scratch.path("plain"), tensors));
  const SparseEncodingReport report = encode_sparse(*plain, scratch.path("sparse"));
  const auto sparse = open_weights(scratch.path("sparse"));
  EXPECT_EQ(sparse->format(), "sparse safetensors");
  EXPECT_EQ(sparse->metadata(), plain->metadata());
  ASSERT_EQ(sparse->tensors().size(), tensors.size());
  int64_t encodings[3] = {};
  for (size_t i = 0; i < report.tensors.size(); ++i) {
    const EncodedTensor& encoded = report.tensors[i];
    ++encodings[encoded.encoding == "dense" ? 0 : encoded.encoding == "bitmap" ? 1 : 2];
    EXPECT_LE(encoded.encoded_bytes, encoded.dense_bytes);
    EXPECT_EQ(encoded.values, count_values(*plain, i));
    EXPECT_EQ(sparse->stored_bytes(sparse->index(encoded.name)), encoded.encoded_bytes);
  }
  for (int64_t count : encodings) EXPECT_GT(count, 10);
  EXPECT_LT(report.file_bytes, InputFile(scratch.path("plain")).size());
  EXPECT_EQ(report.file_bytes, InputFile(scratch.path("sparse")).size());

  std::uniform_int_distribution<int64_t> anywhere(0, int64_t{1} << 40);
  for (const Tensor& tensor : tensors) {
    const size_t index = sparse->index(tensor.info.name);
    EXPECT_EQ(sparse->tensors()[index].dtype, tensor.info.dtype);
    EXPECT_EQ(sparse->tensors()[index].shape, tensor.info.shape);
    std::string back(tensor.bytes.size(), '#');
    sparse->read(index, 0, tensor.info.size(), back.data());
    EXPECT_TRUE(back == tensor.bytes) << tensor.info.name;
    const size_t width = static_cast<size_t>(size_of(tensor.info.dtype));
    for (int piece = 0; piece < 5 && tensor.info.size() > 0; ++piece) {
      const int64_t begin = anywhere(random) % tensor.info.size();
      const int64_t count = anywhere(random) % (tensor.info.size() - begin) + 1;
      std::string part(static_cast<size_t>(count) * width + 1, '#');
      sparse->read(index, begin, count, part.data());
      EXPECT_TRUE(
          part ==
          tensor.bytes.substr(static_cast<size_t>(begin) * width, static_cast<size_t>(count) * width) + "#")
          << tensor.info.name << " from " << begin << ", " << count;
    }
  }
  copy_weights(*sparse, scratch.path("again"));
  EXPECT_TRUE(slurp(scratch.path("again")) == slurp(scratch.path("plain")));
  encode_sparse(*sparse, scratch.path("sparse again"));
  EXPECT_TRUE(slurp(scratch.path("sparse again")) == slurp(scratch.path("sparse")));
}

TEST(SparseEncoding, TakesTheSmallestForm) {
  const Scratch scratch;
  const auto choice = [&](int64_t size, int64_t every) {
    Tensor tensor{{"w", DType::f32, {size}}, std::string(static_cast<size_t>(4 * size), '\0')};
    for (int64_t i = 0; i < size; i += every) tensor.bytes[static_cast<size_t>(4 * i)] = 1;
    const std::string path = write_plain(scratch.path("plain"), {tensor});
    const auto plain = open_weights(path);
    const EncodedTensor encoded = encode_sparse(*plain, scratch.path("sparse"), Existing::replace).tensors[0];
    std::filesystem::remove(path);
    return std::pair(encoded.encoding, encoded.encoded_bytes);
  };
  using Choice = std::pair<std::string, int64_t>;
  EXPECT_EQ(choice(8000, 1), Choice("dense", 32000));
  EXPECT_EQ(choice(8000, 2), Choice("bitmap", 1000 + 16000));
  EXPECT_EQ(choice(8000, 10), Choice("deltas", 800 + 3200));
  EXPECT_EQ(choice(8000, 8), Choice("bitmap", 1000 + 4000));  // equal: the first
  // Element 0, 400, …, 7600: a gap of 399 takes an escape and 144; behind the last, 399 take one more.
  EXPECT_EQ(choice(8000, 400), Choice("deltas", 1 + 19 * 2 + 1 + 80));
  EXPECT_EQ(choice(60, 60), Choice("dense", 240));  // not worth describing
}

TEST(SparseEncoding, ReadsWhatItsDescriptionSays) {
  const auto file = open_weights(test::golden_file("sparse.safetensors"));
  ASSERT_EQ(file->tensors().size(), 3u);
  EXPECT_EQ(file->read_f64("dense"), test::golden_values(15, DType::f32));
  EXPECT_EQ(file->tensor("half").shape, (std::vector<int64_t>{33, 31}));
  std::vector<double> half = test::golden_values(33 * 31, DType::f16);
  for (double& value : half) value = std::abs(value) < 4 ? 0.0 : value;
  half[3 * 31 + 3] = 0.0;
  const std::vector<double> read = file->read_f64("half");
  EXPECT_EQ(read, half);
  EXPECT_TRUE(std::signbit(read[3 * 31 + 3]));
  const std::vector<float> gaps = file->read_f32("gaps");
  ASSERT_EQ(gaps.size(), 2000u);
  for (size_t i = 0; i < gaps.size(); ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(gaps[i]);
    switch (i) {
      case 0:
        EXPECT_EQ(gaps[i], 1.0f);
        break;
      case 255:
        EXPECT_EQ(bits, 0x8000'0000u);
        break;
      case 511:
        EXPECT_EQ(gaps[i], 3.0f);
        break;
      case 767:
        EXPECT_TRUE(std::isnan(gaps[i]));
        break;
      case 768:
        EXPECT_EQ(bits, 1u);
        break;
      case 1500:
        EXPECT_EQ(gaps[i], 6.0f);
        break;
      default:
        EXPECT_EQ(bits, 0u) << i;
    }
  }
}

TEST(SparseEncoding, WritesWhatItsDescriptionSays) {
  const Scratch scratch;
  const auto golden = open_weights(test::golden_file("sparse.safetensors"));
  encode_sparse(*golden, scratch.path("again"));
  const SafetensorsFile ours(scratch.path("again")), theirs(test::golden_file("sparse.safetensors"));
  for (const char* name :
       {"half.sparse_bitmap", "half.sparse_values", "gaps.sparse_deltas", "gaps.sparse_values"}) {
    ASSERT_TRUE(ours.contains(name)) << name;
    const FileTensor& tensor = theirs.tensor(name);
    EXPECT_EQ(ours.tensor(name).shape, tensor.shape);
    std::string a(static_cast<size_t>(tensor.bytes()), 'a'), b(static_cast<size_t>(tensor.bytes()), 'b');
    ours.read(ours.index(name), 0, tensor.size(), a.data());
    theirs.read(theirs.index(name), 0, tensor.size(), b.data());
    EXPECT_EQ(a, b);
  }
}

TEST(SparseEncoding, KeepsTensorsThatBearItsNames) {
  const Scratch scratch;
  std::mt19937_64 random(1);
  std::vector<Tensor> tensors = {
      random_tensor("w", DType::f32, 9000, 0.01, random),
      random_tensor("w.sparse_values", DType::f32, 9000, 0.01, random),
      random_tensor("w.sparse_values.sparse_bitmap", DType::f32, 9000, 0.3, random)};
  const auto plain = open_weights(write_plain(scratch.path("plain"), tensors));
  encode_sparse(*plain, scratch.path("sparse"));
  const auto sparse = open_weights(scratch.path("sparse"));
  ASSERT_EQ(sparse->tensors().size(), 3u);
  copy_weights(*sparse, scratch.path("again"));
  EXPECT_TRUE(slurp(scratch.path("again")) == slurp(scratch.path("plain")));
}

/// Reading is const for all formats, the ones that keep a place in a stream or make marks on demand included.
TEST(WeightFile, SeveralThreadsMayRead) {
  for (const char* name : {"numpy_deflated.npz", "numpy_fortran_deflated.npz", "sparse.safetensors"}) {
    const auto file = open_weights(test::golden_file(name));
    std::vector<std::vector<double>> expected;
    for (const FileTensor& tensor : file->tensors()) {
      expected.push_back(open_weights(test::golden_file(name))->read_f64(tensor.name));
    }
    std::vector<int> wrong(4, 0);
    std::vector<std::thread> threads;
    for (size_t t = 0; t < wrong.size(); ++t) {
      threads.emplace_back([&, t] {
        for (size_t k = 0; k < 40; ++k) {
          const size_t i = (k + t) % expected.size();
          const std::vector<double> read = file->read_f64(file->tensors()[i].name);
          wrong[t] += !read.empty() &&
                      std::memcmp(read.data(), expected[i].data(), read.size() * sizeof(double)) != 0;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, std::vector<int>(4, 0)) << name;
  }
}

TEST(SparseEncoding, TakesNothingOnTrust) {
  const Scratch scratch;
  const auto refused = [&](const std::string& description, std::vector<uint8_t> code,
                           std::initializer_list<std::string> words, int64_t values = 2,
                           const char* suffix = "bitmap") {
    const std::string path = scratch.path("lie");
    SafetensorsWriter writer(
        path,
        {{"w.sparse_values", DType::f32, {values}},
         {std::string("w.sparse_") + suffix, DType::u8, {static_cast<int64_t>(code.size())}}},
        {{"sparse_encoding", description}}, Existing::replace);
    const std::vector<float> ones(static_cast<size_t>(values), 1.0f);
    writer.write("w.sparse_values", ones.data(), values);
    writer.write(std::string("w.sparse_") + suffix, code.data(), static_cast<int64_t>(code.size()));
    writer.finish();
    try {
      open_weights(path)->read_f32("w");
      ADD_FAILURE() << "accepted: " << description;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      const std::string text = error.what();
      EXPECT_NE(text.find(path), std::string::npos) << text;
      for (const std::string& word : words)
        EXPECT_NE(text.find(word), std::string::npos) << word << " in " << text;
    }
  };
  const auto tensor = [](const char* encoding, const char* shape) {
    return fmt::format(R"({{"schema":1,"tensors":{{"w":{{"encoding":"{}","dtype":"F32","shape":{}}}}}}})",
                       encoding, shape);
  };
  refused("{", {1}, {"JSON"});
  refused("{}", {1}, {"schema"});
  refused(R"({"schema":2,"tensors":{}})", {1}, {"schema"});
  refused(R"({"schema":1})", {1}, {"tensors"});
  refused(R"({"schema":1,"tensors":{"w":{"encoding":"bitmap"}}})", {1}, {"\"w\""});
  refused(R"({"schema":1,"tensors":{"v":{"encoding":"bitmap","dtype":"F32","shape":[10]}}})", {1},
          {"\"v\"", "missing"});
  refused(R"({"schema":1,"tensors":{"w":{"encoding":"bitmap","dtype":"F64","shape":[10]}}})", {3, 0},
          {"must be F64"});
  refused(tensor("runs", "[10]"), {3, 0}, {"\"runs\""});
  refused(tensor("bitmap", "[-1]"), {3, 0}, {"whole numbers"});
  refused(tensor("bitmap", "[9223372036854775807]"), {3, 0}, {"overflows"});
  refused(tensor("bitmap", "[20]"), {3, 0}, {"2 bytes, expected 3"});
  refused(tensor("bitmap", "[10]"), {7, 0}, {"3 values, but there are 2"});
  refused(tensor("bitmap", "[10]"), {1, 0}, {"1 values, but there are 2"});
  refused(tensor("bitmap", "[10]"), {1, 4}, {"behind the last"});
  refused(tensor("bitmap", "[1]"), {1}, {"2 values for 1 elements"});
  refused(tensor("deltas", "[10]"), {0, 0, 0}, {"3 values"}, 2, "deltas");
  refused(tensor("deltas", "[10]"), {0, 9}, {"reach element 10"}, 2, "deltas");
  refused(tensor("deltas", "[10]"), {0, 0, 255}, {"reach element"}, 2, "deltas");
  refused(tensor("deltas", "[1021]"), {0, 0, 255}, {"can't reach the end of 1021"}, 2, "deltas");
  refused(tensor("deltas", "[700]"), {0, 0, 0}, {"stop at element 3"}, 3, "deltas");
  refused(tensor("deltas", "[1152921504606846976]"), {0, 0, 0}, {"can't reach"}, 3, "deltas");
}

TEST(SparseEncoding, SurvivesDamage) {
  test::expect_survives_damage(test::golden_file("sparse.safetensors"));
}

}  // namespace
}  // namespace coppice
