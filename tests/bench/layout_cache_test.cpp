// What was measured chooses a layout, and never a result.

#include "engine/sparse/layout_cache.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>

#include "engine/model/network.hpp"
#include "engine/sparse/layout_policy.hpp"
#include "kernels/error.hpp"
#include "tests/files/scratch.hpp"

namespace coppice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

const MeasuredOn kHere = {"A Processor", "avx2", 2, "0.1.0"};

LayoutTimes times(int64_t out, int64_t in, double density, int64_t batch,
                  std::map<std::string, double, std::less<>> seconds) {
  const auto nonzeros = static_cast<int64_t>(density * static_cast<double>(out * in));
  return {kHere,
          out,
          in,
          density_bucket(nonzeros, out * in),
          batch_bucket(batch),
          "2026-01-02T03:04:05Z",
          std::move(seconds)};
}

void write(const fs::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

TEST(Buckets, GroupWhatIsAlike) {
  EXPECT_EQ(batch_bucket(1), 1);
  EXPECT_EQ(batch_bucket(2), 2);
  EXPECT_EQ(batch_bucket(3), 4);
  EXPECT_EQ(batch_bucket(17), 32);
  EXPECT_EQ(batch_bucket(33), 32);
  EXPECT_EQ(batch_bucket(100'000), 32);
  EXPECT_EQ(density_bucket(0, 100), 0);
  EXPECT_EQ(density_bucket(100, 100), 1);
  EXPECT_EQ(density_bucket(50, 100), 5);
  EXPECT_EQ(density_bucket(100, 1000), density_bucket(101, 1000));
  EXPECT_NE(density_bucket(100, 1000), density_bucket(200, 1000));
}

TEST(Cache, KnowsWhatWasMeasuredHereAndNothingElse) {
  LayoutCache cache;
  cache.add(times(64, 16, 0.1, 32, {{"dense", 3e-6}, {"sell", 1e-6}, {"bsr", 2e-6}}));
  const auto at = [&](const MeasuredOn& on, int64_t out, int64_t in, int64_t nonzeros, int64_t batch) {
    return cache.ranking(on, out, in, nonzeros, batch, "dense");
  };
  EXPECT_THAT(at(kHere, 64, 16, 103, 40), ElementsAre("sell", "bsr", "dense"));
  EXPECT_THAT(at(kHere, 16, 64, 103, 40), IsEmpty());
  EXPECT_THAT(at(kHere, 64, 16, 500, 40), IsEmpty());
  EXPECT_THAT(at(kHere, 64, 16, 103, 1), IsEmpty());
  EXPECT_THAT(at({"Another", "avx2", 2, "0.1.0"}, 64, 16, 103, 40), IsEmpty());
  EXPECT_THAT(at({"A Processor", "avx512", 2, "0.1.0"}, 64, 16, 103, 40), IsEmpty());
  EXPECT_THAT(at({"A Processor", "avx2", 1, "0.1.0"}, 64, 16, 103, 40), IsEmpty());
  EXPECT_THAT(at({"A Processor", "avx2", 2, "0.2.0"}, 64, 16, 103, 40), IsEmpty());
}

TEST(Cache, NoiseDoesNotChoose) {
  LayoutCache cache;
  cache.add(times(64, 16, 0.1, 1, {{"sell", 1.02e-6}, {"bsr", 1e-6}}));
  EXPECT_THAT(cache.ranking(kHere, 64, 16, 103, 1, "sell"), ElementsAre("sell", "bsr"));
  cache.add(times(64, 16, 0.1, 1, {{"sell", 1.05e-6}, {"bsr", 1e-6}}));
  EXPECT_EQ(cache.entries().size(), 1u);  // the earlier measurement's place was taken
  EXPECT_THAT(cache.ranking(kHere, 64, 16, 103, 1, "sell"), ElementsAre("bsr", "sell"));
}

TEST(Cache, ComesBackFromItsFile) {
  const test::Scratch scratch;
  const fs::path file = scratch.path("deep/folder/layouts.json");
  LayoutCache cache;
  cache.add(times(64, 16, 0.1, 32, {{"dense", 3e-6}, {"sell", 1.25e-6}}));
  cache.add(times(64, 64, 0.05, 1, {{"dense", 3e-6}}));
  cache.write(file);
  std::string warning = "none yet";
  const LayoutCache found = LayoutCache::read(file, &warning);
  EXPECT_EQ(warning, "");
  ASSERT_EQ(found.entries().size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const LayoutTimes &a = found.entries()[i], &b = cache.entries()[i];
    EXPECT_TRUE(a.on == b.on && a.out == b.out && a.in == b.in && a.density == b.density &&
                a.batch == b.batch && a.date == b.date && a.seconds == b.seconds);
  }
  found.write(file);  // takes its place
  int files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(file.parent_path())) ++files;
  EXPECT_EQ(files, 1);
}

TEST(Cache, WhatCannotBeReadIsNoMeasurementAndNoError) {
  const test::Scratch scratch;
  std::string warning;
  EXPECT_THAT(LayoutCache::read(scratch.path("missing.json"), &warning).entries(), IsEmpty());
  EXPECT_EQ(warning, "");
  EXPECT_THAT(LayoutCache::read("", &warning).entries(), IsEmpty());
  EXPECT_EQ(warning, "");
  const fs::path file = scratch.path("layouts.json");
  for (const char* text :
       {"", "{", "[]", "{\"schema\": 2, \"entries\": []}", "{\"schema\": 1}",
        "{\"schema\": 1, \"entries\": 3}", "{\"schema\": 1, \"entries\": [{\"device\": 5}]}", "\xff\xfe",
        "{\"schema\": 1, \"entries\": [{\"device\": \"a\", \"detail\": \"b\", \"threads\": 1, \"version\": "
        "\"c\", "
        "\"date\": \"d\", \"out\": 1, \"in\": 1, \"density\": 1, \"batch\": 1, \"seconds\": {\"sell\": "
        "-1}}]}"}) {
    write(file, text);
    EXPECT_THAT(LayoutCache::read(file, &warning).entries(), IsEmpty()) << text;
    EXPECT_THAT(warning, HasSubstr("layouts.json")) << text;
    EXPECT_EQ(warning.find('\n'), std::string::npos);
  }
  EXPECT_NO_THROW(LayoutCache::read(file));
}

TEST(Cache, LiesWhereTheEnvironmentSays) {
  const auto with = [](const char* own, const char* xdg, const char* home) {
    const auto set = [](const char* name, const char* value) {
      value != nullptr ? setenv(name, value, 1) : unsetenv(name);
    };
    set("COPPICE_CACHE", own), set("XDG_CACHE_HOME", xdg), set("HOME", home);
    return layout_cache_file().string();
  };
  EXPECT_EQ(with("/a", "/b", "/c"), "/a/layouts.json");
  EXPECT_EQ(with(nullptr, "/b", "/c"), "/b/coppice/layouts.json");
  EXPECT_EQ(with("", nullptr, "/c"), "/c/.cache/coppice/layouts.json");
  EXPECT_EQ(with(nullptr, nullptr, nullptr), "");
  EXPECT_THROW(LayoutCache().write(""), Error);
}

/// A matrix of blocks of 16 rows by one column, on the CPU.
class Policy : public ::testing::Test {
 protected:
  Policy() : values_(static_cast<size_t>(kOut * kIn)) {
    std::mt19937 random(1);
    for (int64_t r = 0; r < kOut; r += 16) {
      for (int64_t c = 0; c < kIn; ++c) {
        if (random() % 4 != 0) continue;
        for (int64_t i = r; i < r + 16; ++i) values_[static_cast<size_t>(i * kIn + c)] = draw(random);
      }
    }
    for (const float value : values_) nonzeros_ += value != 0 ? 1 : 0;
  }
  static float draw(std::mt19937& random) { return static_cast<float>(random() % 2001 + 1) * 1e-3f; }

  MatrixView<const float> view() const { return {values_.data(), kOut, kIn, kIn, backend_->device()}; }
  LayoutCache measured(std::map<std::string, double, std::less<>> seconds) const {
    LayoutCache cache;
    cache.add({measured_on(*backend_), kOut, kIn, density_bucket(nonzeros_, kOut * kIn), batch_bucket(8), "",
               std::move(seconds)});
    return cache;
  }
  std::string chosen(const LayoutCache* cache, const std::string& layout = "auto", int64_t batch = 8) {
    LayoutPolicy policy = layout;
    policy.measured = cache;
    policy.batch = batch;
    weight_ = make_weight(*backend_, policy, "w", view());
    return std::string(weight_->layout());
  }
  std::vector<float> product() {
    std::vector<float> x(8 * kIn), y(8 * kOut);
    std::mt19937 random(2);
    for (float& value : x) value = draw(random) - 1;
    const Device cpu = backend_->device();
    weight_->multiply({x.data(), 8, kIn, kIn, cpu}, {nullptr, 0, cpu}, {y.data(), 8, kOut, kOut, cpu});
    return y;
  }

  static constexpr int64_t kOut = 128, kIn = 96;
  std::unique_ptr<Backend> backend_ = open_backend("cpu", {.threads = 2});
  std::vector<float> values_;
  int64_t nonzeros_ = 0;
  std::unique_ptr<Weight> weight_;
};

TEST_F(Policy, GoesByWhatWasMeasuredAndChangesNoBit) {
  EXPECT_EQ(chosen(nullptr), "sell");
  const std::vector<float> usual = product();
  const LayoutCache empty;
  EXPECT_EQ(chosen(&empty), "sell");
  for (const char* fastest : {"bsr", "dense", "sell"}) {
    std::map<std::string, double, std::less<>> seconds = {{"sell", 2e-6}, {"bsr", 2e-6}, {"dense", 2e-6}};
    seconds[fastest] = 1e-6;
    const LayoutCache cache = measured(seconds);
    EXPECT_EQ(chosen(&cache), fastest);
    const std::vector<float> found = product();
    EXPECT_EQ(std::memcmp(found.data(), usual.data(), usual.size() * sizeof(float)), 0) << fastest;
    EXPECT_EQ(chosen(&cache, "auto", 1), "sell") << "of another batch nothing is known";
    EXPECT_EQ(chosen(&cache, "csr"), "csr") << "a layout that was named";
  }
}

TEST_F(Policy, NeverTakesALayoutOfOtherBitsOrOfAnotherPattern) {
  const LayoutCache cache = measured({{"sell", 4e-6}, {"csr", 1e-6}, {"balanced", 2e-6}, {"origami", 3e-6}});
  EXPECT_EQ(chosen(&cache), "sell");
  const LayoutCache blocks = measured({{"sell", 4e-6}, {"csr", 1e-6}, {"bsr", 3e-6}, {"balanced", 2e-6}});
  EXPECT_EQ(chosen(&blocks), "bsr");
}

TEST_F(Policy, AMatrixMayHaveALayoutOfItsOwn) {
  LayoutPolicy policy = "dense";
  policy.tensors["w"] = "csr";
  EXPECT_EQ(make_weight(*backend_, policy, "w", view())->layout(), "csr");
  EXPECT_EQ(make_weight(*backend_, policy, "v", view())->layout(), "dense");
  policy.tensors["w"] = "balanced";
  EXPECT_THROW(make_weight(*backend_, policy, "w", view()), Error);
}

}  // namespace
}  // namespace coppice
