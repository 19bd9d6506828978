#pragma once

#include <sys/resource.h>

#include <cstdint>
#include <cstdio>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/bench/fma_peak.hpp"

namespace coppice::bench {

/// A product y [B, rows] = x [B, cols]·Wᵀ as `coppice bench` poses it (engine/bench/baselines.hpp).
struct Problem {
  int64_t rows = 0, cols = 0, batch = 0;
  int threads = 1;
  std::vector<float> w;  // [rows, cols]
  std::vector<float> x;  // [batch, cols]: x[b][c] = ((7·c + 13·b) mod 31 - 15) / 16
  std::vector<float> y;  // [batch, rows]
};

/// x and y as a library that wants a stream a column has them: [n, batch] instead of [batch, n].
inline std::vector<float> transposed(const std::vector<float>& from, int64_t rows, int64_t cols) {
  std::vector<float> to(from.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      to[static_cast<size_t>(c * rows + r)] = from[static_cast<size_t>(r * cols + c)];
    }
  }
  return to;
}

/// What a library makes of a problem: `run` multiplies once; `probe` gives y[0][0] and y[batch-1][rows-1].
struct Prepared {
  std::function<void()> run;
  std::function<std::vector<double>()> probe;
};

inline Problem read_problem(const nlohmann::json& json) {
  Problem problem;
  problem.rows = json.at("rows"), problem.cols = json.at("cols"), problem.batch = json.at("batch");
  problem.threads = json.at("threads");
  problem.w.resize(static_cast<size_t>(problem.rows * problem.cols));
  const std::string file = json.at("recurrent");
  FILE* in = std::fopen(file.c_str(), "rb");
  const size_t read = in == nullptr ? 0 : std::fread(problem.w.data(), sizeof(float), problem.w.size(), in);
  if (in != nullptr) std::fclose(in);
  if (read != problem.w.size()) throw std::runtime_error(file + ": too short");
  problem.x.resize(static_cast<size_t>(problem.batch * problem.cols));
  for (int64_t b = 0; b < problem.batch; ++b) {
    for (int64_t c = 0; c < problem.cols; ++c) {
      problem.x[static_cast<size_t>(b * problem.cols + c)] =
          (static_cast<float>((7 * c + 13 * b) % 31) - 15.0f) / 16.0f;
    }
  }
  problem.y.assign(static_cast<size_t>(problem.batch * problem.rows), 0.0f);
  return problem;
}

/// Answers lines with lines until there are no more. One thread is timed by its CPU time, more by the wall
/// clock.
inline int serve(const char* library, const std::string& version,
                 const std::function<Prepared(Problem&)>& prepare) {
  Problem problem;
  Prepared prepared;
  const auto say = [](const nlohmann::json& json) { std::cout << json.dump() << std::endl; };
  const auto preemptions = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nivcsw;
  };
  for (std::string line; std::getline(std::cin, line);) {
    try {
      const nlohmann::json ask = nlohmann::json::parse(line);
      if (ask.contains("problem")) {
        prepared = {};
        problem = read_problem(ask.at("problem"));
        prepared = prepare(problem);
        prepared.run();
        say({{"ready", {{"library", library}, {"version", version}, {"probe", prepared.probe()}}}});
        continue;
      }
      const int64_t repeats = ask.at("turn");
      const auto now = problem.threads == 1 ? thread_seconds : wall_seconds;
      const double warm = now() + ask.at("warm_up_seconds").get<double>();
      prepared.run();
      for (int64_t i = 1; i < ask.at("warm_up_calls") && now() < warm; ++i) prepared.run();
      const auto preempted = preemptions();
      const double start = now();
      for (int64_t i = 0; i < repeats; ++i) prepared.run();
      const double seconds = now() - start;
      say({{"seconds", seconds}, {"polluted", preemptions() != preempted}});
    } catch (const std::exception& error) {
      say({{"absent", error.what()}});
    }
  }
  return 0;
}

}  // namespace coppice::bench
