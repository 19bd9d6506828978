// The benchmark's arithmetic, its files and pages, and the turns that it takes; no claim about speed.

#include "engine/bench/bench.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "engine/bench/baselines.hpp"
#include "engine/bench/contestant.hpp"
#include "engine/bench/idle.hpp"
#include "engine/bench/pages.hpp"
#include "kernels/error.hpp"
#include "tests/files/scratch.hpp"

namespace coppice::bench {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

Entry entry(const std::string& name, const std::string& family, double microseconds, bool noisy = false) {
  Entry entry;
  entry.name = name;
  entry.version = name + " 1.0";
  entry.family = family;
  entry.layout = family == "dense" && name != "dense" ? "" : name;
  entry.dense_bits = name != "csr";
  entry.density = family == "dense" ? 1.0 : 0.1;
  entry.bytes = 4096;
  entry.timing = {microseconds * 1e-6, microseconds * 0.9e-6, microseconds * 1.1e-6, 9, 1, noisy};
  entry.share = 0.625;
  return entry;
}

BenchResult sample() {
  BenchResult result;
  result.subject = "grid", result.work = "product", result.cell = "lstm";
  result.device = "cpu", result.processor = "A <Processor>", result.detail = "avx2", result.threads = 1;
  result.system = "Linux 6.1", result.date = "2026-01-02T03:04:05Z", result.seconds = 12.5;
  result.versions = {{"coppice", "0.1.0"}, {"oneDNN", "oneDNN 2.6.3"}};
  result.notes = {"PyTorch: no module"};
  double sparse = 40;
  for (const int64_t batch : {1, 32}) {
    for (const double sparsity : {0.5, 0.8, 0.9}) {
      TableCell cell;
      cell.name = "lstm 64", cell.rows = 256, cell.cols = 64, cell.batch = batch, cell.sparsity = sparsity;
      cell.gflops = 117.5, cell.read_gbs = 50.25;
      cell.entries = {entry("dense", "dense", 22), entry("oneDNN", "dense", 20),
                      entry("sell", "unstructured", sparse), entry("csr", "unstructured", sparse * 2),
                      entry("bsr", "blocks", sparse / 4)};
      sparse /= 2;
      result.cells.push_back(cell);
    }
  }
  return result;
}

TEST(Timing, TakesTheMedianOfCleanSamples) {
  std::vector<Sample> samples;
  for (const double seconds : {5.0, 1.0, 2.0, 3.0, 4.0}) samples.push_back({seconds, false});
  samples.push_back({100.0, true});
  const Timing timing = timing_of(samples);
  EXPECT_EQ(timing.median, 3.0);
  EXPECT_EQ(timing.low, 2.0);
  EXPECT_EQ(timing.high, 4.0);
  EXPECT_EQ(timing.samples, 5);
  EXPECT_EQ(timing.discarded, 1);
  EXPECT_TRUE(timing.noisy);  // the quartiles lie as far apart as two thirds of the median

  samples = {{1.0, false}, {1.01, false}, {0.99, false}, {7.0, true}};
  EXPECT_FALSE(timing_of(samples).noisy);
  samples[0].polluted = true;  // two clean ones are too few: all count, and say so
  EXPECT_EQ(timing_of(samples).samples, 4);
  EXPECT_TRUE(timing_of(samples).noisy);
  EXPECT_EQ(timing_of({}).samples, 0);
}

/// A machine that does as it is told.
class Steady final : public Yardstick {
 public:
  explicit Steady(std::vector<double> readings = {100}) : readings_(std::move(readings)) {}
  double flops() override { return readings_[std::min(next_++, readings_.size() - 1)]; }
  double bandwidth(int64_t bytes) override { return static_cast<double>(bytes); }

 private:
  std::vector<double> readings_;
  size_t next_ = 0;
};

TEST(Turns, AlternateAndRepeatShortWork) {
  std::string order;
  std::vector<int64_t> repeats;
  const Turn quick = [&](int64_t count) {
    order += 'q';
    repeats.push_back(count);
    return Sample{1e-4 * static_cast<double>(count), false};
  };
  const Turn slow = [&](int64_t count) {
    order += 's';
    return Sample{1.0 * static_cast<double>(count), false};
  };
  Steady steady;
  Ceilings ceilings;
  const std::vector<Timing> timings =
      take_turns({quick, slow}, {64, 128}, steady, {.turns = 3, .sample_seconds = 0.01}, ceilings);
  EXPECT_EQ(order, "qqssqsqsqs");
  EXPECT_THAT(repeats, ElementsAre(1, 1, 100, 100, 100));
  EXPECT_NEAR(timings[0].median, 1e-4, 1e-12);
  EXPECT_EQ(timings[1].median, 1.0);
  EXPECT_EQ(ceilings.flops, 100);
  EXPECT_THAT(ceilings.bandwidths, ElementsAre(64, 128));
}

TEST(Turns, ATurnInWhichTheMachineWasSlowDoesNotCount) {
  int calls = 0;
  const Turn turn = [&](int64_t) { return Sample{++calls == 4 ? 9.0 : 1.0, false}; };
  // Before the first turn, and after each: the second turn's end is slow, so the second and third don't
  // count.
  Steady yardstick({100, 100, 50, 100});
  Ceilings ceilings;
  const Timing timing = take_turns({turn}, {64}, yardstick, {.turns = 5, .sample_seconds = 1.0}, ceilings)[0];
  EXPECT_EQ(timing.discarded, 2);
  EXPECT_EQ(timing.samples, 3);
  EXPECT_EQ(timing.median, 1.0);
  EXPECT_FALSE(timing.noisy);
}

TEST(Turns, GoOnWhereTooFewAreCleanButNotForEver) {
  int calls = 0;
  const Turn turn = [&](int64_t) {
    ++calls;
    return Sample{1.0, true};
  };
  Steady steady;
  Ceilings ceilings;
  const Timing timing = take_turns({turn}, {64}, steady, {.turns = 4, .sample_seconds = 1.0}, ceilings)[0];
  EXPECT_EQ(calls, 2 + 12);
  EXPECT_TRUE(timing.noisy);
}

TEST(Turns, StopWhenAsked) {
  StopToken stop;
  stop.requested = true;
  Steady steady;
  Ceilings ceilings;
  EXPECT_THROW(take_turns({[](int64_t) { return Sample{}; }}, {64}, steady, {}, ceilings, &stop), Error);
}

TEST(Yardstick, ReadsSomething) {
  for (const int threads : {1, 2}) {
    const auto backend = open_backend("cpu", {.threads = threads});
    const auto yardstick = make_yardstick(*backend);
    EXPECT_GE(yardstick->flops(), 0);
    for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{100'000}, int64_t{1} << 40}) {
      EXPECT_GT(yardstick->bandwidth(bytes), 0) << bytes;
    }
  }
}

TEST(Masks, HaveTheirPattern) {
  const HostMatrix dense = random_matrix(70, 130, 1);
  EXPECT_EQ(dense.nonzeros(), 70 * 130);
  EXPECT_EQ(dense.values, random_matrix(70, 130, 1).values);
  const HostMatrix element = cut_at_random(dense, "element", 0.75, 2);
  EXPECT_NEAR(element.density(), 0.25, 0.03);
  EXPECT_EQ(cut_at_random(dense, "element", 0.0, 2).values, dense.values);
  const HostMatrix blocks = cut_at_random(dense, "block:16x1", 0.75, 2);
  for (int64_t r = 0; r < 70; ++r) {
    for (int64_t c = 0; c < 130; ++c) {
      const auto is_zero = [&](int64_t row) {
        return blocks.values[static_cast<size_t>(row * 130 + c)] == 0;
      };
      EXPECT_EQ(is_zero(r), is_zero(r / 16 * 16));
    }
  }
  const HostMatrix balanced = cut_at_random(dense, "64", 0.9, 2);
  for (int64_t r = 0; r < 70; ++r) {
    for (int64_t c = 0; c < 130; c += 64) {
      int kept = 0;
      for (int64_t i = c; i < std::min<int64_t>(130, c + 64); ++i) {
        kept += balanced.values[static_cast<size_t>(r * 130 + i)] != 0 ? 1 : 0;
      }
      EXPECT_EQ(kept, std::min<int64_t>(6, 130 - c));
    }
  }
  EXPECT_EQ(cut_at_random(HostMatrix{}, "element", 0.5, 2).density(), 0.0);
}

TEST(Candidates, AreTheDevicesLayoutsInTheirPatterns) {
  const auto backend = open_backend("cpu");
  const auto names = [&](const std::vector<std::string>& wanted, DType values) {
    std::vector<std::string> list;
    for (const Candidate& candidate : candidates_of(*backend, wanted, values)) list.push_back(candidate.name);
    return list;
  };
  EXPECT_THAT(names({"all"}, DType::f32),
              ElementsAre("csr", "sell", "bsr 16x1", "bsr 8x1", "bsr 4x1", "balanced"));
  EXPECT_THAT(names({}, DType::bf16),
              ElementsAre("sell bf16", "bsr 16x1 bf16", "bsr 8x1 bf16", "bsr 4x1 bf16", "balanced bf16"));
  EXPECT_THAT(names({"sell"}, DType::f32), ElementsAre("sell"));
  EXPECT_THROW(names({"origami"}, DType::f32), Error);
  EXPECT_THROW(names({"csr"}, DType::bf16), Error);
}

TEST(Contestants, DoTheWorkOfEveryCellInEveryLayout) {
  const auto backend = open_backend("cpu", {.threads = 2});
  for (const coppice::Cell cell : {coppice::Cell::rnn_tanh, coppice::Cell::lstm, coppice::Cell::gru}) {
    const int64_t rows = gate_count(cell) * 16;
    for (const Candidate& candidate : candidates_of(*backend, {})) {
      const HostMatrix input = cut_at_random(random_matrix(rows, 16, 1), candidate.pattern, 0.5, 2);
      const HostMatrix recurrent = cut_at_random(random_matrix(rows, 16, 3), candidate.pattern, 0.5, 4);
      CellWeights weights(*backend, candidate.layout, DType::f32, &input, recurrent);
      for (const Work work : {Work::product, Work::sequence, Work::frame}) {
        for (const int64_t batch : {1, 3}) {
          const Contestant contestant = weights.contestant("x", work, cell, batch, 2);
          const Sample taken = contestant.turn(2);
          EXPECT_GE(taken.seconds, 0);
          EXPECT_GT(contestant.operations, 0);
          EXPECT_GT(contestant.bytes, 0);
        }
      }
    }
  }
}

TEST(Results, CompareWithTheBestDense) {
  const TableCell cell = sample().cells[1];
  EXPECT_EQ(best_dense(cell)->name, "oneDNN");
  EXPECT_EQ(best_sparse(cell, "unstructured")->name, "sell");
  EXPECT_EQ(best_sparse(cell, "")->name, "bsr");
  EXPECT_EQ(best_sparse(cell, "balanced"), nullptr);
  EXPECT_EQ(best_dense(TableCell{}), nullptr);
  EXPECT_THAT(families(sample()), ElementsAre("unstructured", "blocks"));

  EXPECT_EQ(compare(entry("dense", "dense", 20), entry("sell", "x", 10)).verdict, Verdict::pays);
  EXPECT_EQ(compare(entry("dense", "dense", 20), entry("sell", "x", 21)).verdict, Verdict::loses);
  EXPECT_EQ(compare(entry("dense", "dense", 20), entry("sell", "x", 21, true)).verdict, Verdict::too_noisy);
  EXPECT_EQ(compare(entry("dense", "dense", 20), entry("sell", "x", 5, true)).verdict, Verdict::pays);
  EXPECT_DOUBLE_EQ(compare(entry("dense", "dense", 20), entry("sell", "x", 5)).ratio, 4.0);
}

TEST(BreakEven, LiesBetweenTheLastThatLosesAndTheNext) {
  // In the logarithm of the ratio: from 1/2 to 2, half of the way.
  BreakEven found = break_even({{0.8, 4.0}, {0.4, 0.5}, {0.6, 2.0}});
  ASSERT_TRUE(found.sparsity);
  EXPECT_NEAR(*found.sparsity, 0.5, 1e-12);
  EXPECT_FALSE(found.at_most);
  found = break_even({{0.3, 1.2}, {0.6, 2.0}});
  EXPECT_EQ(found.sparsity, 0.3);
  EXPECT_TRUE(found.at_most);
  EXPECT_FALSE(break_even({{0.3, 0.5}, {0.9, 0.9}}).sparsity);
  EXPECT_FALSE(break_even({}).sparsity);
  // One that pays below one that loses does not count.
  found = break_even({{0.3, 1.5}, {0.5, 0.5}, {0.7, 2.0}});
  EXPECT_NEAR(*found.sparsity, 0.6, 1e-12);
}

TEST(Results, KnowWhereSparseBeginsToPay) {
  const std::vector<Crossover> list = crossovers(sample());
  ASSERT_EQ(list.size(), 4u);  // two batches, two families
  EXPECT_EQ(list[0].family, "unstructured");
  EXPECT_EQ(list[0].batch, 1);
  ASSERT_TRUE(list[0].from.sparsity);  // 20/40, 20/20, 20/10: pays from 0.8 on
  EXPECT_NEAR(*list[0].from.sparsity, 0.8, 1e-9);
  EXPECT_TRUE(list[1].from.at_most);
}

TEST(Results, ComeBackFromTheirFile) {
  const std::string text = bench_json(sample());
  EXPECT_EQ(parse_bench(text, "bench.json"), sample());
  EXPECT_EQ(bench_json(parse_bench(text, "bench.json")), text);
  EXPECT_THAT(text, HasSubstr("\"best_dense\": \"oneDNN\""));
  for (const char* wrong : {"", "{}", "[]", "{\"schema\": 7}"}) {
    EXPECT_THROW(parse_bench(wrong, "bench.json"), Error) << wrong;
  }
}

TEST(Pages, HoldEveryCell) {
  const BenchResult result = sample();
  for (const std::string& page : {bench_html(result), heat_map_svg(result)}) {
    size_t cells = 0;
    for (size_t at = page.find("<g>"); at != std::string::npos; at = page.find("<g>", at + 1)) ++cells;
    EXPECT_EQ(cells, result.cells.size() * 2);  // a panel a family
    EXPECT_THAT(page, AllOf(HasSubstr(">0.50<"), HasSubstr(">1.00<"), HasSubstr(">2.0<"), HasSubstr("lose"),
                            HasSubstr("win"), HasSubstr("unstructured"), HasSubstr("blocks"),
                            HasSubstr("lstm 64, B 32"), HasSubstr("80 %")));
    EXPECT_THAT(page, AllOf(Not(HasSubstr("href")), Not(HasSubstr("url(")), Not(HasSubstr("<script"))));
  }
  EXPECT_THAT(bench_html(result), AllOf(HasSubstr("A &lt;Processor&gt;"), HasSubstr("oneDNN 2.6.3"),
                                        HasSubstr("PyTorch: no module"), HasSubstr("prefers-color-scheme")));
  EXPECT_THAT(bench_table(result),
              AllOf(HasSubstr("0.50 (0.62)"), HasSubstr("pays from"), HasSubstr("oneDNN")));
}

TEST(Remember, LeavesOutWhatWasTooNoisy) {
  BenchResult result = sample();
  result.cells[0].entries[0].timing.noisy = true;
  LayoutCache cache;
  EXPECT_EQ(remember(result, cache), 5);
  ASSERT_EQ(cache.entries().size(), 5u);
  const LayoutTimes& times = cache.entries()[0];
  EXPECT_EQ(times.on, (MeasuredOn{"A <Processor>", "avx2", 1, "0.1.0"}));
  EXPECT_EQ(times.seconds.size(), 4u);  // ours alone
  EXPECT_TRUE(times.seconds.contains("dense"));
  result.values = "bf16";
  EXPECT_EQ(remember(result, cache), 0);
}

// --- other libraries, played by a shell

class Baselines : public ::testing::Test {
 protected:
  /// A library that answers each line with the next of these.
  RunningBaseline baseline(const std::vector<std::string>& answers) {
    std::string script;
    for (const std::string& answer : answers) script += "read line; echo '" + answer + "'\n";
    Baseline made;
    made.name = "shell";
    made.works = {"product"};
    made.command = {"sh", scratch_.put("baseline.sh", script)};
    return RunningBaseline(std::move(made), 1);
  }
  test::Scratch scratch_;
  BaselineProblem problem_ = [] {
    BaselineProblem problem;
    problem.probe = {1.0, -2.0};
    return problem;
  }();
  std::string why_;
};

TEST_F(Baselines, TakeTheirTurns) {
  RunningBaseline shell = baseline({R"({"ready": {"library": "Shell", "version": "5", "probe": [1, -2]}})",
                                    R"({"seconds": 0.5, "polluted": true})"});
  EXPECT_TRUE(shell.serves(Work::product));
  EXPECT_FALSE(shell.serves(Work::frame));
  ASSERT_TRUE(shell.prepare(problem_, why_)) << why_;
  EXPECT_EQ(shell.version(), "Shell 5");
  const Sample sample = shell.turn()(3);
  EXPECT_EQ(sample.seconds, 0.5);
  EXPECT_TRUE(sample.polluted);
  // Its input is over: it says nothing more, and that is no error of ours.
  EXPECT_TRUE(shell.turn()(3).polluted);
  EXPECT_FALSE(shell.prepare(problem_, why_));
}

TEST_F(Baselines, ThatCannotOrAreWrongSayWhy) {
  RunningBaseline absent = baseline({R"({"absent": "no such module"})"});
  EXPECT_FALSE(absent.prepare(problem_, why_));
  EXPECT_EQ(why_, "no such module");
  RunningBaseline wrong = baseline({R"({"ready": {"library": "Shell", "version": "5", "probe": [1, 2]}})"});
  EXPECT_FALSE(wrong.prepare(problem_, why_));
  EXPECT_THAT(why_, HasSubstr("-2"));
  RunningBaseline noise = baseline({"not JSON"});
  EXPECT_FALSE(noise.prepare(problem_, why_));
  Baseline none;
  none.command = {"/nonexistent/program"};
  RunningBaseline missing(none, 1);
  EXPECT_FALSE(missing.prepare(problem_, why_));
  EXPECT_THAT(why_, HasSubstr("/nonexistent/program"));
}

TEST_F(Baselines, AreLeftWhenNoneOfTheirThreadsRunsAnyMore) {
  const std::string done = scratch_.path("done");
  const std::string script = scratch_.put("spins.sh",
                                          "read line; echo answer; i=0\n"
                                          "while [ $i -lt 200000 ]; do i=$((i+1)); done\n"
                                          ": > '" +
                                              done + "'; read line\n");
  ChildProcess child({"sh", script}, {}, {});
  EXPECT_EQ(child.ask("go", 60), "answer");
  child.wait_until_idle(60);
  EXPECT_TRUE(std::filesystem::exists(done));
  wait_until_idle(getpid(), 60);
  wait_until_idle(0, 60);  // none has this number
}

TEST_F(Baselines, ProbesAreComputedInDoublePrecision) {
  HostMatrix matrix{2, 3, {1, 2, 3, 4, 5, 6}};
  // x[0] = (-15, -8, -1) / 16, x[1] = (-2, 5, 12) / 16.
  EXPECT_THAT(probe_of(matrix, 1), ElementsAre(-34.0 / 16, (-60.0 - 40 - 6) / 16));
  EXPECT_THAT(probe_of(matrix, 2), ElementsAre(-34.0 / 16, (-8.0 + 25 + 72) / 16));
  EXPECT_THAT(probe_of(HostMatrix{}, 1), IsEmpty());
}

TEST_F(Baselines, AManifestSaysHowTheyAreStarted) {
  const std::string file = scratch_.put("baselines.json", R"({"baselines": [
    {"name": "a", "kind": "sparse", "values": "bf16", "works": ["product"], "command": ["x", "y"]},
    {"name": "b", "kind": "dense", "works": [], "command": ["z"], "unset": ["COPPICE_NOT_SET"]},
    {"name": "c", "kind": "dense", "works": [], "command": ["z"], "unset": ["PATH"]}]})");
  const std::vector<Baseline> list = read_baselines(file);
  ASSERT_EQ(list.size(), 2u);
  EXPECT_TRUE(list[0].sparse);
  EXPECT_THAT(list[0].command, ElementsAre("x", "y"));
  EXPECT_EQ(list[0].values, DType::bf16);
  EXPECT_EQ(list[1].name, "c");
  EXPECT_EQ(list[1].values, DType::f32);
  EXPECT_THROW(read_baselines(scratch_.put("wrong.json", "{\"baselines\": [{}]}")), Error);
}

TEST(Grid, MeasuresEveryCell) {
  GridOptions grid;
  grid.hidden = {8, 17};
  grid.batch = {3, 1};
  grid.sparsity = {0.5, 0.9};
  grid.turns = 1;
  grid.device = "cpu";
  for (const Work work : {Work::product, Work::sequence}) {
    grid.work = work;
    grid.cell = work == Work::product ? "lstm" : "gru";
    grid.steps = 2;
    const BenchResult result = bench_grid(grid);
    ASSERT_EQ(result.cells.size(), 8u);
    EXPECT_THAT(families(result), ElementsAre("unstructured", "blocks", "balanced"));
    for (const TableCell& cell : result.cells) {
      EXPECT_EQ(cell.entries.size(), 7u);
      for (const Entry& entry : cell.entries) EXPECT_GT(entry.timing.median, 0) << entry.name;
    }
    EXPECT_EQ(result.cells[0].batch, 1);
  }
  grid.values = "bf16";
  const BenchResult rounded = bench_grid(grid);
  EXPECT_EQ(rounded.values, "bf16");
  for (const TableCell& cell : rounded.cells) {
    std::vector<std::string> names;
    for (const Entry& entry : cell.entries) names.push_back(entry.name);
    EXPECT_THAT(names, ElementsAre("dense", "dense bf16", "sell bf16", "bsr 16x1 bf16", "bsr 8x1 bf16",
                                   "bsr 4x1 bf16", "balanced bf16"));
    EXPECT_LT(cell.entries[1].bytes, cell.entries[0].bytes);
  }
  EXPECT_THAT(bench_table(rounded), HasSubstr("weights in bf16"));
  EXPECT_GT(estimated_seconds(grid), 0);
  grid.values = "fp16";
  EXPECT_THROW(bench_grid(grid), Error);
  grid.values = "fp32";
  grid.hidden = {0};
  EXPECT_THROW(bench_grid(grid), Error);
  grid.hidden = {8};
  grid.sparsity = {1.5};
  EXPECT_THROW(bench_grid(grid), Error);
}

}  // namespace
}  // namespace coppice::bench
