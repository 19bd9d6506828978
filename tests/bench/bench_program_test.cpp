// `coppice bench` as a user runs it, and what the other verbs make of what it remembered.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/tools/program.hpp"

namespace coppice::test {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

class Bench : public ::testing::Test {
 protected:
  void SetUp() override {
    write_text(folder / "text.txt", small_text(300));
    write_text(folder / "r.toml", kSmallRecipe);
    setenv("COPPICE_CACHE", (folder / "cache").c_str(), 1);
  }
  std::string works(const std::vector<std::string>& arguments) {
    const Outcome outcome = coppice(arguments, folder.path());
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.out;
  }
  std::string fails(const std::vector<std::string>& arguments) {
    const std::vector<std::string> before = folder.names();
    const Outcome outcome = coppice(arguments, folder.path());
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(folder.names(), before);
    return outcome.err;
  }
  fs::path cache() const { return folder / "cache/layouts.json"; }

  Folder folder;
};

const std::vector<std::string> kTinyGrid = {"bench",   "--cell",      "lstm",       "--hidden", "8,16",
                                            "--batch", "1,4",         "--sparsity", "0.5,0.9",  "--turns",
                                            "1",       "--baselines", "none",       "--device", "cpu"};

TEST_F(Bench, AGridGivesATableAndAFolder) {
  std::vector<std::string> arguments = kTinyGrid;
  arguments.insert(arguments.end(), {"-o", "out"});
  const Outcome outcome = coppice(arguments, folder.path());
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("unstructured"), HasSubstr("blocks"), HasSubstr("balanced"),
                                 HasSubstr("lstm 16, B 4"), HasSubstr("90.0 %"), HasSubstr("pays from")));
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("This takes about"), HasSubstr("bench ...")));
  const Json json = Json::parse(read_text(folder / "out/bench.json"));
  EXPECT_EQ(json.at("cells").size(), 8u);
  EXPECT_EQ(json.at("machine").at("threads"), 1);
  EXPECT_THAT(read_text(folder / "out/bench.html"), HasSubstr("<svg"));
  EXPECT_TRUE(read_text(folder / "out/heat_map.svg").starts_with("<svg"));
  EXPECT_FALSE(fs::exists(cache())) << "masks at random are nobody's model";

  EXPECT_THAT(fails(arguments), HasSubstr("--force"));
  arguments.push_back("--force");
  arguments.push_back("--quiet");
  arguments.push_back("--json");
  const Outcome again = coppice(arguments, folder.path());
  EXPECT_EQ(again.err, "");
  EXPECT_EQ(again.out, read_text(folder / "out/bench.json"));
}

TEST_F(Bench, SaysWhatIsWrongAndLeavesNothing) {
  EXPECT_THAT(fails({"bench"}), HasSubstr("MODEL"));
  EXPECT_THAT(fails({"bench", "nowhere"}), HasSubstr("nowhere"));
  EXPECT_THAT(fails({"bench", "--cell", "lstm", "--sparsity", "1.5", "-o", "out"}), HasSubstr("1.5"));
  EXPECT_THAT(fails({"bench", "--cell", "lstm", "--hidden", "0", "-o", "out"}), HasSubstr("width"));
  EXPECT_THAT(fails({"bench", "--cell", "lstm", "--layout", "origami", "--quiet"}), HasSubstr("balanced"));
  EXPECT_THAT(fails({"bench", "--cell", "lstm", "--layout", "csr", "--values", "bf16", "--quiet"}),
              HasSubstr("csr"));
  EXPECT_THAT(fails({"bench", "--hidden", "8"}), HasSubstr("--cell"));
  EXPECT_THAT(fails({"bench", "--cell", "lstm", "--baselines", "missing.json", "--quiet"}),
              HasSubstr("missing.json"));
}

TEST_F(Bench, StopsWithNothingWritten) {
  const std::vector<std::string> before = folder.names();
  Process process({"bench", "--cell", "lstm", "--hidden", "64", "--batch", "1", "--sparsity", "0.5",
                   "--turns", "10000", "--baselines", "none", "-o", "out"},
                  folder.path());
  EXPECT_TRUE(
      process.wait_until([&] { return process.err_so_far().find("bench ...") != std::string::npos; }));
  process.send(SIGINT);
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("nothing was written"));
  EXPECT_EQ(folder.names(), before);
}

TEST_F(Bench, AModelsOwnMatricesAreRemembered) {
  works({"run", "r.toml", "-o", "run", "--quiet"});
  const std::string text = works({"bench", "run", "--batch", "1,4", "--turns", "5", "--baselines", "none"});
  EXPECT_THAT(text, AllOf(HasSubstr("run/sparse"), HasSubstr("rnn.weight_hh_l0"), HasSubstr("48 x 12"),
                          HasSubstr("decoder.weight"), Not(HasSubstr("embedding")), HasSubstr("products")));
  EXPECT_THAT(text, AnyOf(HasSubstr("layouts.json"), HasSubstr("clean enough")));
  works({"bench", "run/dense", "--batch", "1", "--turns", "1", "--baselines", "none", "--no-cache", "-o",
         "out"});
  EXPECT_THAT(read_text(folder / "out/bench.html"), HasSubstr("rnn.weight_ih_l0"));
  EXPECT_THAT(works({"bench", "run", "--batch", "1", "--turns", "1", "--values", "bf16", "--device", "cpu",
                     "--baselines", "none"}),
              AllOf(HasSubstr("weights in bf16"), HasSubstr("Not remembered")));
}

/// Every matrix of the small model, at every density, faster in `layout`.
void write_cache(const fs::path& file, const Json& bench, const std::string& layout) {
  Json cache = {{"schema", 1}, {"entries", Json::array()}};
  const Json& machine = bench.at("machine");
  for (const Json& cell : bench.at("cells")) {
    for (int density = 0; density < 40; ++density) {
      cache["entries"].push_back({{"device", machine.at("processor")},
                                  {"detail", machine.at("detail")},
                                  {"threads", machine.at("threads")},
                                  {"version", bench.at("versions").at("coppice")},
                                  {"date", "2026-01-02T03:04:05Z"},
                                  {"out", cell.at("rows")},
                                  {"in", cell.at("cols")},
                                  {"density", density},
                                  {"batch", 4},
                                  {"seconds", {{"sell", 2e-6}, {"csr", 1e-7}, {layout, 1e-6}}}});
    }
  }
  fs::create_directories(file.parent_path());
  write_text(file, cache.dump());
}

TEST_F(Bench, TheChoiceLandsInTheRunAndChangesNoBit) {
  const std::vector<std::string> cpu = {"--device", "cpu", "--threads", "1", "--json"};
  const auto with_cpu = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), cpu.begin(), cpu.end());
    return arguments;
  };
  const Json usual = Json::parse(works(with_cpu({"run", "r.toml", "-o", "usual"})));
  EXPECT_EQ(usual.at("execution").at("layouts").at("rnn.weight_hh_l0"), "sell");
  EXPECT_THAT(read_text(folder / "usual/recipe.toml"), HasSubstr("layout = \"sell\""));

  const Json bench = Json::parse(works(
      with_cpu({"bench", "usual", "--batch", "4", "--turns", "1", "--no-cache", "--baselines", "none"})));
  write_cache(cache(), bench, "dense");
  const Json chosen = Json::parse(works(with_cpu({"run", "r.toml", "-o", "chosen"})));
  EXPECT_EQ(chosen.at("execution").at("layouts").at("rnn.weight_hh_l0"), "dense");
  EXPECT_EQ(chosen.at("metrics").at("sparse").at("loss"), usual.at("metrics").at("sparse").at("loss"));
  EXPECT_EQ(chosen.at("execution").at("probe_difference"), 0.0);
  const std::string recipe = read_text(folder / "chosen/recipe.toml");
  EXPECT_THAT(recipe, AllOf(HasSubstr("layout = \"sell\""), HasSubstr("rnn.weight_hh_l0=dense")));
  const auto loss = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"eval", "usual/sparse", "--data", "text.txt", "--sparse"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Json::parse(works(with_cpu(arguments)));
  };
  EXPECT_EQ(loss({}).at("layouts").at("rnn.weight_hh_l0"), "dense");
  EXPECT_EQ(loss({"--layout", "sell"}).at("layouts").at("rnn.weight_hh_l0"), "sell");
  EXPECT_EQ(loss({}).at("loss"), loss({"--layout", "sell"}).at("loss"));
  const std::vector<std::string> sample = {"sample", "usual/sparse", "--sparse", "--length", "30"};
  const std::string text = works(sample);

  // The run's recipe names what was chosen, so it is chosen again without the cache.
  fs::remove_all(folder / "cache");
  const Json again = Json::parse(works(with_cpu({"run", "chosen/recipe.toml", "-o", "again"})));
  EXPECT_EQ(again.at("execution").at("layouts"), chosen.at("execution").at("layouts"));
  EXPECT_EQ(works(sample), text);

  // One that can't be read is told, and ignored.
  fs::create_directory(folder / "cache");
  write_text(cache(), "{\"schema\": 1, \"ent");
  const Outcome warned = coppice(with_cpu({"run", "r.toml", "-o", "warned"}), folder.path());
  EXPECT_EQ(warned.code, 0);
  EXPECT_THAT(warned.err, HasSubstr("warning"));
  EXPECT_EQ(Json::parse(warned.out).at("execution").at("layouts"), usual.at("execution").at("layouts"));
  EXPECT_THAT(
      fails({"run", "r.toml", "-o", "x", "--quiet", "--set", "sparse.layouts=[\"rnn.weight_hh_l7=sell\"]"}),
      HasSubstr("rnn.weight_hh_l7"));
}

}  // namespace
}  // namespace coppice::test
