#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/report/html.hpp"
#include "engine/report/json.hpp"
#include "engine/report/table.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

ModelMetrics metrics(double loss, int64_t steps, double speed) {
  return {"test", loss, std::exp(loss), loss / std::log(2.0), 0.25, 12345, steps, 1.5, speed};
}

RunReport sample() {
  RunReport report;
  report.name = "sample <b>";
  report.folder = "out/run";
  report.task = "language_model";
  report.metric = "perplexity";
  report.unit = "words";
  report.model = "1 x LSTM 8, embedding 4, vocabulary 100";
  report.dense = metrics(4.5, 1000, 10000);
  report.dense_continued = metrics(4.45, 1400, 10000);
  report.pruned = metrics(5.5, 1000, 10000);
  report.retrained = metrics(4.4, 1400, 10000);
  report.sparse = metrics(4.4, 1400, 25000);
  report.parameters = {1320, 384, 39};
  report.criterion = "taylor";
  report.formula = "|w * sum g|";
  report.scope = "global";
  report.pattern = "element";
  report.schedule = "gradual";
  report.sparsity = 0.9;
  report.tensors = {
      {"rnn.weight_ih_l0", {32, 4}, true, 128, 20, {"i", "f", "g", "o"}, {32, 32, 32, 32}, {1, 2, 10, 7}},
      {"rnn.weight_hh_l0", {32, 8}, true, 256, 19, {"i", "f", "g", "o"}, {64, 64, 64, 64}, {0, 4, 10, 5}},
      {"decoder.weight", {100, 8}, false, 800, 800, {}, {}, {}},
  };
  report.groups = {{"all", 384, 345, 0.00125, "0.00125"},
                   {"none", 0, 0, std::numeric_limits<double>::quiet_NaN(), ""}};
  report.cuts = {
      {"retrain", 100, 0.5, 192, 100}, {"retrain", 200, 0.8, 77, 100}, {"retrain", 300, 0.9, 39, 100}};
  report.bytes = {4000000, 4000000, 700000};
  report.execution_bytes = {1536, 300};
  report.layout = "csr";
  report.probe_difference = 1.5e-6;
  report.seconds = {{"train", 12.5}, {"prune", 0.001}, {"retrain", 5.0}};
  for (int64_t e = 0; e < 6; ++e) {
    report.epochs.push_back({"train", e, (e + 1) * 170, 0.1, 5.5 - 0.2 * static_cast<double>(e), 0.2,
                             5.6 - 0.18 * static_cast<double>(e), 0.2, 0.0, 2.0, 10000});
  }
  report.epochs.push_back({"retrain", 0, 200, 0.05, 4.6, 0.2, 4.7, 0.2, 0.8, 2.0, 10000});
  report.epochs.push_back(
      {"retrain", 1, 400, 0.05, 4.4, 0.2, std::numeric_limits<double>::quiet_NaN(), 0.2, 0.9, 2.0, 10000});
  report.epochs.push_back({"dense_continued", 0, 400, 0.05, 4.3, 0.2, 4.66, 0.2, 0.0, 2.0, 10000});
  report.machine = {"A Processor", "avx2", "Linux 6.1 x86_64", 2, 8000000000};
  report.device = "cpu";
  report.seed = 18446744073709551615ull;
  report.threads = 2;
  report.versions = {{"coppice", "0.1.0"}, {"compiler", "GCC 12.2"}};
  report.started = "2026-01-02T03:04:05Z";
  return report;
}

TEST(ReportJson, HasWhatTheSchemaPromises) {
  const Json json = Json::parse(report_json(sample()));
  EXPECT_EQ(json.at("schema"), kReportSchema);
  for (const char* stage : {"dense", "dense_continued", "pruned", "retrained", "sparse"}) {
    const Json& metrics = json.at("metrics").at(stage);
    for (const char* key : {"split", "loss", "perplexity", "optimizer_steps"}) {
      EXPECT_TRUE(metrics.contains(key)) << stage << "." << key;
    }
  }
  EXPECT_EQ(json.at("parameters"), Json::parse(R"({"total": 1320, "prunable": 384, "kept": 39})"));
  EXPECT_EQ(json.at("tensors").size(), 3u);
  EXPECT_EQ(json.at("gates").size(), 8u);
  EXPECT_EQ(json.at("gates")[2].at("name"), "rnn.weight_ih_l0:g");
  EXPECT_EQ(json.at("gates")[2].at("shape"), Json::parse("[8, 4]"));
  EXPECT_DOUBLE_EQ(json.at("gates")[2].at("sparsity"), 1 - 10.0 / 32);
  EXPECT_DOUBLE_EQ(json.at("groups")[0].at("threshold"), 0.00125);
  EXPECT_EQ(json.at("bytes").at("sparse"), 700000);
  EXPECT_EQ(json.at("seed"), 18446744073709551615ull);
  EXPECT_EQ(json.at("machine").at("cores"), 2);
  EXPECT_EQ(json.at("versions").at("coppice"), "0.1.0");
}

TEST(ReportJson, WhatIsNotFiniteOrNotThereIsNull) {
  RunReport report = sample();
  report.dense_continued.reset();
  report.bytes.sparse = 0;
  report.pruned->loss = std::numeric_limits<double>::infinity();
  report.name = "bad \xff utf-8";
  const Json json = Json::parse(report_json(report));
  EXPECT_TRUE(json.at("metrics").at("dense_continued").is_null());
  EXPECT_TRUE(json.at("metrics").at("pruned").at("loss").is_null());
  EXPECT_TRUE(json.at("bytes").at("sparse").is_null());
  EXPECT_TRUE(json.at("groups")[1].at("threshold").is_null());
  EXPECT_TRUE(json.at("epochs")[7].at("valid_loss").is_null());
  EXPECT_TRUE(json.at("pruning").at("percentile").is_null());
}

TEST(ReportJson, ComesBackAsItWas) {
  const std::string text = report_json(sample());
  EXPECT_EQ(report_json(parse_report(text, "report.json")), text);
}

TEST(ReportJson, OtherFilesAreRefused) {
  EXPECT_THROW(parse_report("{", "x"), Error);
  EXPECT_THROW(parse_report("[1]", "x"), Error);
  EXPECT_THROW(parse_report("{\"schema\": 99}", "x"), Error);
  EXPECT_THROW(parse_report("{\"schema\": 1, \"name\": 3}", "x"), Error);
}

TEST(ReportTable, ShowsEveryModelAndGate) {
  const std::string text = closing_table(sample());
  for (const char* part :
       {"dense", "just pruned", "retrained", "sparse (csr)", "90.02", "4.00 MB", "700 kB", "25 000",
        "rnn.weight_hh_l0", "32 x 8", "g 15.6 %", "out/run/report.html", "coppice sample"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(ReportTable, CountsBytesAndTimesRead) {
  EXPECT_EQ(count_text(1234567), "1 234 567");
  EXPECT_EQ(count_text(-1234), "-1 234");
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(bytes_text(999), "999 B");
  EXPECT_EQ(bytes_text(4200000), "4.20 MB");
  EXPECT_EQ(bytes_text(99960000), "100 MB");
  EXPECT_EQ(seconds_text(0.0123), "12 ms");
  EXPECT_EQ(seconds_text(190), "3 min 10 s");
  EXPECT_EQ(percent_text(std::nan("")), "-");
}

TEST(ReportHtml, IsOnePageWithNothingFromElsewhere) {
  const std::string html = report_html(sample());
  if (const char* folder = std::getenv("COPPICE_KEEP_HTML")) std::ofstream(folder) << html;
  EXPECT_THAT(html, HasSubstr("<svg"));
  EXPECT_THAT(html, HasSubstr("sample &lt;b&gt;"));
  for (const char* part : {"<script", "http://", "https://", "src=", "url(", "@import", "nan", "inf\""}) {
    EXPECT_THAT(html, Not(HasSubstr(part)));
  }
}

TEST(ReportHtml, StandsWithAnEmptyReport) {
  const std::string html = report_html(RunReport{});
  EXPECT_THAT(html, HasSubstr("</html>"));
  EXPECT_FALSE(closing_table(RunReport{}).empty());
}

}  // namespace
}  // namespace coppice
