#include "tools/coppice/command.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "engine/config/schema.hpp"
#include "kernels/error.hpp"

namespace coppice::program {
namespace {

StopToken stop;
std::string saved_folder;

extern "C" void request_stop(int) {
  stop.requested.store(true);
}

/// SIGINT and SIGTERM ask the work to save a checkpoint and stop. A second signal ends the process at once.
void catch_signals() {
  struct sigaction action {};
  action.sa_handler = request_stop;
  action.sa_flags = SA_RESETHAND | SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

/// Remembers where the last checkpoint lies, and passes everything else on to a display, if there is one.
class Listener final : public ProgressListener {
 public:
  explicit Listener(std::unique_ptr<ProgressListener> display) : display_(std::move(display)) {}
  void stage_begins(std::string_view stage) override {
    if (display_) display_->stage_begins(stage);
  }
  void progress(const Progress& progress) override {
    if (display_) display_->progress(progress);
  }
  void epoch_ends(const Progress& progress) override {
    if (display_) display_->epoch_ends(progress);
  }
  void stage_ends(std::string_view stage, double seconds) override {
    if (display_) display_->stage_ends(stage, seconds);
  }
  void checkpoint_saved(const std::string& folder) override { saved_folder = folder; }

 private:
  std::unique_ptr<ProgressListener> display_;
};

std::unique_ptr<Listener> told;

}  // namespace

CLI::Option* Command::add_output(CLI::App& verb, const std::string& what) {
  verb.add_flag("--force", force, "Replace an existing output");
  return verb.add_option("-o,--output", output, what)->required()->type_name("PATH");
}

void Command::add_device(CLI::App& verb) {
  verb.add_option("--device", device, "auto, cpu, cuda or cuda:N")->type_name("NAME");
  verb.add_option("--threads", threads, "CPU threads; 0 = all cores")
      ->check(CLI::Range(int64_t{0}, int64_t{4096}))
      ->type_name("N");
}

void Command::add_seed(CLI::App& verb) {
  verb.add_option("--seed", seed, "The same seed gives the same bits")
      ->check(CLI::NonNegativeNumber)
      ->type_name("N");
}

void Command::add_set(CLI::App& verb) {
  verb.add_option("--set", set, "Override a recipe key: --set section.key=value (again for more)")
      ->take_all()
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
}

void Command::add_sparse(CLI::App& verb) {
  verb.add_flag("--sparse", sparse, "Run the matrices in a sparse layout");
  verb.add_option("--layout", layout,
                  "Which: auto, sell, bsr, balanced, csr (on a GPU csr, cusparse); with --sparse")
      ->needs("--sparse")
      ->type_name("NAME")
      ->capture_default_str();
  verb.add_option("--values", values,
                  "fp32, or bf16: the matrices rounded, half the bytes (a processor's dense, sell, bsr, "
                  "balanced); with --sparse")
      ->needs("--sparse")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->type_name("TYPE")
      ->capture_default_str();
}

void Command::add_manners(CLI::App& verb) {
  verb.add_flag("--quiet", quiet, "No progress on standard error");
  verb.add_flag("--json", json, "The result as JSON on standard output, and nothing else there");
}

Recipe Command::recipe(const std::string& file) const {
  std::vector<std::string> overrides = set;
  if (!device.empty()) overrides.push_back("device=" + device);
  if (threads >= 0) overrides.push_back(fmt::format("threads={}", threads));
  if (seed >= 0) overrides.push_back(fmt::format("seed={}", seed));
  return read_recipe(file, overrides);
}

RunOptions Command::work() const {
  told = std::make_unique<Listener>(quiet ? nullptr : make_progress());
  catch_signals();
  return {force, told.get(), &stop};
}

RunOptions Command::sparse_work() const {
  static LayoutCache measured;
  std::string warning;
  measured = LayoutCache::read(layout_cache_file(), &warning);
  if (!warning.empty() && !quiet) fmt::print(stderr, "coppice: warning: {}\n", warning);
  RunOptions options = work();
  options.measured = &measured;
  return options;
}

void end_progress() {
  told.reset();
}

void print_result(const std::string& text) {
  end_progress();
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    failure("standard output: {}", std::strerror(errno));
  }
}

const std::string& checkpoint_folder() {
  return saved_folder;
}

}  // namespace coppice::program
