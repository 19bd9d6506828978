#include "engine/bench/baselines.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "engine/bench/idle.hpp"
#include "engine/files/input_file.hpp"
#include "engine/files/strict_json.hpp"
#include "engine/sparse/layout_policy.hpp"
#include "kernels/error.hpp"

namespace coppice::bench {
namespace {

constexpr double kPatience = 120.0;  // seconds: a framework may take long to start

std::string cell_name(Cell cell) {
  return cell == Cell::lstm ? "lstm" : cell == Cell::gru ? "gru" : "rnn";
}

}  // namespace

std::vector<Baseline> read_baselines(const std::filesystem::path& manifest) {
  std::vector<Baseline> baselines;
  const nlohmann::json json = parse_json(read_file(manifest.string()), manifest.string());
  try {
    for (const nlohmann::json& entry : json.at("baselines")) {
      Baseline baseline;
      baseline.name = entry.at("name");
      baseline.sparse = entry.at("kind") == "sparse";
      baseline.values = find_value_type(manifest.string() + ": values", entry.value("values", "fp32"));
      baseline.works = entry.at("works").get<std::vector<std::string>>();
      baseline.command = entry.at("command").get<std::vector<std::string>>();
      baseline.environment = entry.value("environment", std::vector<std::string>());
      baseline.unset = entry.value("unset", std::vector<std::string>());
      const auto is_set = [](const std::string& name) { return std::getenv(name.c_str()) != nullptr; };
      if (baseline.unset.empty() || std::any_of(baseline.unset.begin(), baseline.unset.end(), is_set)) {
        baselines.push_back(std::move(baseline));
      }
    }
  } catch (const nlohmann::json::exception& error) {
    bad_input("{}: not a manifest of baselines: {}", manifest.string(), error.what());
  }
  return baselines;
}

std::vector<double> probe_of(const HostMatrix& matrix, int64_t batch) {
  if (matrix.rows == 0 || batch == 0) return {};
  const auto element = [&](int64_t b, int64_t r) {
    double sum = 0.0;
    for (int64_t c = 0; c < matrix.cols; ++c) {
      const double x = (static_cast<double>((7 * c + 13 * b) % 31) - 15.0) / 16.0;
      sum += x * static_cast<double>(matrix.values[static_cast<size_t>(r * matrix.cols + c)]);
    }
    return sum;
  };
  return {element(0, 0), element(batch - 1, matrix.rows - 1)};
}

RunningBaseline::RunningBaseline(Baseline baseline, int64_t threads)
    : baseline_(std::move(baseline)), threads_(threads) {
  const std::string count = std::to_string(threads);
  for (const char* name : {"OMP_NUM_THREADS=", "OPENBLAS_NUM_THREADS="}) {
    baseline_.environment.push_back(name + count);
  }
  try {
    process_ = std::make_unique<ChildProcess>(baseline_.command, baseline_.environment, baseline_.unset);
  } catch (const Error& error) {
    broken_ = error.what();
  }
}

bool RunningBaseline::serves(Work work) const {
  return std::find(baseline_.works.begin(), baseline_.works.end(), to_string(work)) != baseline_.works.end();
}

bool RunningBaseline::prepare(const BaselineProblem& problem, std::string& why) {
  why = broken_;
  if (!broken_.empty()) return false;
  const nlohmann::json ask = {{"problem",
                               {{"work", to_string(problem.work)},
                                {"cell", cell_name(problem.cell)},
                                {"batch", problem.batch},
                                {"steps", problem.steps},
                                {"rows", problem.rows},
                                {"cols", problem.cols},
                                {"threads", threads_},
                                {"recurrent", problem.recurrent.string()},
                                {"input", problem.input.string()}}}};
  try {
    const nlohmann::json answer = nlohmann::json::parse(process_->ask(ask.dump(), kPatience));
    process_->wait_until_idle(kLongestSpin);
    if (answer.contains("absent")) {
      why = answer.at("absent");
      return false;
    }
    const nlohmann::json& ready = answer.at("ready");
    version_ =
        fmt::format("{} {}", ready.at("library").get<std::string>(), ready.at("version").get<std::string>());
    // Rounded are its matrix and, of some, its result.
    const double close = baseline_.values == DType::f32 ? 1e-3 : 2e-2;
    const std::vector<double> probe = ready.value("probe", std::vector<double>());
    for (size_t i = 0; i < std::min(probe.size(), problem.probe.size()); ++i) {
      if (std::abs(probe[i] - problem.probe[i]) > close * std::max(1.0, std::abs(problem.probe[i]))) {
        why = fmt::format("it computes {} where {} is right", probe[i], problem.probe[i]);
        return false;
      }
    }
    return true;
  } catch (const std::exception& error) {
    why = broken_ = error.what();
    return false;
  }
}

Turn RunningBaseline::turn() {
  return [this](int64_t repeats) {
    if (!broken_.empty()) return Sample{1e9, true};
    try {
      const nlohmann::json ask = {
          {"turn", repeats}, {"warm_up_calls", kWarmUpCalls}, {"warm_up_seconds", kWarmUpSeconds}};
      const nlohmann::json answer = nlohmann::json::parse(process_->ask(ask.dump(), kPatience));
      process_->wait_until_idle(kLongestSpin);
      return Sample{answer.at("seconds"), answer.at("polluted")};
    } catch (const std::exception& error) {
      broken_ = error.what();
      return Sample{1e9, true};
    }
  };
}

}  // namespace coppice::bench
