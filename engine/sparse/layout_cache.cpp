#include "engine/sparse/layout_cache.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "engine/files/atomic_write.hpp"
#include "engine/files/input_file.hpp"
#include "engine/files/strict_json.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

namespace fs = std::filesystem;
constexpr int kCacheSchema = 1;
constexpr double kNoise = 0.03;

LayoutTimes times_of(const nlohmann::json& json) {
  LayoutTimes times;
  times.on = {json.at("device"), json.at("detail"), json.at("threads"), json.at("version")};
  times.out = json.at("out"), times.in = json.at("in");
  times.density = json.at("density"), times.batch = json.at("batch");
  times.date = json.at("date");
  for (const auto& [layout, seconds] : json.at("seconds").items()) {
    const double value = seconds.get<double>();
    if (!(value > 0)) bad_input("a time of {} s", value);
    times.seconds[layout] = value;
  }
  return times;
}

nlohmann::ordered_json json_of(const LayoutTimes& times) {
  nlohmann::ordered_json json = {{"device", times.on.device},
                                 {"detail", times.on.detail},
                                 {"threads", times.on.threads},
                                 {"version", times.on.version},
                                 {"date", times.date},
                                 {"out", times.out},
                                 {"in", times.in},
                                 {"density", times.density},
                                 {"batch", times.batch}};
  json["seconds"] = times.seconds;
  return json;
}

bool same_key(const LayoutTimes& a, const LayoutTimes& b) {
  return a.on == b.on && a.out == b.out && a.in == b.in && a.density == b.density && a.batch == b.batch;
}

}  // namespace

int density_bucket(int64_t nonzeros, int64_t size) {
  if (nonzeros <= 0 || size <= 0) return 0;
  // 1 is "all of it"; every step down is a factor of 2^(-1/4).
  return 1 + static_cast<int>(
                 std::lround(-4.0 * std::log2(static_cast<double>(nonzeros) / static_cast<double>(size))));
}

int64_t batch_bucket(int64_t batch) {
  int64_t bucket = 1;
  while (bucket < batch && bucket < 32) bucket *= 2;
  return bucket;
}

LayoutCache LayoutCache::read(const fs::path& file, std::string* warning) {
  if (warning != nullptr) warning->clear();
  LayoutCache cache;
  std::error_code ignored;
  if (file.empty() || !fs::exists(file, ignored)) return cache;
  try {
    const nlohmann::json json = parse_json(read_file(file.string()), file.string());
    if (const int schema = json.at("schema"); schema != kCacheSchema) {
      bad_input("schema {}, expected {}", schema, kCacheSchema);
    }
    for (const nlohmann::json& entry : json.at("entries")) cache.entries_.push_back(times_of(entry));
  } catch (const std::exception& error) {
    cache.entries_.clear();
    if (warning != nullptr) {
      *warning = fmt::format("{}: not a cache of layouts, and ignored ({})", file.string(), error.what());
    }
  }
  return cache;
}

void LayoutCache::add(LayoutTimes times) {
  for (LayoutTimes& entry : entries_) {
    if (same_key(entry, times)) {
      entry = std::move(times);
      return;
    }
  }
  entries_.push_back(std::move(times));
}

std::vector<std::string> LayoutCache::ranking(const MeasuredOn& on, int64_t out, int64_t in, int64_t nonzeros,
                                              int64_t batch, std::string_view usual) const {
  const LayoutTimes wanted{on, out, in, density_bucket(nonzeros, out * in), batch_bucket(batch), "", {}};
  for (const LayoutTimes& entry : entries_) {
    if (!same_key(entry, wanted)) continue;
    std::vector<std::pair<double, std::string>> order;
    for (const auto& [layout, seconds] : entry.seconds) {
      order.emplace_back(layout == usual ? seconds * (1 - kNoise) : seconds, layout);
    }
    std::sort(order.begin(), order.end());
    std::vector<std::string> names;
    for (auto& [seconds, layout] : order) names.push_back(std::move(layout));
    return names;
  }
  return {};
}

void LayoutCache::write(const fs::path& file) const {
  if (file.empty()) bad_input("no place for the cache of layouts: set COPPICE_CACHE to a folder");
  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  if (error) failure("{}: {}", file.parent_path().string(), error.message());
  nlohmann::ordered_json json = {{"schema", kCacheSchema}, {"entries", nlohmann::ordered_json::array()}};
  for (const LayoutTimes& entry : entries_) json["entries"].push_back(json_of(entry));
  write_file(file.string(), json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n",
             Existing::replace);
}

fs::path layout_cache_file() {
  const auto variable = [](const char* name) -> fs::path {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
  };
  fs::path folder = variable("COPPICE_CACHE");
  if (folder.empty()) {
    folder = variable("XDG_CACHE_HOME");
    if (folder.empty() && !variable("HOME").empty()) folder = variable("HOME") / ".cache";
    if (folder.empty()) return {};
    folder /= "coppice";
  }
  return folder / "layouts.json";
}

}  // namespace coppice
