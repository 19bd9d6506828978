// Checkpoints larger than the memory that the program is given: pruned, masked and converted as they stream
// by.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "bench/synthetic_checkpoint.hpp"
#include "engine/files/safetensors.hpp"
#include "tests/test_device.hpp"
#include "tests/tools/program.hpp"

namespace coppice::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr int64_t kMiB = int64_t{1} << 20;

// A sanitizer's shadow is resident too.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

class Stream : public ::testing::Test {
 protected:
  /// On the processor: the memory of a GPU's libraries is nobody's cap.
  std::string works(std::vector<std::string> arguments) {
    if (arguments.front() == "prune") arguments.insert(arguments.end(), {"--device", "cpu"});
    outcome = coppice(arguments, folder.path());
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.out;
  }
  std::string fails(std::vector<std::string> arguments) {
    const std::vector<std::string> before = folder.names();
    arguments.push_back("--quiet");
    outcome = coppice(arguments, folder.path());
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(folder.names(), before);
    return outcome.err;
  }
  void expect_peak(int64_t cap) {
    if (kSanitized) return;
    EXPECT_LE(outcome.peak_bytes, cap + 64 * kMiB);
  }
  static int64_t size_of_all(const bench::CheckpointOptions& options) {
    int64_t bytes = 0;
    for (const auto& tensor : bench::checkpoint_tensors(options)) bytes += tensor.tensor.bytes();
    return bytes;
  }

  Folder folder;
  Outcome outcome;
};

/// Two reads and one write of half a gigabyte through 64 MiB.
TEST_F(Stream, PeakMemoryStaysUnderTheCap) {
  bench::CheckpointOptions options;
  options.family = "xlstm-7b";
  options.width = kSanitized ? 0.1 : 0.5;
  options.layers = 3;
  options.shards = 4;
  ASSERT_TRUE(kSanitized || size_of_all(options) > 480 * kMiB);
  bench::write_checkpoint(options, folder / "model");
  const Json report = Json::parse(works({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.9",
                                         "--memory", "64MiB", "-o", "out", "--json", "--quiet"}));
  expect_peak(64 * kMiB);
  EXPECT_EQ(report.at("passes"), 2);
  EXPECT_EQ(report.at("bracket_misses"), 0);
  const Json& group = report.at("groups").at(0);
  const auto units = group.at("units").get<double>();
  EXPECT_EQ(group.at("cut").get<double>(), std::nearbyint(0.9 * units));
  EXPECT_EQ(read_text(folder / "out" / "model.safetensors.index.json"),
            read_text(folder / "model" / "model.safetensors.index.json"));
  for (int shard = 1; shard <= 4; ++shard) {
    const std::string name = fmt::format("model-{:05}-of-00004.safetensors", shard);
    EXPECT_EQ(fs::file_size(folder / "out" / name), fs::file_size(folder / "model" / name));
  }
  EXPECT_EQ(Json::parse(read_text(folder / "out" / "report.json")), report);
}

/// Millions of small groups take no more than one large one.
TEST_F(Stream, SmallGroupsStayUnderTheCap) {
  bench::CheckpointOptions options;
  options.family = "llama-8b";
  options.width = kSanitized ? 0.03 : 0.2;
  options.layers = 4;
  options.shards = 3;
  ASSERT_TRUE(kSanitized || size_of_all(options) > 140 * kMiB);
  bench::write_checkpoint(options, folder / "model");
  works({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.5", "--scope", "row", "--memory",
         "8MiB", "-o", "rows", "--json", "--quiet"});
  expect_peak(8 * kMiB);
  works({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.5", "--pattern", "row", "--reduce",
         "l2", "--memory", "8MiB", "--dry-run", "--quiet"});
  expect_peak(8 * kMiB);
}

/// Blocks and n of m hold nothing for each of their millions of groups.
TEST_F(Stream, PatternsStayUnderTheCap) {
  bench::CheckpointOptions options;
  options.family = "llama-8b";
  options.width = kSanitized ? 0.03 : 0.2;
  options.layers = 4;
  options.shards = 3;
  bench::write_checkpoint(options, folder / "model");
  for (const char* pattern : {"block:4x1", "2:4"}) {
    const Json report =
        Json::parse(works({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.5", "--pattern",
                           pattern, "--memory", "8MiB", "-o", pattern, "--json", "--quiet"}));
    expect_peak(8 * kMiB);
    EXPECT_EQ(report.at("pattern"), pattern);
    EXPECT_EQ(report.at("bracket_misses"), 0);
    const Json& group = report.at("groups").at(0);
    EXPECT_EQ(group.at("cut").get<double>(), std::nearbyint(0.5 * group.at("units").get<double>()));
    works({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.5", "--pattern", pattern,
           "--threads", "1", "-o", "again", "--quiet"});
    for (const auto& entry : fs::directory_iterator(folder / "again")) {
      const std::string name = entry.path().filename().string();
      if (name == "report.json") continue;
      EXPECT_TRUE(read_text(folder / pattern / name) == read_text(folder / "again" / name)) << name;
    }
    fs::remove_all(folder / "again");
  }
  EXPECT_THAT(fails({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.6", "--pattern", "2:4",
                     "--dry-run"}),
              AllOf(HasSubstr("2:4"), HasSubstr("0.5"), HasSubstr("0.6")));
  EXPECT_THAT(fails({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.5", "--pattern",
                     "block:4x1", "--reduce", "product", "--memory", "8MiB", "--dry-run"}),
              AllOf(HasSubstr("product"), HasSubstr("--memory")));
}

/// The same bits for any memory and any number of threads; the sparse encoding of shards and back.
TEST_F(Stream, TheSameFilesHoweverTheyStream) {
  bench::CheckpointOptions options;
  options.family = "rwkv7-1.5b";
  options.width = 0.125;
  options.layers = 2;
  options.shards = 3;
  options.dtype = DType::f16;
  bench::write_checkpoint(options, folder / "model");
  works({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.8", "-o", "a", "--threads", "1",
         "--quiet"});
  works({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.8", "-o", "b", "--threads", "2",
         "--memory", "4MiB", "--quiet"});
  works({"convert", "a", "--to", "sparse", "-o", "small", "--quiet"});
  works({"convert", "small", "--to", "dense", "-o", "plain", "--quiet"});
  works({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.8", "-o", "c", "--sparse-encoding",
         "--quiet"});
  for (const auto& entry : fs::directory_iterator(folder / "a")) {
    const std::string name = entry.path().filename().string();
    if (name == "report.json") continue;
    EXPECT_TRUE(read_text(folder / "a" / name) == read_text(folder / "b" / name)) << name;
    if (name == "masks.safetensors") {
      EXPECT_TRUE(read_text(folder / "a" / name) == read_text(folder / "c" / name));
      continue;
    }
    EXPECT_TRUE(read_text(folder / "a" / name) == read_text(folder / "plain" / name)) << name;
    EXPECT_TRUE(read_text(folder / "small" / name) == read_text(folder / "c" / name)) << name;
  }
  const auto bytes_in = [&](const char* name) {
    uintmax_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(folder / name)) bytes += entry.file_size();
    return bytes;
  };
  EXPECT_LT(bytes_in("small"), bytes_in("plain"));
  // One file where the name asks for one; masks made by one way serve another.
  works({"prune", "model", "--masks", "a/masks.safetensors", "-o", "one.safetensors", "--quiet"});
  const auto together = open_weights((folder / "one.safetensors").string());
  const auto apart = open_weights((folder / "a").string());
  for (const FileTensor& tensor : apart->tensors()) {
    EXPECT_TRUE(together->read_f32(tensor.name) == apart->read_f32(tensor.name)) << tensor.name;
  }
}

/// Through a GPU that could not hold the file: the processor's bits.
TEST_F(Stream, AGpuSmallerThanTheFileGivesTheSameFiles) {
  const std::string device = test_device();
  if (device == "cpu") GTEST_SKIP() << "for a GPU: COPPICE_TEST_DEVICE names none";
  bench::CheckpointOptions options;
  options.family = "llama-8b";
  options.width = kSanitized ? 0.06 : 0.12;
  options.layers = 4;
  options.shards = 3;
  options.dtype = DType::bf16;
  const int64_t room = kSanitized ? 12 * kMiB : 24 * kMiB;
  ASSERT_GT(size_of_all(options), room);
  bench::write_checkpoint(options, folder / "model");
  ::setenv("COPPICE_CUDA_TOTAL_MEMORY", std::to_string(room).c_str(),
           1);  // of the device that runs on the host
  for (const char* scope : {"global", "row"}) {
    const std::vector<std::string> prune = {"prune", "model",   "--criterion", "magnitude", "--sparsity",
                                            "0.9",   "--scope", scope,         "--quiet",   "-o"};
    std::vector<std::string> on_gpu = prune, on_cpu = prune;
    on_gpu.insert(on_gpu.end(), {std::string("gpu-") + scope, "--device", device});
    on_cpu.insert(on_cpu.end(), {std::string("cpu-") + scope});
    outcome = coppice(on_gpu, folder.path());
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    works(on_cpu);
    for (const auto& entry : fs::directory_iterator(folder / (std::string("cpu-") + scope))) {
      const std::string name = entry.path().filename().string();
      if (name == "report.json") continue;
      EXPECT_TRUE(read_text(entry.path()) == read_text(folder / (std::string("gpu-") + scope) / name))
          << name;
    }
  }
  ::unsetenv("COPPICE_CUDA_TOTAL_MEMORY");
}

TEST_F(Stream, DryRunsSayAndWriteNothing) {
  bench::CheckpointOptions options;
  options.family = "mamba2-2.7b";
  options.width = 0.05;
  options.layers = 2;
  bench::write_checkpoint(options, folder / "model");
  const std::string said =
      works({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.5", "--dry-run", "--quiet"});
  EXPECT_THAT(said, AllOf(HasSubstr("backbone.layers.0.mixer.in_proj.weight"), HasSubstr("nothing written"),
                          HasSubstr("short convolution"), HasSubstr("embedding")));
  EXPECT_EQ(folder.names(), std::vector<std::string>{"model"});
}

TEST_F(Stream, ErrorsLeaveNothing) {
  bench::CheckpointOptions options;
  options.family = "llama-8b";
  options.width = 0.02;
  options.layers = 1;
  options.shards = 2;
  bench::write_checkpoint(options, folder / "model");
  const auto prune = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"prune", "model", "--sparsity", "0.5", "-o", "out"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return fails(arguments);
  };
  EXPECT_THAT(prune({"--criterion", "magnitude", "--memory", "lots"}),
              AllOf(HasSubstr("--memory"), HasSubstr("lots")));
  EXPECT_THAT(prune({"--criterion", "magnitude", "--memory", "1kB"}), HasSubstr("--memory"));
  EXPECT_THAT(prune({"--criterion", "magnitude", "--gates", ".*proj"}), HasSubstr("PATTERN=N"));
  EXPECT_THAT(prune({"--criterion", "wanda"}), HasSubstr("--activations"));
  EXPECT_THAT(prune({"--criterion", "taylor"}), HasSubstr("gradient"));
  EXPECT_THAT(prune({"--criterion", "magnitude", "--scope", "row", "--pattern", "row"}), HasSubstr("row"));
  EXPECT_THAT(prune({"--criterion", "magnitude", "--scope", "head"}), HasSubstr("head"));
  EXPECT_THAT(fails({"prune", "model", "--criterion", "magnitude"}), HasSubstr("--output"));
  EXPECT_THAT(fails({"convert", "model", "--to", "csr", "-o", "out"}), HasSubstr("csr"));
  EXPECT_THAT(fails({"convert", "nothing", "--to", "dense", "-o", "out"}), HasSubstr("nothing"));
  EXPECT_THAT(
      fails({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.5", "-o", "model", "--force"}),
      HasSubstr("the folder that is read"));
  EXPECT_THAT(fails({"convert", "model", "--to", "sparse", "-o", "model", "--force"}),
              HasSubstr("the folder that is read"));
  // A shard that ends early is known before anything is written.
  const fs::path shard = folder / "model" / "model-00002-of-00002.safetensors";
  fs::resize_file(shard, fs::file_size(shard) - 1);
  EXPECT_THAT(prune({"--criterion", "magnitude"}), HasSubstr("model-00002-of-00002.safetensors"));
}

}  // namespace
}  // namespace coppice::test
