// The program as a user runs it: every verb on small data, and everything that can be wrong with what it is
// given.

#include "tests/tools/program.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/data_path.hpp"

namespace coppice::test {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

class Program : public ::testing::Test {
 protected:
  void SetUp() override {
    write_text(folder / "text.txt", small_text(300));
    write_text(folder / "r.toml", kSmallRecipe);
  }
  Outcome run(const std::vector<std::string>& arguments, long file_limit = -1) {
    return coppice(arguments, folder.path(), file_limit);
  }
  /// Runs what must work; gives its standard output.
  std::string works(const std::vector<std::string>& arguments) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.out;
  }
  /// Runs what must fail with one line on standard error, nothing on standard output and nothing left behind.
  std::string fails(const std::vector<std::string>& arguments, int code = 2, long file_limit = -1) {
    const std::vector<std::string> before = folder.names();
    std::vector<std::string> quiet = arguments;
    if (arguments.size() > 1) quiet.push_back("--quiet");
    const Outcome outcome = run(quiet, file_limit);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(outcome.err.starts_with("coppice: ")) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(folder.names(), before);
    return outcome.err;
  }

  Folder folder;
};

TEST_F(Program, HelpHasAnExampleForEveryVerb) {
  EXPECT_THAT(works({"--help"}), HasSubstr("Example"));
  EXPECT_THAT(works({"--version"}), HasSubstr("coppice 0."));
  for (const char* verb :
       {"run", "resume", "train", "eval", "sample", "gradients", "prune", "retrain", "inspect", "devices"}) {
    EXPECT_THAT(works({verb, "--help"}),
                AllOf(HasSubstr("Example"), HasSubstr(std::string("coppice ") + verb)));
  }
  EXPECT_THAT(works({"run", "--help-keys"}), HasSubstr("sparsity = 0.9"));
  EXPECT_THAT(works({"prune", "--help"}), HasSubstr("fisher"));
}

TEST_F(Program, DevicesListsTheCpuAndWhyThereIsNoGpu) {
  EXPECT_THAT(works({"devices"}), HasSubstr("cpu"));
  const Json devices = Json::parse(works({"devices", "--json"}));
  ASSERT_FALSE(devices.empty());
  EXPECT_EQ(devices[0].at("name"), "cpu");
  EXPECT_TRUE(devices[0].at("available"));
  for (const Json& device : devices) {
    EXPECT_TRUE(device.at("available") || !device.at("reason").get<std::string>().empty());
  }
}

TEST_F(Program, RunsTheInstructionSetThatTheEnvironmentNames) {
  for (const std::string isa : {"baseline", "avx2", "avx512", "mmx"}) {
    SCOPED_TRACE(isa);
    setenv("COPPICE_ISA", isa.c_str(), 1);
    if (const Outcome outcome = run({"devices", "--json"}); outcome.code == 0) {
      EXPECT_EQ(Json::parse(outcome.out)[0].at("detail"), isa);
    } else {
      EXPECT_NE(isa, "baseline");
      const std::string why = isa == "mmx"
                                  ? "COPPICE_ISA is \"mmx\", expected baseline, avx2 or avx512\n"
                                  : "COPPICE_ISA is " + isa + ", which this processor does not have\n";
      EXPECT_EQ(fails({"devices"}), "coppice: " + why);
      EXPECT_EQ(fails({"train", "r.toml", "-o", "model"}), "coppice: " + why);
    }
    unsetenv("COPPICE_ISA");
  }
}

TEST_F(Program, RunWritesTheFolderAndEndsWithTheTable) {
  const Outcome outcome = run({"run", "r.toml", "-o", "out"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const char* part : {"dense", "just pruned", "retrained", "sparse (sell)", "perplexity", "words/s",
                           "rnn.weight_hh_l0", "out/report.html", "Next"}) {
    EXPECT_THAT(outcome.out, HasSubstr(part));
  }
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("train epoch 1/2"), HasSubstr("words/s"), Not(HasSubstr("\r"))));
  for (const char* name :
       {"recipe.toml", "dense/weights.safetensors", "dense/model.json", "retrained/model.json",
        "sparse/weights.safetensors", "masks.safetensors", "metrics.jsonl", "report.json", "report.html"}) {
    EXPECT_TRUE(fs::exists(folder / "out" / name)) << name;
  }
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"out", "r.toml", "text.txt"}));
  // A run that is over gives its report again.
  EXPECT_EQ(works({"resume", "out"}), outcome.out);
  EXPECT_EQ(works({"inspect", "out"}), outcome.out);
  // What it resolved is a recipe that gives the same bits.
  works({"run", "out/recipe.toml", "-o", "again", "--quiet"});
  EXPECT_EQ(read_text(folder / "again" / "retrained" / "weights.safetensors"),
            read_text(folder / "out" / "retrained" / "weights.safetensors"));
}

TEST_F(Program, JsonIsAllThatIsOnStandardOutput) {
  const Outcome outcome =
      run({"run", "r.toml", "-o", "out", "--json", "--set", "retrain.dense_continued=true"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json report = Json::parse(outcome.out);
  EXPECT_EQ(outcome.out, read_text(folder / "out" / "report.json"));
  EXPECT_EQ(report.at("schema"), 1);
  for (const char* model : {"dense", "dense_continued", "pruned", "retrained", "sparse"}) {
    const Json& metrics = report.at("metrics").at(model);
    for (const char* key : {"split", "loss", "perplexity", "accuracy", "targets", "optimizer_steps"}) {
      ASSERT_TRUE(metrics.contains(key)) << model << "." << key;
      EXPECT_FALSE(metrics.at(key).is_null()) << model << "." << key;
    }
  }
  EXPECT_EQ(report.at("metrics").at("dense_continued").at("optimizer_steps"),
            report.at("metrics").at("retrained").at("optimizer_steps"));
  const Json& parameters = report.at("parameters");
  EXPECT_EQ(parameters.at("prunable").get<int>() - parameters.at("kept").get<int>(),
            (parameters.at("prunable").get<int>() + 1) / 2);
  int64_t kept = 0;
  for (const Json& tensor : report.at("tensors")) {
    if (tensor.at("pruned")) kept += tensor.at("kept").get<int64_t>();
  }
  EXPECT_EQ(kept, parameters.at("kept"));
  EXPECT_FALSE(report.at("gates").empty());
  EXPECT_FALSE(report.at("groups").empty());
  EXPECT_TRUE(report.at("groups")[0].at("threshold").is_number());
  EXPECT_GT(report.at("bytes").at("dense"), report.at("bytes").at("sparse"));
  for (const char* key :
       {"seconds", "machine", "seed", "threads", "versions", "device", "epochs", "started"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
}

TEST_F(Program, QuietSaysNothingOnStandardError) {
  EXPECT_EQ(run({"run", "r.toml", "-o", "out", "--quiet"}).err, "");
}

TEST_F(Program, TheSameSeedGivesTheSameBitsAndAnotherDoesNot) {
  works({"train", "r.toml", "-o", "a", "--quiet"});
  works({"train", "r.toml", "-o", "b", "--quiet", "--threads", "2"});
  works({"train", "r.toml", "-o", "c", "--quiet", "--seed", "2"});
  const auto weights = [&](const std::string& name) {
    return read_text(folder / name / "weights.safetensors");
  };
  EXPECT_EQ(weights("a"), weights("b"));
  EXPECT_NE(weights("a"), weights("c"));
}

TEST_F(Program, VerbsGoFileToFile) {
  EXPECT_THAT(works({"train", "r.toml", "-o", "model"}), HasSubstr("perplexity"));
  EXPECT_THAT(works({"gradients", "model", "--recipe", "r.toml", "-o", "g.safetensors"}),
              HasSubstr("5 batches"));
  EXPECT_THAT(works({"prune", "model", "--gradients", "g.safetensors", "--criterion", "fisher", "--sparsity",
                     "0.8", "-o", "pruned"}),
              HasSubstr("kept"));
  EXPECT_THAT(works({"retrain", "pruned", "--recipe", "r.toml", "-o", "retrained"}), HasSubstr("retrained"));
  EXPECT_THAT(folder.names(), Not(Contains(HasSubstr(".run"))));

  const Json before = Json::parse(works({"inspect", "pruned", "--json"}));
  const Json after = Json::parse(works({"inspect", "retrained", "--json"}));
  uint64_t zeros = 0;
  for (size_t t = 0; t < before.at("tensors").size(); ++t) {
    const Json& tensor = before.at("tensors")[t];
    if (tensor.at("name").get<std::string>().find("weight_") == std::string::npos) continue;
    EXPECT_EQ(tensor.at("zeros"), after.at("tensors")[t].at("zeros")) << tensor.at("name");
    zeros += tensor.at("zeros").get<uint64_t>();
    EXPECT_EQ(tensor.at("gates").size(), 4u);
  }
  EXPECT_EQ(zeros, 768u);  // 0.8 * 48 * (8 + 12)

  const Json dense =
      Json::parse(works({"eval", "retrained", "--data", "text.txt", "--device", "cpu", "--json"}));
  const Json sparse = Json::parse(works({"eval", "retrained", "--data", "text.txt", "--sparse", "--json"}));
  EXPECT_NEAR(dense.at("loss").get<double>(), sparse.at("loss").get<double>(), 1e-5);
  EXPECT_GT(dense.at("weight_bytes"), sparse.at("weight_bytes"));
  const Json sliced = Json::parse(works({"eval", "retrained", "--data", "text.txt", "--sparse", "--layout",
                                         "sell", "--device", "cpu", "--json"}));
  EXPECT_EQ(sliced["loss"], dense["loss"]);  // to the bit: it adds up in the dense product's order
  EXPECT_LT(sliced["weight_bytes"], dense["weight_bytes"]);
  EXPECT_THAT(
      fails({"eval", "retrained", "--data", "text.txt", "--sparse", "--layout", "bsr", "--device", "cpu"}),
      HasSubstr("not made of blocks"));
  const Json rounded = Json::parse(works({"eval", "retrained", "--data", "text.txt", "--sparse", "--layout",
                                          "sell", "--values", "bf16", "--device", "cpu", "--json"}));
  EXPECT_NE(rounded["loss"], sliced["loss"]);
  EXPECT_NEAR(rounded["loss"].get<double>(), sliced["loss"].get<double>(), 0.01);
  EXPECT_LT(rounded["weight_bytes"], sliced["weight_bytes"]);
  EXPECT_THAT(fails({"eval", "retrained", "--data", "text.txt", "--values", "bf16"}), HasSubstr("--sparse"));
  EXPECT_THAT(fails({"eval", "retrained", "--data", "text.txt", "--sparse", "--layout", "csr", "--values",
                     "bf16", "--device", "cpu"}),
              HasSubstr("layout csr"));
  works({"sample", "retrained", "--length", "20", "--sparse", "--values", "bf16", "--device", "cpu"});
  EXPECT_THAT(works({"eval", "model", "--data", "text.txt"}), HasSubstr("perplexity"));

  const std::string text = works({"sample", "retrained", "--prompt", "the fox", "--length", "20"});
  EXPECT_TRUE(text.starts_with("the fox")) << text;
  EXPECT_EQ(text, works({"sample", "retrained", "--prompt", "the fox", "--length", "20"}));
  EXPECT_TRUE(Json::parse(works({"sample", "model", "--json"})).contains("text"));
  EXPECT_THAT(works({"inspect", "model"}), AllOf(HasSubstr("rnn.weight_hh_l0"), HasSubstr("48 x 12")));
}

TEST_F(Program, PruneTakesPlainFiles) {
  works({"train", "r.toml", "-o", "model", "--quiet"});
  fs::copy_file(folder / "model" / "weights.safetensors", folder / "w.safetensors");
  const Json cut =
      Json::parse(works({"prune", "w.safetensors", "--criterion", "magnitude", "--sparsity", "0.75",
                         "--include", ".*weight_hh.*", "-o", "cut.safetensors", "--json"}));
  EXPECT_EQ(cut.at("parameters").at("prunable"), 576);
  EXPECT_EQ(cut.at("parameters").at("kept"), 144);
  EXPECT_TRUE(fs::exists(folder / "cut.safetensors"));
  EXPECT_THAT(works({"inspect", "cut.safetensors"}), HasSubstr("75.0 %"));
  works({"prune", "w.safetensors", "--criterion", "magnitude", "--sparsity", "0.9", "-o", "small.safetensors",
         "--sparse-encoding"});
  EXPECT_LT(fs::file_size(folder / "small.safetensors"), fs::file_size(folder / "w.safetensors"));
  // A row each: the recipe's words for the options of the same names.
  const Json rows = Json::parse(works({"prune", "w.safetensors", "--criterion", "magnitude", "--sparsity",
                                       "0.5", "--pattern", "row", "--scope", "tensor", "--reduce", "l2",
                                       "--include", "rnn.weight.*", "-o", "rows.safetensors", "--json"}));
  EXPECT_EQ(rows.at("groups").size(), 2u);
  EXPECT_EQ(rows.at("groups")[0].at("units"), 48);
}

TEST_F(Program, ConvertGivesModelsBackBitForBit) {
  works({"train", "r.toml", "-o", "model", "--quiet"});
  works({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.9", "-o", "cut", "--quiet"});
  works({"convert", "cut", "--to", "sparse", "-o", "small", "--quiet"});
  works({"convert", "small", "--to", "dense", "-o", "plain", "--quiet"});
  EXPECT_LT(fs::file_size(folder / "small" / "weights.safetensors"),
            fs::file_size(folder / "cut" / "weights.safetensors"));
  for (const char* name : {"weights.safetensors", "masks.safetensors", "model.json"}) {
    EXPECT_TRUE(read_text(folder / "cut" / name) == read_text(folder / "plain" / name)) << name;
  }
  works({"convert", "small/weights.safetensors", "--to", "dense", "-o", "file.safetensors", "--quiet"});
  EXPECT_TRUE(read_text(folder / "cut" / "weights.safetensors") == read_text(folder / "file.safetensors"));
}

TEST_F(Program, SensitivityCutsEachTensorAndGateAlone) {
  works({"train", "r.toml", "-o", "model", "--quiet"});
  const std::string before = read_text(folder / "model" / "weights.safetensors");
  const Json report = Json::parse(works({"sensitivity", "model", "--recipe", "r.toml", "--sparsities",
                                         "0,0.5,1", "-o", "out", "--json", "--quiet"}));
  ASSERT_EQ(report.at("curves").size(), 10u);  // two matrices, four gates each
  EXPECT_EQ(report.at("curves")[0].at("name"), "rnn.weight_ih_l0");
  EXPECT_EQ(report.at("curves")[0].at("gate"), nullptr);
  EXPECT_EQ(report.at("curves")[4].at("name"), "rnn.weight_ih_l0:o");
  EXPECT_EQ(report.at("curves")[4].at("size"), 12 * 8);
  for (const Json& curve : report.at("curves")) {
    EXPECT_EQ(curve.at("losses")[0], report.at("dense_loss")) << curve;
    EXPECT_NE(curve.at("losses")[2], report.at("dense_loss")) << curve;
  }
  EXPECT_EQ(Json::parse(read_text(folder / "out" / "sensitivity.json")), report);
  const std::string page = read_text(folder / "out" / "sensitivity.html");
  EXPECT_THAT(page, AllOf(HasSubstr("<svg"), HasSubstr("Gates of"), HasSubstr("rnn.weight_hh_l0")));
  EXPECT_THAT(page, Not(HasSubstr("http")));
  EXPECT_EQ(read_text(folder / "model" / "weights.safetensors"), before);
  EXPECT_THAT(fails({"sensitivity", "model", "--recipe", "r.toml", "--sparsities", "2", "-o", "no"}),
              HasSubstr("2"));
  EXPECT_THAT(fails({"sensitivity", "nothing", "--recipe", "r.toml", "-o", "no"}), HasSubstr("nothing"));
}

/// GRUs that somebody trained and exported under names of their own: gates are told from the shapes, and only
/// the recurrent layers' matrices take part.
TEST_F(Program, PruneAndInspectKnowTheGatesOfSomebodysModel) {
  COPPICE_REQUIRE_DATA("g2p_en");
  const std::string weights = fs::absolute(data_path("g2p_en/checkpoint20.npz")).string();
  EXPECT_THAT(works({"inspect", weights}),
              AllOf(HasSubstr("enc_w_ih"), HasSubstr("768 x 256"), HasSubstr("z 0.0 %")));
  const Json cut = Json::parse(works({"prune", weights, "--criterion", "magnitude", "--sparsity", "0.8",
                                      "--scope", "gate", "-o", "cut.safetensors", "--json"}));
  EXPECT_EQ(cut.at("parameters").at("prunable"), 4 * 768 * 256);
  ASSERT_EQ(cut.at("groups").size(), 12u);
  for (const Json& group : cut.at("groups")) EXPECT_EQ(group.at("cut"), 52429) << group;  // 0.8 · 256 · 256
  EXPECT_THAT(works({"inspect", "cut.safetensors"}), HasSubstr("n 80.0 %"));
}

TEST_F(Program, StartsFromTrainedWeights) {
  works({"train", "r.toml", "-o", "model", "--quiet"});
  works({"run", "r.toml", "-o", "out", "--quiet", "--set", "model.weights=model"});
  EXPECT_EQ(read_text(folder / "out" / "dense" / "weights.safetensors"),
            read_text(folder / "model" / "weights.safetensors"));
}

// --- what can be wrong

TEST_F(Program, CommandLineErrors) {
  EXPECT_THAT(fails({}), HasSubstr("--help"));
  EXPECT_THAT(fails({"frobnicate"}), HasSubstr("--help"));
  EXPECT_THAT(fails({"run"}), HasSubstr("--help"));
  EXPECT_THAT(fails({"run", "r.toml"}), HasSubstr("--output"));
  EXPECT_THAT(fails({"run", "r.toml", "-o", "out", "--threads", "two"}), HasSubstr("--threads"));
  EXPECT_THAT(fails({"run", "r.toml", "-o", "out", "--sparsty", "0.5"}), HasSubstr("--sparsty"));
  EXPECT_THAT(fails({"run", "r.toml", "-o", "out", "--device", "tpu"}), HasSubstr("tpu"));
}

TEST_F(Program, RecipeErrors) {
  EXPECT_THAT(fails({"run", "nothing.toml", "-o", "out"}), HasSubstr("nothing.toml"));
  write_text(folder / "bad.toml", std::string(kSmallRecipe) + "epoch = 3\n");
  EXPECT_THAT(fails({"run", "bad.toml", "-o", "out"}),
              AllOf(HasSubstr("bad.toml:24"), HasSubstr("retrain.epoch"), HasSubstr("retrain.epochs")));
  EXPECT_THAT(fails({"run", "r.toml", "-o", "out", "--set", "train.epochs=many"}),
              AllOf(HasSubstr("train.epochs"), HasSubstr("an integer"), HasSubstr("many")));
  EXPECT_THAT(fails({"run", "r.toml", "-o", "out", "--set", "prune.sparsity=1.5"}), HasSubstr("0 to 1"));
  EXPECT_THAT(fails({"run", "r.toml", "-o", "out", "--set", "prune.include=nothing"}), HasSubstr("nothing"));
  EXPECT_THAT(fails({"run", "r.toml", "-o", "out", "--set", "prune.include=("}), HasSubstr("("));
  EXPECT_THAT(fails({"run", "r.toml", "-o", "out", "--set", "sparse.layout=cs"}), HasSubstr("csr"));
}

TEST_F(Program, DataErrors) {
  const auto with_data = [&](const std::string& name) {
    return fails({"run", "r.toml", "-o", "out", "--set", "data.train=" + name});
  };
  EXPECT_THAT(with_data("nothing.txt"), HasSubstr("nothing.txt"));
  write_text(folder / "empty.txt", "");
  EXPECT_THAT(with_data("empty.txt"), AllOf(HasSubstr("empty.txt"), HasSubstr("empty")));
  write_text(folder / "binary.txt", std::string("\x00\xff\xfe\x01", 4) + small_text(50));
  EXPECT_THAT(with_data("binary.txt"), HasSubstr("binary.txt"));
  write_text(folder / "short.txt", "one two\n");
  EXPECT_THAT(with_data("short.txt"), HasSubstr("short.txt"));
}

TEST_F(Program, SequenceErrors) {
  const std::string head =
      "@problemName Small\n@timeStamps false\n@missing false\n@univariate false\n@dimensions 2\n@equalLength "
      "false\n"
      "@classLabel true 1 2\n@data\n";
  const std::string good = "1,2,3:4,5,6:1\n0,1:1,0:2\n2,2,2:3,3,3:1\n1,0:0,1:2\n";
  write_text(
      folder / "s.toml",
      "[data]\nkind = \"sequences\"\ntrain = \"s.ts\"\nvalid = \"s.ts\"\ntest = \"s.ts\"\nbatch_size = 2\n"
      "[model]\nembedding = 0\nhidden = 4\n");
  write_text(folder / "s.ts", head + good);
  works({"run", "s.toml", "-o", "fine", "--quiet"});
  write_text(folder / "s.ts", head + good + "1,2:3,4:7\n");
  EXPECT_THAT(fails({"run", "s.toml", "-o", "out"}), AllOf(HasSubstr("s.ts"), HasSubstr("7")));
  write_text(folder / "s.ts", head + good + "::1\n");
  EXPECT_THAT(fails({"run", "s.toml", "-o", "out"}), HasSubstr("s.ts"));
  write_text(folder / "s.ts", head + good + "1,2:3,nan:1\n");
  EXPECT_THAT(fails({"run", "s.toml", "-o", "out"}), HasSubstr("s.ts"));
  EXPECT_THAT(fails({"eval", "fine/dense", "--data", "text.txt"}), HasSubstr("text.txt"));
  EXPECT_THAT(fails({"sample", "fine/dense"}), HasSubstr("language model"));
}

TEST_F(Program, WeightErrors) {
  works({"train", "r.toml", "-o", "model", "--quiet"});
  EXPECT_THAT(fails({"run", "r.toml", "-o", "out", "--set", "model.weights=nothing.npz"}),
              HasSubstr("nothing.npz"));
  EXPECT_THAT(
      fails({"run", "r.toml", "-o", "out", "--set", "model.weights=model", "--set", "model.hidden=16"}),
      HasSubstr("hidden"));
  EXPECT_THAT(
      fails({"run", "r.toml", "-o", "out", "--set", "model.weights=model", "--set", "model.cell=gru"}),
      HasSubstr("gru"));
  EXPECT_THAT(fails({"run", "r.toml", "-o", "out", "--set", "model.weights=text.txt"}),
              HasSubstr("text.txt"));
  EXPECT_THAT(fails({"eval", "text.txt", "--data", "text.txt"}), HasSubstr("text.txt"));
  EXPECT_THAT(fails({"eval", "nothing", "--data", "text.txt"}), HasSubstr("nothing"));
  EXPECT_THAT(fails({"eval", "model", "--data", "nothing.txt"}), HasSubstr("nothing.txt"));
  EXPECT_THAT(fails({"sample", "nothing"}), HasSubstr("nothing"));
  EXPECT_THAT(fails({"inspect", "nothing"}), HasSubstr("nothing"));
  EXPECT_THAT(fails({"inspect", "text.txt"}), HasSubstr("text.txt"));
  EXPECT_THAT(fails({"resume", "model"}), HasSubstr("model"));
  EXPECT_THAT(fails({"resume", "nothing"}), HasSubstr("nothing"));
  write_text(folder / "half.safetensors",
             read_text(folder / "model" / "weights.safetensors").substr(0, 1000));
  EXPECT_THAT(fails({"inspect", "half.safetensors"}), HasSubstr("half.safetensors"));
}

TEST_F(Program, PruneErrors) {
  works({"train", "r.toml", "-o", "model", "--quiet"});
  EXPECT_THAT(fails({"prune", "model", "-o", "out"}), HasSubstr("--criterion"));
  EXPECT_THAT(fails({"prune", "model", "--criterion", "taylor", "--sparsity", "0.5", "-o", "out"}),
              HasSubstr("gradient"));
  EXPECT_THAT(fails({"prune", "model", "--criterion", "best", "--sparsity", "0.5", "-o", "out"}),
              HasSubstr("best"));
  EXPECT_THAT(fails({"prune", "model", "--criterion", "magnitude", "--sparsity", "2", "-o", "out"}),
              HasSubstr("0 to 1"));
  EXPECT_THAT(fails({"prune", "nothing", "--criterion", "magnitude", "--sparsity", "0.5", "-o", "out"}),
              HasSubstr("nothing"));
  EXPECT_THAT(fails({"prune", "model", "--gradients", "text.txt", "--criterion", "taylor", "--sparsity",
                     "0.5", "-o", "out"}),
              HasSubstr("text.txt"));
  EXPECT_THAT(fails({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.9", "--min-density",
                     "0.5", "-o", "out"}),
              HasSubstr("min"));
}

TEST_F(Program, ExistingOutputsAreRefusedAndForceReplaces) {
  works({"train", "r.toml", "-o", "model", "--quiet"});
  const std::string first = read_text(folder / "model" / "weights.safetensors");
  EXPECT_THAT(fails({"train", "r.toml", "-o", "model", "--seed", "2"}),
              AllOf(HasSubstr("model"), HasSubstr("--force")));
  EXPECT_THAT(fails({"run", "r.toml", "-o", "text.txt"}), HasSubstr("text.txt"));
  EXPECT_THAT(fails({"gradients", "model", "--recipe", "r.toml", "-o", "text.txt"}), HasSubstr("text.txt"));
  EXPECT_THAT(fails({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.5", "-o", "model"}),
              HasSubstr("model"));
  EXPECT_THAT(fails({"train", "r.toml", "-o", "no/such/folder/model"}), HasSubstr("no/such/folder"));
  EXPECT_EQ(read_text(folder / "model" / "weights.safetensors"), first);
  works({"train", "r.toml", "-o", "model", "--quiet", "--seed", "2", "--force"});
  EXPECT_NE(read_text(folder / "model" / "weights.safetensors"), first);
  // A folder that is none of ours is not replaced even then.
  fs::create_directory(folder / "mine");
  write_text(folder / "mine" / "letter.txt", "dear");
  EXPECT_THAT(fails({"train", "r.toml", "-o", "mine", "--force"}), HasSubstr("mine"));
  EXPECT_EQ(read_text(folder / "mine" / "letter.txt"), "dear");
}

TEST_F(Program, NumbersGoneToNanAreAFailure) {
  const std::string message =
      fails({"train", "r.toml", "-o", "model", "--set", "train.optimizer=sgd", "--set", "train.rate=3e38",
             "--set", "train.clip=0", "--set", "train.epochs=20"},
            1);
  EXPECT_THAT(message, AllOf(HasSubstr("train"), HasSubstr("epoch")));
}

TEST_F(Program, AFullDiskIsAFailureAndLeavesNothing) {
  works({"train", "r.toml", "-o", "model", "--quiet"});
  const Outcome outcome =
      run({"prune", "model", "--criterion", "magnitude", "--sparsity", "0.1", "-o", "out", "--quiet"}, 2000);
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("out"));
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"model", "r.toml", "text.txt"}));
}

// --- stopping and going on

class Stopping : public Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    write_text(folder / "text.txt", small_text(2000));
    arguments = {
        "run",   "r.toml",           "--set", "train.epochs=12", "--set", "train.checkpoint_seconds=1",
        "--set", "retrain.epochs=4", "--set", "model.hidden=48", "-o"};
  }
  std::vector<std::string> with_output(const std::string& name) {
    std::vector<std::string> all = arguments;
    all.push_back(name);
    return all;
  }
  void expect_same_results(const std::string& a, const std::string& b) {
    for (const char* file : {"dense/weights.safetensors", "retrained/weights.safetensors",
                             "sparse/weights.safetensors", "masks.safetensors"}) {
      // Not EXPECT_EQ: it would print both files' bytes.
      EXPECT_TRUE(read_text(folder / a / file) == read_text(folder / b / file)) << file << " differs";
    }
    const Json first = Json::parse(read_text(folder / a / "report.json"));
    const Json second = Json::parse(read_text(folder / b / "report.json"));
    for (const char* model : {"dense", "pruned", "retrained", "sparse"}) {
      EXPECT_EQ(first.at("metrics").at(model).at("loss"), second.at("metrics").at(model).at("loss")) << model;
    }
  }
  std::vector<std::string> arguments;
};

TEST_F(Stopping, SignalsSaveACheckpointAndSayHowToGoOn) {
  works(with_output("whole"));
  for (const int signal_number : {SIGINT, SIGTERM}) {
    const std::string name = signal_number == SIGINT ? "interrupted" : "terminated";
    Process process(with_output(name), folder.path());
    ASSERT_TRUE(
        process.wait_until([&] { return process.err_so_far().find("epoch 3/") != std::string::npos; }));
    process.send(signal_number);
    const Outcome outcome = process.wait();
    ASSERT_EQ(outcome.code, 1) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_THAT(outcome.err, HasSubstr("checkpoint saved, resume with: coppice resume " + name));
    EXPECT_THAT(works({"inspect", name}), HasSubstr("coppice resume"));
    works({"resume", name, "--quiet"});
    expect_same_results("whole", name);
  }
}

TEST_F(Stopping, ARunThatIsKilledGoesOnFromItsLastCheckpoint) {
  works(with_output("whole"));
  Process process(with_output("killed"), folder.path());
  ASSERT_TRUE(process.wait_until([&] { return process.err_so_far().find("epoch 6/") != std::string::npos; }));
  process.send(SIGKILL);
  EXPECT_EQ(process.wait().code, 128 + SIGKILL);
  works({"resume", "killed", "--quiet"});
  expect_same_results("whole", "killed");
}

/// A file of which most takes no room on the disk, but long enough to read that a signal comes in between.
void write_hollow(const fs::path& path) {
  constexpr int64_t kRows = 1 << 16, kCols = 1 << 10;
  std::string header = fmt::format(R"({{"w":{{"dtype":"F32","shape":[{},{}],"data_offsets":[0,{}]}}}})",
                                   kRows, kCols, 4 * kRows * kCols);
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t length = header.size();
  write_text(path, std::string(reinterpret_cast<const char*>(&length), 8) + header);
  fs::resize_file(path, 8 + length + static_cast<uint64_t>(4 * kRows * kCols));
}

TEST_F(Program, WhatIsInterruptedLeavesNothing) {
  write_hollow(folder / "in.safetensors");
  const std::vector<std::string> before = folder.names();
  const std::vector<std::string> prune = {
      "prune", "in.safetensors", "--criterion", "magnitude", "--sparsity",
      "0.5",   "--threads",      "1",           "-o",        "out.safetensors"};
  std::vector<std::string> encode = prune;
  encode.push_back("--sparse-encoding");
  const std::vector<std::string> sparse = {"convert", "in.safetensors", "--to", "sparse", "-o", "out"};
  const std::vector<std::string> dense = {"convert", "in.safetensors", "--to", "dense", "-o", "out"};
  for (const auto& [arguments, stage] : {std::pair{prune, "select ..."},
                                         {prune, "cut ..."},
                                         {encode, "encode ..."},
                                         {sparse, "convert ..."},
                                         {dense, "convert ..."}}) {
    for (const int signal_number : {SIGINT, SIGTERM}) {
      if (signal_number == SIGTERM && arguments == encode) continue;  // once is long enough
      SCOPED_TRACE(fmt::format("{} {}: {}", arguments.front(), arguments.back(), stage));
      Process process(arguments, folder.path());
      ASSERT_TRUE(process.wait_until([&] { return process.err_so_far().find(stage) != std::string::npos; }));
      process.send(signal_number);
      const Outcome outcome = process.wait();
      EXPECT_EQ(outcome.code, 1) << outcome.err;
      EXPECT_EQ(outcome.out, "");
      EXPECT_THAT(outcome.err, HasSubstr("coppice: interrupted; nothing was written\n"));
      EXPECT_EQ(folder.names(), before);
    }
  }
}

}  // namespace
}  // namespace coppice::test
