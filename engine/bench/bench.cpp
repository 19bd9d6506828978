#include "engine/bench/bench.hpp"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <optional>

#include "engine/bench/baselines.hpp"
#include "engine/bench/contestant.hpp"
#include "engine/bench/fma_peak.hpp"
#include "engine/builtins.hpp"
#include "engine/model/model_folder.hpp"
#include "engine/sparse/layout_policy.hpp"
#include "kernels/error.hpp"

namespace coppice::bench {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kMostElements = int64_t{1} << 30;  // of one matrix

std::string utc_now() {
  const std::time_t time = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

/// Matrices as files for the baselines, gone with this.
class Scratch {
 public:
  Scratch() {
    std::string name = (fs::temp_directory_path() / "coppice-bench-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) failure("{}: no folder for the baselines' matrices", name);
    path_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  fs::path write(const std::string& name, const HostMatrix& matrix) const {
    const fs::path file = path_ / name;
    FILE* out = std::fopen(file.c_str(), "wb");
    if (out == nullptr) failure("{}: can't be written", file.string());
    const size_t written = std::fwrite(matrix.values.data(), sizeof(float), matrix.values.size(), out);
    if (std::fclose(out) != 0 || written != matrix.values.size()) {
      failure("{}: can't be written: is the disk full?", file.string());
    }
    return file;
  }

 private:
  fs::path path_;
};

/// The matrices of one cell on the host and, where there are baselines, on the disk.
struct Matrices {
  std::optional<HostMatrix> input;  // not of a product
  HostMatrix recurrent;
  fs::path input_file, recurrent_file;
};

/// Those of ours that take turns in a cell, and what stands of them in the table.
struct CellContestants {
  std::vector<std::pair<Entry, std::unique_ptr<CellWeights>>> list;

  void add(Backend& backend, const Candidate& candidate, DType values, const HostMatrix* input,
           const HostMatrix& recurrent) {
    auto weights = std::make_unique<CellWeights>(backend, candidate.layout, values, input, recurrent);
    Entry entry;
    entry.name = candidate.name;
    entry.family = candidate.layout == "dense" ? "dense" : std::string(family_of(candidate.pattern));
    entry.layout = candidate.layout;
    entry.dense_bits = backend.gives_dense_bits(candidate.layout);
    entry.density = candidate.layout == "dense" ? 1.0 : recurrent.density();
    list.emplace_back(std::move(entry), std::move(weights));
  }
};

/// The device, its yardstick, who else takes part, and what has been found so far.
class Bench {
 public:
  Bench(const BenchOptions& options, const RunOptions& run, int64_t cells)
      : options_(options),
        values_(find_value_type("values", options.values)),
        run_(run),
        cells_(cells),
        began_(wall_seconds()) {
    std::string note;
    backend_ = open_backend(options.device, {.threads = static_cast<int>(options.threads)}, &note);
    yardstick_ = make_yardstick(*backend_);
    const DeviceInfo info = backend_->info();
    result_.device = to_string(backend_->device());
    result_.processor = info.name, result_.detail = info.detail, result_.threads = info.threads;
    utsname system{};
    if (uname(&system) == 0) {
      result_.system = fmt::format("{} {} {}", system.sysname, system.release, system.machine);
    }
    result_.date = utc_now();
    result_.values = options.values;
    result_.versions = {{"coppice", COPPICE_VERSION}, {"compiler", __VERSION__}};
    if (!note.empty()) result_.notes.push_back(note);
    for (const int64_t batch : options.batch) {
      if (batch < 1) bad_input("a batch of {}; expected 1 or more", batch);
    }
    // A form for a single row counts among a weight's bytes from when it is made on.
    std::sort(options_.batch.begin(), options_.batch.end());
    if (backend_->device().type != Device::Type::cpu || options.baselines.empty()) return;
    scratch_ = std::make_unique<Scratch>();
    for (Baseline& baseline : read_baselines(options.baselines)) {
      if (baseline.values != DType::f32 && baseline.values != values_) continue;
      baselines_.push_back(std::make_unique<RunningBaseline>(std::move(baseline), info.threads));
    }
  }

  Backend& backend() { return *backend_; }
  BenchResult& result() { return result_; }
  const std::vector<int64_t>& batches() const { return options_.batch; }
  std::vector<Candidate> candidates() const { return candidates_of(*backend_, options_.layouts, values_); }
  bool has_baselines() const { return !baselines_.empty(); }

  /// Our weights of a candidate, their values of the type that was asked for.
  void add(CellContestants& ours, const Candidate& candidate, const HostMatrix* input,
           const HostMatrix& recurrent) const {
    ours.add(*backend_, candidate, values_, input, recurrent);
  }
  /// Our dense: in float32, and rounded too where that was asked for.
  void add_dense(CellContestants& ours, const HostMatrix* input, const HostMatrix& recurrent) const {
    ours.add(*backend_, {"dense", "", "dense"}, DType::f32, input, recurrent);
    if (values_ == DType::f32) return;
    ours.add(*backend_, {"dense", "", fmt::format("dense {}", to_string(values_))}, values_, input,
             recurrent);
  }

  void store(Matrices& matrices, const std::string& name) const {
    if (!has_baselines()) return;
    matrices.recurrent_file = scratch_->write(name + ".recurrent", matrices.recurrent);
    if (matrices.input) matrices.input_file = scratch_->write(name + ".input", *matrices.input);
  }

  void add_cell(TableCell cell, Work work, coppice::Cell kind, int64_t steps, const Matrices& matrices,
                const std::vector<const CellContestants*>& ours);

  BenchResult finish() {
    if (run_.listener != nullptr) run_.listener->stage_ends("bench", wall_seconds() - began_);
    result_.seconds = wall_seconds() - began_;
    return std::move(result_);
  }

 private:
  void tell();
  void note(const std::string& text) {
    if (std::find(result_.notes.begin(), result_.notes.end(), text) == result_.notes.end()) {
      result_.notes.push_back(text);
    }
  }

  BenchOptions options_;
  DType values_;
  const RunOptions& run_;
  int64_t cells_;
  double began_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Yardstick> yardstick_;
  std::vector<std::unique_ptr<RunningBaseline>> baselines_;
  std::unique_ptr<Scratch> scratch_;
  BenchResult result_;
};

void Bench::tell() {
  if (run_.listener == nullptr) return;
  const auto done = static_cast<int64_t>(result_.cells.size());
  if (done == 0) run_.listener->stage_begins("bench");
  Progress progress;
  progress.stage = "bench";
  progress.batch = done;
  progress.batches = cells_;
  progress.seconds = wall_seconds() - began_;
  if (done > 0)
    progress.seconds_left = progress.seconds / static_cast<double>(done) * static_cast<double>(cells_ - done);
  run_.listener->progress(progress);
}

void Bench::add_cell(TableCell cell, Work work, coppice::Cell kind, int64_t steps, const Matrices& matrices,
                     const std::vector<const CellContestants*>& ours) {
  tell();
  std::vector<Turn> turns;
  std::vector<int64_t> bytes;
  std::vector<double> operations;
  for (const CellContestants* some : ours) {
    for (const auto& [entry, weights] : some->list) {
      Contestant contestant = weights->contestant(entry.name, work, kind, cell.batch, steps);
      cell.entries.push_back(entry);
      cell.entries.back().version = fmt::format("coppice {}", COPPICE_VERSION);
      cell.entries.back().bytes = contestant.bytes;
      turns.push_back(std::move(contestant.turn));
      bytes.push_back(contestant.bytes);
      operations.push_back(contestant.operations);
    }
  }
  BaselineProblem problem;
  problem.work = work, problem.cell = kind, problem.batch = cell.batch, problem.steps = steps;
  problem.rows = cell.rows, problem.cols = cell.cols;
  problem.recurrent = matrices.recurrent_file, problem.input = matrices.input_file;
  if (has_baselines() && work == Work::product) problem.probe = probe_of(matrices.recurrent, cell.batch);
  const double density = matrices.recurrent.density();
  const auto elements = static_cast<int64_t>(matrices.recurrent.values.size() +
                                             (matrices.input ? matrices.input->values.size() : 0));
  const double dense_operations = 2.0 * static_cast<double>(elements * cell.batch) *
                                  static_cast<double>(work == Work::sequence ? steps : 1);
  for (const std::unique_ptr<RunningBaseline>& baseline : baselines_) {
    if (!baseline->serves(work)) continue;
    std::string why;
    if (!baseline->prepare(problem, why)) {
      note(fmt::format("{}: {}", baseline->name(), why));
      continue;
    }
    Entry entry;
    entry.name = baseline->name();
    entry.version = baseline->version();
    entry.family = baseline->sparse() ? "unstructured" : "dense";
    entry.density = baseline->sparse() ? density : 1.0;
    cell.entries.push_back(entry);
    turns.push_back(baseline->turn());
    bytes.push_back(elements * size_of(baseline->values()));
    operations.push_back(dense_operations * entry.density);
    result_.versions.emplace(entry.name, entry.version);
  }
  const TurnOptions turn_options{.turns = options_.turns, .waits_for_workers = backend_->info().threads > 1};
  Ceilings ceilings;
  const std::vector<Timing> timings =
      take_turns(turns, bytes, *yardstick_, turn_options, ceilings, run_.stop);
  cell.gflops = ceilings.flops * 1e-9;
  cell.read_gbs = ceilings.bandwidths.empty() ? 0.0 : ceilings.bandwidths.front() * 1e-9;
  for (size_t i = 0; i < timings.size(); ++i) {
    Entry& entry = cell.entries[i];
    entry.timing = timings[i];
    double floor = 0.0;
    if (ceilings.flops > 0) floor = operations[i] / ceilings.flops;
    const double passes = work == Work::sequence && cell.batch == 1 ? static_cast<double>(steps) : 1.0;
    if (entry.bytes > 0 && ceilings.bandwidths[i] > 0) {
      floor = std::max(floor, passes * static_cast<double>(entry.bytes) / ceilings.bandwidths[i]);
    }
    entry.share = timings[i].median > 0 ? floor / timings[i].median : 0.0;
  }
  result_.cells.push_back(std::move(cell));
}

void check_grid(const GridOptions& grid) {
  if (grid.hidden.empty() || grid.batch.empty() || grid.sparsity.empty()) {
    bad_input("a benchmark without a width, a batch or a sparsity");
  }
  for (const int64_t hidden : grid.hidden) {
    if (hidden < 1 || hidden > kMostElements / hidden / 4) {
      bad_input("a hidden width of {}; expected 1 to {}", hidden,
                static_cast<int64_t>(std::sqrt(static_cast<double>(kMostElements / 4))));
    }
  }
  for (const double sparsity : grid.sparsity) {
    if (!(sparsity >= 0 && sparsity < 1)) bad_input("a sparsity of {}; expected 0 to below 1", sparsity);
  }
  if (grid.steps < 1) bad_input("a sequence of {} steps; expected 1 or more", grid.steps);
}

coppice::Cell cell_of_name(const std::string& name) {
  return find_cell(name == "rnn" ? "rnn_tanh" : name);
}

}  // namespace

BenchResult bench_grid(const GridOptions& grid, const RunOptions& options) {
  check_grid(grid);
  const coppice::Cell kind = cell_of_name(grid.cell);
  const auto count = static_cast<int64_t>(grid.hidden.size() * grid.batch.size() * grid.sparsity.size());
  Bench session(grid, options, count);
  const std::vector<Candidate> candidates = session.candidates();
  BenchResult& result = session.result();
  result.subject = "grid";
  result.work = to_string(grid.work), result.cell = grid.cell;
  result.steps = grid.work == Work::sequence ? grid.steps : 1;
  const bool both = grid.work != Work::product;
  for (const int64_t hidden : grid.hidden) {
    const int64_t rows = gate_count(kind) * hidden;
    const HostMatrix recurrent = random_matrix(rows, hidden, 1);
    std::optional<HostMatrix> input;
    if (both) input = random_matrix(rows, hidden, 2);
    CellContestants dense;
    session.add_dense(dense, both ? &*input : nullptr, recurrent);
    for (const double sparsity : grid.sparsity) {
      Matrices elements;  // what the baselines get: cut at random, element by element
      CellContestants sparse;
      std::string pattern;
      Matrices cut;
      for (const Candidate& candidate : candidates) {
        if (candidate.pattern != pattern) {
          pattern = candidate.pattern;
          cut.recurrent = cut_at_random(recurrent, pattern, sparsity, 3);
          if (both) cut.input = cut_at_random(*input, pattern, sparsity, 4);
          if (pattern == "element" && session.has_baselines()) elements = cut;
        }
        session.add(sparse, candidate, both ? &*cut.input : nullptr, cut.recurrent);
      }
      if (session.has_baselines() && elements.recurrent.values.empty()) {
        elements.recurrent = cut_at_random(recurrent, "element", sparsity, 3);
        if (both) elements.input = cut_at_random(*input, "element", sparsity, 4);
      }
      session.store(elements, "matrix");
      for (const int64_t batch : session.batches()) {
        TableCell cell;
        cell.name = fmt::format("{} {}", grid.cell, hidden);
        cell.rows = rows, cell.cols = hidden, cell.batch = batch, cell.sparsity = sparsity;
        session.add_cell(std::move(cell), grid.work, kind, grid.steps, elements, {&dense, &sparse});
      }
    }
  }
  return session.finish();
}

double estimated_seconds(const GridOptions& grid) {
  check_grid(grid);
  const bool all = grid.layouts.empty() || grid.layouts.front() == "all";
  const double contestants = all ? 7 : 1 + static_cast<double>(grid.layouts.size());
  const double others = grid.baselines.empty() ? 0 : 7;
  double seconds = 0.0;
  for (const int64_t hidden : grid.hidden) {
    const double elements = 4.0 * static_cast<double>(hidden * hidden);
    seconds += static_cast<double>(grid.sparsity.size()) * contestants * elements * 25e-9;  // masks, layouts
    for (const int64_t batch : grid.batch) {
      // Half of 50 GFLOP/s for the dense one, of which each takes a call to warm up; a sample is 3 ms,
      // after 10.
      const double dense = elements * 2 * static_cast<double>(batch) *
                           (grid.work == Work::sequence ? 2.0 * static_cast<double>(grid.steps)
                            : grid.work == Work::frame  ? 2.0
                                                        : 1.0) /
                           5e10;
      const double turn = (contestants + others) * (0.013 + 0.25 * dense) + dense;
      seconds += static_cast<double>(grid.sparsity.size()) * (grid.turns + 2) * 1.3 * turn;
    }
  }
  return seconds + (grid.baselines.empty() ? 0 : 10);
}

BenchResult bench_model(const fs::path& model, const BenchOptions& bench, const RunOptions& options) {
  fs::path folder = model;
  if (fs::is_directory(model) && !is_model_folder(model)) {
    for (const char* name : {"sparse", "retrained"}) {
      if (is_model_folder(model / name)) {
        folder = model / name;
        break;
      }
    }
  }
  if (bench.batch.empty()) bad_input("a benchmark without a batch");
  const ModelDescription description = read_model(folder);
  const std::vector<Segment> segments = model_segments(description.model, description.shape);
  const TrainedWeights weights(folder, segments, description.model);
  std::vector<const Segment*> matrices;
  for (const Segment& segment : segments) {
    if (segment.shape.size() == 2 && segment.name != "embedding.weight") matrices.push_back(&segment);
  }
  Bench session(bench, options, static_cast<int64_t>(matrices.size() * bench.batch.size()));
  BenchResult& result = session.result();
  result.subject = folder.string();
  result.work = to_string(Work::product), result.cell = description.model.cell;
  for (const Segment* segment : matrices) {
    Matrices own;
    own.recurrent = {segment->rows(), segment->cols(), weights.read(*segment)};
    session.store(own, "matrix");
    const double density = own.recurrent.density();
    CellContestants dense, sparse;
    session.add_dense(dense, nullptr, own.recurrent);
    std::string last;
    for (Candidate candidate : session.candidates()) {
      if (candidate.layout == last) continue;  // the matrix says of which blocks it is made
      last = candidate.layout;
      // Without the height of its blocks.
      if (last == "bsr") candidate.name.erase(candidate.name.find(" 16x1"), 5);
      try {
        session.add(sparse, candidate, nullptr, own.recurrent);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::bad_input) throw;
        continue;  // not of that layout's pattern
      }
    }
    for (const int64_t batch : session.batches()) {
      TableCell cell;
      cell.name = segment->name;
      cell.rows = segment->rows(), cell.cols = segment->cols();
      cell.batch = batch, cell.sparsity = 1 - density;
      session.add_cell(std::move(cell), Work::product, coppice::Cell::lstm, 1, own, {&dense, &sparse});
    }
  }
  return session.finish();
}

int64_t remember(const BenchResult& result, LayoutCache& cache) {
  if (result.values != "fp32") return 0;
  int64_t remembered = 0;
  for (const TableCell& cell : result.cells) {
    LayoutTimes times;
    times.on = {result.processor, result.detail, result.threads, result.versions.at("coppice")};
    times.out = cell.rows, times.in = cell.cols;
    const int64_t size = cell.rows * cell.cols;
    times.density = density_bucket(std::llround((1 - cell.sparsity) * static_cast<double>(size)), size);
    times.batch = batch_bucket(cell.batch);
    times.date = result.date;
    bool noisy = false;
    for (const Entry& entry : cell.entries) {
      if (entry.layout.empty()) continue;
      noisy |= entry.timing.noisy;
      times.seconds[entry.layout] = entry.timing.median;
    }
    if (noisy) continue;
    cache.add(std::move(times));
    ++remembered;
  }
  return remembered;
}

}  // namespace coppice::bench
