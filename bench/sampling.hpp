#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace coppice::bench {

struct Sampling {
  int samples = 9;
  int warmup = 2;
  bool interleave = false;
};

/// Times one piece of work (and not `prepare`, which runs before every sample). Alone it prints one JSON line
/// of `facts` with the minimum, median and maximum; with `interleave` it prints {"ready": facts} and then,
/// for every line read from standard input, runs one sample and prints {"seconds": …}: two programs so take
/// turns and see the same machine in the same minute (bench/compare.py drives them).
inline int run_samples(
    const Sampling& options, nlohmann::json facts, double units, const std::function<void()>& work,
    const std::function<void()>& prepare = [] {}) {
  const auto sample = [&] {
    prepare();
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  for (int i = 0; i < options.warmup; ++i) sample();
  if (options.interleave) {
    std::cout << nlohmann::json{{"ready", facts}}.dump() << std::endl;
    for (std::string line; std::getline(std::cin, line);)
      std::cout << nlohmann::json{{"seconds", sample()}}.dump() << std::endl;
    return 0;
  }
  std::vector<double> seconds;
  for (int i = 0; i < options.samples; ++i) seconds.push_back(sample());
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  facts["samples"] = options.samples;
  facts["min_s"] = seconds.front();
  facts["median_s"] = median;
  facts["max_s"] = seconds.back();
  facts["peak_rss_mib"] = usage.ru_maxrss / 1024;
  if (units > 0) facts["units_per_s"] = units / median;
  std::cout << facts.dump() << std::endl;
  return 0;
}

}  // namespace coppice::bench
