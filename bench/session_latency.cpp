// Latency of coppice_session_step_ids, as a program that links libcoppice sees it: one stream, a median and
// the 99th percentile of single calls, dense and sparse, with one session or several in as many threads.
//   bench_session_latency                              a made-up LSTM 1 x 1024, 90 % cut at random
//   bench_session_latency --model my_run/sparse --sessions 2
// Every call is timed by the wall clock: a latency is what a caller waits.

#include <coppice/coppice.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/model/model_folder.hpp"
#include "engine/model/network.hpp"

namespace coppice::bench {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string model;
  int64_t hidden = 1024, vocabulary = 256;
  double sparsity = 0.9;
  std::vector<std::string> layouts = {"dense", "auto"};
  std::vector<int> sessions = {1};
  int steps = 2000;
};

/// A language model of bytes whose recurrent matrices are cut at random.
void make_model(const Options& options, const fs::path& folder) {
  const auto backend = open_backend("cpu", {.threads = 1});
  Network network(*backend,
                  {.cell = "lstm", .embedding = options.hidden, .hidden = options.hidden, .layers = 1},
                  {.vocabulary = options.vocabulary, .classes = options.vocabulary});
  network.initialise(1);
  std::srand(1);
  for (const char* name : {"rnn.weight_ih_l0", "rnn.weight_hh_l0"}) {
    const MatrixView<float> matrix = network.store().matrix(network.store().segment(name));
    for (int64_t r = 0; r < matrix.rows; ++r) {
      for (int64_t c = 0; c < matrix.cols; ++c) {
        if (std::rand() < options.sparsity * RAND_MAX) matrix.row(r)[c] = 0.0f;
      }
    }
  }
  save_model(network, {}, nullptr, folder);
}

void measure(const Options& options, const std::string& model, const std::string& layout, int count) {
  std::vector<std::vector<double>> seconds(static_cast<size_t>(count));
  std::vector<std::thread> threads;
  for (int t = 0; t < count; ++t) {
    threads.emplace_back([&, t] {
      const std::string named = "layout=" + layout;
      const char* const settings[] = {named.c_str(), "threads=1", "device=cpu"};
      coppice_session* session = nullptr;
      if (coppice_session_open(model.c_str(), 1, settings, 3, &session) != COPPICE_OK) return;
      const int64_t outputs = coppice_session_outputs(session);
      std::vector<float> logits(static_cast<size_t>(outputs));
      std::vector<double>& mine = seconds[static_cast<size_t>(t)];
      mine.reserve(static_cast<size_t>(options.steps));
      for (int i = -100; i < options.steps; ++i) {
        const auto id = static_cast<int32_t>((i + 100) * 31 % outputs);
        const auto start = Clock::now();
        if (coppice_session_step_ids(session, &id, logits.data()) != COPPICE_OK) break;
        if (i >= 0) mine.push_back(std::chrono::duration<double>(Clock::now() - start).count());
      }
      coppice_session_close(session);
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<double> all;
  for (const std::vector<double>& mine : seconds) all.insert(all.end(), mine.begin(), mine.end());
  if (all.empty()) {
    fmt::print("{:<8} {}\n", layout, coppice_last_error());
    return;
  }
  std::sort(all.begin(), all.end());
  const auto at = [&](double share) {
    return all[static_cast<size_t>(share * static_cast<double>(all.size() - 1))] * 1e6;
  };
  fmt::print("{:<8} {} session{}  median {:7.1f} us  p99 {:7.1f} us  worst {:8.1f} us\n", layout, count,
             count == 1 ? " " : "s", at(0.5), at(0.99), at(1.0));
}

}  // namespace
}  // namespace coppice::bench

int main(int argc, char** argv) {
  using namespace coppice;
  bench::Options options;
  CLI::App app{"Latency of a session's step"};
  app.add_option("--model", options.model, "A language model's folder; else one is made up");
  app.add_option("--hidden", options.hidden);
  app.add_option("--sparsity", options.sparsity);
  app.add_option("--layout", options.layouts)->delimiter(',');
  app.add_option("--sessions", options.sessions, "so many at once, a thread each")->delimiter(',');
  app.add_option("--steps", options.steps);
  CLI11_PARSE(app, argc, argv);
  std::string made;
  if (options.model.empty()) {
    made = (std::filesystem::temp_directory_path() / "coppice-latency-XXXXXX").string();
    if (mkdtemp(made.data()) == nullptr) return 1;
    options.model = made + "/model";
    bench::make_model(options, options.model);
  }
  for (const std::string& layout : options.layouts) {
    for (const int sessions : options.sessions) bench::measure(options, options.model, layout, sessions);
  }
  std::error_code ignored;
  if (!made.empty()) std::filesystem::remove_all(made, ignored);
  return 0;
}
