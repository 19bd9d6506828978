// Files through the C interface: pruned as the program prunes them, looked into, converted.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <coppice/coppice.hpp>
#include <nlohmann/json.hpp>

#include "engine/files/safetensors.hpp"
#include "tests/tools/program.hpp"

namespace coppice::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Files : public testing::Test {
 protected:
  std::string at(const std::string& name) const { return (folder / name).string(); }
  /// A file of one matrix [rows, 64] of ascending values, and a bias.
  void write(const std::string& name, int64_t rows) const {
    std::vector<float> matrix(static_cast<size_t>(rows * 64)), bias(8, 1.0f);
    for (size_t i = 0; i < matrix.size(); ++i) matrix[i] = static_cast<float>(i) - 100.0f;
    SafetensorsWriter writer(at(name), {{"w", DType::f32, {rows, 64}}, {"bias", DType::f32, {8}}});
    writer.write("w", matrix.data(), rows * 64);
    writer.write("bias", bias.data(), 8);
    writer.finish();
  }
  Folder folder;
};

TEST_F(Files, ArePrunedAsTheProgramPrunesThem) {
  write("in.safetensors", 33);
  const coppice_api::Pruned pruned = coppice_api::prune_file(
      at("in.safetensors"), at("c.safetensors"), {"criterion=magnitude", "sparsity=0.75", "memory=64MiB"});
  EXPECT_EQ(pruned.kept, 33u * 16);
  Process program({"prune", "in.safetensors", "--criterion", "magnitude", "--sparsity", "0.75", "-o",
                   "p.safetensors", "--quiet"},
                  folder.path());
  ASSERT_EQ(program.wait().code, 0);
  EXPECT_EQ(read_text(folder / "c.safetensors"), read_text(folder / "p.safetensors"));
  EXPECT_EQ(read_text(folder / "c.safetensors.masks.safetensors"),
            read_text(folder / "p.safetensors.masks.safetensors"));
  EXPECT_EQ(pruned.report, read_text(folder / "c.safetensors.report.json"));

  // A dry run writes nothing and says what would be.
  const std::vector<std::string> before = folder.names();
  const auto plan = nlohmann::json::parse(
      coppice_api::prune_file(at("in.safetensors"), "", {"sparsity=0.75", "dry_run=true"}).report);
  EXPECT_EQ(plan.at("parameters").at("kept"), 33 * 16);
  EXPECT_EQ(folder.names(), before);

  // Masks made earlier, alone.
  const coppice_api::Pruned masked =
      coppice_api::prune_file(at("in.safetensors"), at("m.safetensors"),
                              {"masks=" + at("c.safetensors.masks.safetensors"), "sparse_encoding=true"});
  EXPECT_EQ(masked.kept, 33u * 16);
  coppice_api::convert_file(at("m.safetensors"), "dense", at("d.safetensors"));
  EXPECT_EQ(coppice_api::Weights(at("d.safetensors")).read(0),
            coppice_api::Weights(at("c.safetensors")).read(0));
}

TEST_F(Files, AreLookedInto) {
  write("in.safetensors", 5);
  const coppice_api::Weights weights(at("in.safetensors"));
  ASSERT_EQ(weights.size(), 2u);
  const size_t w = weights.find("w");
  const coppice_tensor_info info = weights[w];
  EXPECT_STREQ(info.name, "w");
  EXPECT_EQ(info.dtype, COPPICE_F32);
  EXPECT_THAT(std::vector<int64_t>(info.shape, info.shape + info.rank), ElementsAre(5, 64));
  EXPECT_EQ(info.elements, 320);
  EXPECT_EQ(info.stored_bytes, 1280);
  EXPECT_EQ(weights.nonzeros(w), 319);
  EXPECT_EQ(weights.read<double>(w)[319], 219.0);
  std::vector<float> few(3);
  weights.read(w, 99, coppice_api::Span<float>(few));
  EXPECT_THAT(few, ElementsAre(-1.0f, 0.0f, 1.0f));
  EXPECT_THAT(coppice_api::inspect(at("in.safetensors")), HasSubstr("\"zeros\": 1"));

  EXPECT_THROW(weights[2], coppice_api::Error);
  EXPECT_THROW(weights.find("v"), coppice_api::Error);
  EXPECT_THROW(weights.read(w, 318, coppice_api::Span<float>(few)), coppice_api::Error);
  EXPECT_THROW(weights.read(w, -1, coppice_api::Span<float>(few)), coppice_api::Error);
  EXPECT_THROW(coppice_api::Weights{at("nothing")}, coppice_api::Error);
  EXPECT_EQ(coppice_weights_read(weights.get(), w, 0, 1, COPPICE_I8, few.data()), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_weights_read(weights.get(), w, 0, 1, COPPICE_F32, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_weights_read(nullptr, w, 0, 1, COPPICE_F32, few.data()), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_weights_tensor(weights.get(), w, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_weights_open(nullptr, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_weights_count(nullptr), 0u);
  coppice_weights_close(nullptr);
}

TEST_F(Files, WrongOptionsSayWhich) {
  write("in.safetensors", 3);
  const std::vector<std::string> before = folder.names();
  for (const auto& [option, message] :
       std::vector<std::pair<std::string, std::string>>{{"memory=much", "memory is \"much\""},
                                                        {"dry_run=yes", "dry_run is \"yes\""},
                                                        {"gates=w", "gates is \"\""},
                                                        {"masks=nothing", "nothing"},
                                                        {"gradients=nothing", "nothing"},
                                                        {"criterion=taylor", "gradients"},
                                                        {"keep_diagonal=v", "matches no tensor"},
                                                        {"nonsense=1", "nonsense"}}) {
    try {
      coppice_api::prune_file(at("in.safetensors"), at("out.safetensors"), {option});
      ADD_FAILURE() << option;
    } catch (const coppice_api::Error& error) {
      EXPECT_EQ(error.status(), COPPICE_BAD_INPUT);
      EXPECT_THAT(error.what(), HasSubstr(message)) << option;
    }
  }
  EXPECT_EQ(
      coppice_prune_file(at("in.safetensors").c_str(), nullptr, nullptr, 0, 0, nullptr, nullptr, nullptr),
      COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_convert_file(at("in.safetensors").c_str(), "thin", at("out").c_str(), 0),
            COPPICE_BAD_INPUT);
  EXPECT_EQ(folder.names(), before);
}

TEST_F(Files, TheProgressFunctionStopsAndLeavesNothing) {
  write("in.safetensors", 1 << 14);
  const std::vector<std::string> before = folder.names();
  for (const char* stage : {"select", "cut"}) {
    coppice_api::Control control;
    control.progress = [&](const coppice_progress& progress) { return std::string(progress.stage) == stage; };
    for (const coppice_api::Options& options :
         {coppice_api::Options{"sparsity=0.5"},
          coppice_api::Options{"sparsity=0.5", "sparse_encoding=true"}}) {
      try {
        coppice_api::prune_file(at("in.safetensors"), at("out.safetensors"), options, false, control);
        ADD_FAILURE() << "expected to be interrupted in " << stage;
      } catch (const coppice_api::Error& error) {
        EXPECT_EQ(error.status(), COPPICE_INTERRUPTED);
        EXPECT_THAT(error.what(), HasSubstr("nothing was written"));
      }
      EXPECT_EQ(folder.names(), before);
    }
  }
}

}  // namespace
}  // namespace coppice::test
