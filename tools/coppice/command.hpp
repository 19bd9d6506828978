#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engine/config/recipe.hpp"
#include "engine/verbs.hpp"
#include "tools/coppice/progress.hpp"

namespace coppice::program {

/// What the command line says that several verbs understand. A verb adds the options that it has.
struct Command {
  bool quiet = false;
  bool json = false;
  bool force = false;
  std::string device;    // empty: as the recipe says, or auto
  int64_t threads = -1;  // -1: as the recipe says, or all cores
  int64_t seed = -1;     // -1: as the recipe says, or 1
  std::vector<std::string> set;
  std::string output;
  bool sparse = false;
  std::string layout = "auto", values = "fp32";  // of a sparse run

  CLI::Option* add_output(CLI::App& verb, const std::string& what);  // -o, --force
  void add_device(CLI::App& verb);                                   // --device, --threads
  void add_seed(CLI::App& verb);
  void add_set(CLI::App& verb);
  void add_sparse(CLI::App& verb);   // --sparse, --layout, --values
  void add_manners(CLI::App& verb);  // --quiet, --json

  /// The recipe with --set and the options above on top of it.
  Recipe recipe(const std::string& file) const;
  std::string device_or_auto() const { return device.empty() ? "auto" : device; }
  int64_t threads_or_all() const { return threads < 0 ? 0 : threads; }

  /// How long work is told and stopped; called once, when a verb starts its work.
  RunOptions work() const;
  /// The same for work that runs sparse: with what `coppice bench` measured. A cache that can't be read is
  /// told on standard error.
  RunOptions sparse_work() const;
};

/// Results: standard output, whole, or Error(failure) when it can't take them.
void print_result(const std::string& text);

/// Takes a progress bar off the terminal, if one is there, so that something else can be said.
void end_progress();

/// The folder of the last checkpoint that was saved, for main's last words when a signal stopped the verb.
const std::string& checkpoint_folder();

// One function a verb, each in the file of its name: adds the verb to the program.
void add_run(CLI::App& program);
void add_resume(CLI::App& program);
void add_train(CLI::App& program);
void add_retrain(CLI::App& program);
void add_eval(CLI::App& program);
void add_sample(CLI::App& program);
void add_gradients(CLI::App& program);
void add_prune(CLI::App& program);
void add_convert(CLI::App& program);
void add_sensitivity(CLI::App& program);
void add_bench_program(CLI::App& program);  // becomes coppice-bench, whose one verb is add_bench
void add_bench(CLI::App& program);
void add_inspect(CLI::App& program);
void add_devices(CLI::App& program);

}  // namespace coppice::program
