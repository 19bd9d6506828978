#include <fmt/format.h>

#include <filesystem>
#include <string>

#include "engine/bench/bench.hpp"
#include "engine/bench/pages.hpp"
#include "engine/files/atomic_write.hpp"
#include "engine/report/table.hpp"
#include "kernels/error.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {
namespace {

namespace fs = std::filesystem;

/// The manifest that a build with benchmarks leaves beside the program.
fs::path own_baselines() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path manifest = program.parent_path() / "bench" / "baselines.json";
  return !error && fs::exists(manifest, error) ? manifest : fs::path();
}

void write_folder(const std::string& output, Existing existing, const bench::BenchResult& result) {
  AtomicFolder folder(output, existing);
  const fs::path building = folder.building();
  write_file((building / "bench.json").string(), bench::bench_json(result));
  write_file((building / "bench.html").string(), bench::bench_html(result));
  if (result.subject == "grid") write_file((building / "heat_map.svg").string(), bench::heat_map_svg(result));
  folder.commit();
}

/// What was measured joins what is there already.
std::string remember(const bench::BenchResult& result) {
  if (result.values != "fp32") return "Not remembered: layout auto goes by times of fp32 values.\n";
  const fs::path file = layout_cache_file();
  LayoutCache cache = LayoutCache::read(file);
  const int64_t count = bench::remember(result, cache);
  if (count == 0) return "Nothing was clean enough to be remembered.\n";
  cache.write(file);
  return fmt::format("{}: layout auto goes by {} of these on this machine from now on.\n", file.string(),
                     count);
}

}  // namespace

void add_bench(CLI::App& program) {
  struct Options : Command {
    std::string model;
    std::string timed = "product";
    std::string baselines;
    bool forget = false;
    bench::GridOptions grid;
  };
  auto options = std::make_shared<Options>();
  CLI::App& verb =
      *program.add_subcommand("bench", "Measure where sparse is faster than dense on this machine");
  verb.footer(
      "A model's own matrices, in every layout that they admit: prints whether sparse pays, and remembers "
      "what\n"
      "was fastest in COPPICE_CACHE (else XDG_CACHE_HOME/coppice, else ~/.cache/coppice), by which `run`,\n"
      "`eval --sparse` and `sample --sparse` choose where the layout is auto. A choice never changes a "
      "result.\n"
      "Or, with --cell, a grid of widths, batches and sparsities with masks at random.\n"
      "Other libraries take part where a build with COPPICE_BENCH=ON found them.\n"
      "Example:\n"
      "  coppice bench my_run --batch 1,32\n"
      "  coppice bench --cell lstm --hidden 512,1024 --batch 1,16,32 --sparsity 0.5,0.8,0.9,0.95 -o bench");
  CLI::Option* model =
      verb.add_option("MODEL", options->model, "A model's folder, or a run's: its sparse model");
  CLI::Option* cell = verb.add_option("--cell", options->grid.cell, "A grid of this cell: rnn, lstm or gru")
                          ->check(CLI::IsMember({"rnn", "lstm", "gru"}))
                          ->excludes(model)
                          ->type_name("CELL");
  verb.add_option("--work", options->timed,
                  "product: a matrix by a batch; sequence: a whole layer's inference; frame: one step of it")
      ->check(CLI::IsMember({"product", "sequence", "frame"}))
      ->needs(cell)
      ->type_name("WORK")
      ->capture_default_str();
  verb.add_option("--hidden", options->grid.hidden, "Widths (256,512,1024)")
      ->delimiter(',')
      ->needs(cell)
      ->type_name("H,...");
  verb.add_option("--batch", options->grid.batch, "Streams side by side (1,32)")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->type_name("B,...");
  verb.add_option("--sparsity", options->grid.sparsity, "Shares of zeros (0.5,0.7,0.8,0.9,0.95)")
      ->delimiter(',')
      ->needs(cell)
      ->type_name("S,...");
  verb.add_option("--steps", options->grid.steps, "Of a sequence")
      ->needs(cell)
      ->check(CLI::Range(int64_t{1}, int64_t{100'000}))
      ->type_name("T")
      ->capture_default_str();
  verb.add_option("--layout", options->grid.layouts, "all, or some of the device's")
      ->delimiter(',')
      ->type_name("NAME,...");
  verb.add_option("--values", options->grid.values,
                  "fp32, or bf16: weights rounded, against dense ones that are rounded too, and not")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->type_name("TYPE")
      ->capture_default_str();
  verb.add_option("--turns", options->grid.turns, "Samples of each contestant")
      ->check(CLI::Range(1, 10'000))
      ->type_name("N")
      ->capture_default_str();
  verb.add_option("--baselines", options->baselines,
                  "A manifest of other libraries, or none; else what lies beside the program")
      ->type_name("FILE");
  verb.add_flag("--no-cache", options->forget, "Remember nothing");
  verb.add_flag("--force", options->force, "Replace an existing output");
  verb.add_option("-o,--output", options->output, "A folder for bench.json, bench.html and the heat map")
      ->type_name("PATH");
  options->add_device(verb);
  options->add_manners(verb);
  verb.callback([options, model, cell] {
    if (model->empty() && cell->empty()) throw CLI::RequiredError("MODEL or --cell");
    const Existing existing = options->force ? Existing::replace : Existing::refuse;
    if (!options->output.empty()) check_output(options->output, existing);
    bench::GridOptions& grid = options->grid;
    grid.work = bench::find_work(options->timed);
    grid.device = options->device_or_auto();
    grid.threads = options->threads < 0 ? 1 : options->threads;
    if (options->baselines != "none") {
      grid.baselines = options->baselines.empty() ? own_baselines() : fs::path(options->baselines);
    }
    const RunOptions work = options->work();
    bench::BenchResult result;
    std::string remembered;
    if (model->empty()) {
      if (!options->quiet) {
        fmt::print(stderr, "This takes about {} on an idle machine\n",
                   seconds_text(bench::estimated_seconds(grid)));
      }
      result = bench::bench_grid(grid, work);
    } else {
      result = bench::bench_model(options->model, grid, work);
    }
    if (!options->output.empty()) write_folder(options->output, existing, result);
    if (!model->empty() && !options->forget) remembered = remember(result);
    if (options->json) {
      print_result(bench::bench_json(result));
      return;
    }
    std::string text = bench::bench_table(result) + remembered;
    if (!options->output.empty()) text += fmt::format("{}: bench.html, bench.json\n", options->output);
    print_result(text);
  });
}

}  // namespace coppice::program
