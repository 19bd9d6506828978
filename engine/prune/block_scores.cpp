#include "engine/prune/block_scores.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "engine/prune/host_scores.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

/// Blocks that a pass holds at a time, elements that are selected together, and those of a task of a thread.
constexpr int64_t kBlocksTogether = int64_t{1} << 15;
constexpr int64_t kElementsTogether = int64_t{1} << 18;
constexpr int64_t kTile = 1024;

int64_t divided_up(int64_t length, int64_t side) {
  return (length + side - 1) / side;
}

/// Adds scores of elements in index order, the first of which is element `in_unit` of its unit's row, to
/// units of `width` elements in a row; those whose bit is 0 are left out.
void add_scores(Reduce reduce, const double* scores, int64_t count, const ScoreBlock& block, int64_t first,
                int64_t width, int64_t in_unit, UnitScore* unit) {
  const bool all = block.kept == nullptr;
  const auto fold = [=](auto how) {
    UnitScore* u = unit;
    for (int64_t i = 0, stop = width - in_unit; i < count; stop += width, ++u) {
      for (const int64_t end = std::min(count, stop); i < end; ++i) {
        if (all || is_kept(block, first + i)) add_to_unit(how(), *u, scores[i]);
      }
    }
  };
  switch (reduce) {
    case Reduce::sum:
    case Reduce::mean:
      return fold(std::integral_constant<Reduce, Reduce::sum>());
    case Reduce::max:
      return fold(std::integral_constant<Reduce, Reduce::max>());
    case Reduce::l2:
      return fold(std::integral_constant<Reduce, Reduce::l2>());
    case Reduce::product:
      return fold(std::integral_constant<Reduce, Reduce::product>());
  }
}

/// Bits of elements from those of blocks: block (r, c) is bit r · grid_cols + c − origin.
std::vector<uint64_t> element_bits(const Plan& plan, const PlanPart& part, int64_t begin, int64_t end,
                                   const uint64_t* kept_blocks, int64_t origin) {
  const int64_t lead = begin % 64, count = end - begin, grid_cols = divided_up(part.cols, plan.block_cols);
  std::vector<uint64_t> words(static_cast<size_t>((lead + count + 63) / 64), 0);
  for (int64_t row = (begin - part.begin) / part.cols; row * part.cols < end - part.begin; ++row) {
    const int64_t first_block = row / plan.block_rows * grid_cols - origin;
    int64_t bit = lead + row * part.cols - (begin - part.begin);
    for (int64_t c = 0; c < grid_cols; ++c) {
      const int64_t block = first_block + c;
      const uint64_t keep = kept_blocks[block / 64] >> (block % 64) & 1;
      for (int64_t left = std::min(plan.block_cols, part.cols - c * plan.block_cols); left > 0;
           --left, ++bit) {
        words[static_cast<size_t>(bit / 64)] |= keep << (bit % 64);
      }
    }
  }
  return words;
}

}  // namespace

struct BlockScores::Grid {
  int64_t row_begin, row_end, col_begin, col_end;  // in blocks
  int64_t cols() const { return col_end - col_begin; }
  int64_t units() const { return (row_end - row_begin) * cols(); }
};

BlockScores::BlockScores(ParameterSource& source, const Plan& plan, const PlanGroup& group)
    : source_(source), source_plan_(plan), source_group_(group), backend_(&source.backend()), plan_(plan) {
  if (backend_->device().type != Device::Type::cpu) {
    host_ = open_backend("cpu");
    backend_ = host_.get();
  }
  // A score that is itself: s · (1 · 1).
  plan_.scoring = {Criterion::fisher, 0, true};
  plan_.statistic = statistic_of(Criterion::fisher);
  plan_.pattern = Pattern::element;
  plan_.selected.assign(group.parts.size(), true);
  plan_.positions.clear();
  PlanGroup of_blocks{group.name, {}, group.units, group.cut};
  for (size_t p = 0; p < group.parts.size(); ++p) {
    const PlanPart& part = group.parts[p];
    const int64_t units = static_cast<int64_t>(part.units), cols = grid_cols(part);
    SourceTensor& info = infos_.emplace_back();
    info.name = source.tensors()[part.tensor].name;
    info.shape = {cols == 0 ? 0 : units / cols, cols};
    info.dtype = DType::f64;
    plan_.positions.push_back(part.position);
    of_blocks.parts.push_back({p, 0, units, cols, part.units, part.position, part.at_least});
  }
  plan_.groups = {std::move(of_blocks)};
}

BlockScores::~BlockScores() = default;

int64_t BlockScores::grid_cols(const PlanPart& part) const {
  return divided_up(part.cols, source_plan_.block_cols);
}

int64_t BlockScores::rows_together(const PlanPart& part) const {
  return std::max<int64_t>(1, kBlocksTogether / std::max<int64_t>(1, grid_cols(part)));
}

void BlockScores::fold_range(const PlanPart& part, const Grid& grid, int64_t begin, int64_t count,
                             std::vector<UnitScore>& units) {
  const int64_t height = source_plan_.block_rows, width = source_plan_.block_cols;
  const int64_t first_col = grid.col_begin * width;
  const int64_t cols = std::min(part.cols, grid.col_end * width) - first_col;
  // Tiles hold whole blocks, so that no two threads add to one.
  const int64_t tile = divided_up(kTile, width) * width, tiles = divided_up(cols, tile);
  const int threads = threads_of(source_.backend());
  source_.read(
      part.tensor, part.begin + begin, count, source_plan_.statistic, false,
      [&](const ParameterSource::Run& run) {
        elements_read_ += static_cast<uint64_t>(run.count);
        const HostBlock block(source_.backend(), block_of(source_plan_, source_.tensors(), part.tensor, run));
        const int64_t first = run.begin - part.begin, end = first + run.count;  // of the part
        const int64_t top = first / part.cols / height, bottom = (end - 1) / part.cols / height;
        int64_t first_nan = std::numeric_limits<int64_t>::max();
#pragma omp parallel for num_threads(threads) if (run.count > 50'000) reduction(min : first_nan)
        for (int64_t task = 0; task < (bottom - top + 1) * tiles; ++task) {
          std::vector<double> scores(static_cast<size_t>(tile));
          const int64_t block_row = top + task / tiles, from = first_col + task % tiles * tile;
          const int64_t to = std::min(from + tile, first_col + cols);
          UnitScore* const row_units =
              units.data() + (block_row - grid.row_begin) * grid.cols() - grid.col_begin;
          for (int64_t row = block_row * height; row < (block_row + 1) * height; ++row) {
            const int64_t piece = std::max(first, row * part.cols + from);
            const int64_t piece_end = std::min(end, row * part.cols + to);
            if (piece >= piece_end) continue;
            const auto put = [&](int64_t i, auto score) {
              scores[static_cast<size_t>(i)] = static_cast<double>(score);
            };
            const int64_t at = piece - first, size = piece_end - piece, col = piece - row * part.cols;
            const int64_t nan = block->dtype == DType::f64
                                    ? score_elements<double>(source_plan_.scoring, *block, at, size, put)
                                    : score_elements<float>(source_plan_.scoring, *block, at, size, put);
            if (nan >= 0) first_nan = std::min(first_nan, nan);
            add_scores(source_plan_.reduce, scores.data(), size, *block, at, width, col % width,
                       row_units + col / width);
          }
        }
        if (first_nan < run.count) {
          refuse_nan({0, 0, 1, block->position + static_cast<uint64_t>(first_nan)}, source_plan_, source_,
                     part.tensor);
        }
      });
}

void BlockScores::finish(const PlanPart& part, const Grid& grid, std::vector<UnitScore>& units) const {
  for (int64_t i = 0; i < grid.units(); ++i) {
    UnitScore& unit = units[static_cast<size_t>(i)];
    finish_unit(source_plan_.reduce, unit);
    if (!std::isnan(unit.mantissa)) continue;
    const int64_t row = part.begin / part.cols + (grid.row_begin + i / grid.cols()) * source_plan_.block_rows;
    bad_input("the score of the block at row {}, column {} of '{}' is NaN: infinite element scores cancel",
              row, (grid.col_begin + i % grid.cols()) * source_plan_.block_cols,
              source_.tensors()[part.tensor].name);
  }
}

void BlockScores::fold(const PlanPart& part, const Grid& grid, std::vector<UnitScore>& units) {
  const int64_t rows = part.count / part.cols, width = source_plan_.block_cols;
  const int64_t top = grid.row_begin * source_plan_.block_rows;
  const int64_t bottom = std::min(rows, grid.row_end * source_plan_.block_rows);
  units.assign(static_cast<size_t>(grid.units()), start_unit(source_plan_.reduce));
  if (grid.cols() == grid_cols(part)) {
    fold_range(part, grid, top * part.cols, (bottom - top) * part.cols, units);
  } else {
    const int64_t from = grid.col_begin * width, to = std::min(part.cols, grid.col_end * width);
    for (int64_t row = top; row < bottom; ++row) {
      fold_range(part, grid, row * part.cols + from, to - from, units);
    }
  }
  finish(part, grid, units);
}

ParameterSource::Run BlockScores::run_of(std::span<const UnitScore> units, int64_t begin) {
  const int64_t count = static_cast<int64_t>(units.size()), lead = begin % 64;
  ones_.resize(units.size(), 1.0);
  scores_.resize(units.size());
  kept_.assign(static_cast<size_t>((lead + count + 63) / 64), ~uint64_t{0});
  bool all = true;
  for (int64_t i = 0; i < count; ++i) {
    const UnitScore& unit = units[static_cast<size_t>(i)];
    scores_[static_cast<size_t>(i)] = std::ldexp(unit.mantissa, static_cast<int>(unit.exponent));
    if (unit.kept != 0) continue;
    all = false;
    kept_[static_cast<size_t>((lead + i) / 64)] &= ~(uint64_t{1} << ((lead + i) % 64));
  }
  Run run;
  run.weights = ones_.data();
  run.statistic = scores_.data();
  run.kept = all ? nullptr : kept_.data();
  run.begin = begin;
  run.count = count;
  return run;
}

void BlockScores::read(size_t index, int64_t begin, int64_t count, Statistic, bool,
                       const std::function<void(const Run&)>& visit) {
  const PlanPart& part = source_group_.parts[index];
  const int64_t cols = grid_cols(part), end = begin + count, together = rows_together(part) * cols;
  std::vector<UnitScore> units;
  // Runs end at multiples of their length, wherever the first one starts: a run that was seen is one again.
  for (int64_t at = begin; at < end;) {
    const int64_t stop = std::min(end, (at / together + 1) * together);
    const Grid grid{at / cols, divided_up(stop, cols), 0, cols};
    fold(part, grid, units);
    visit(run_of(std::span(units).subspan(static_cast<size_t>(at - grid.row_begin * cols),
                                          static_cast<size_t>(stop - at)),
                 at));
    at = stop;
  }
}

void BlockScores::read_lines(size_t index, int64_t begin, int64_t count, std::span<const int64_t> lines,
                             Statistic,
                             const std::function<void(const Run&, std::span<const int64_t>)>& visit) {
  const PlanPart& part = source_group_.parts[index];
  const int64_t cols = grid_cols(part);
  const int64_t start = 0;
  std::vector<UnitScore> units;
  for (int64_t line : lines) {
    const int64_t end = std::min(line + SelectionOps::kSampleLine, begin + count);
    const int64_t row = line / cols, last_row = (end - 1) / cols;
    const Grid grid = row == last_row ? Grid{row, row + 1, line - row * cols, end - row * cols}
                                      : Grid{row, last_row + 1, 0, cols};
    fold(part, grid, units);
    const int64_t first = row * cols + grid.col_begin;
    visit(run_of(std::span(units).subspan(static_cast<size_t>(line - first), static_cast<size_t>(end - line)),
                 line),
          std::span(&start, 1));
  }
}

uint64_t BlockScores::count_kept(size_t index, int64_t begin, int64_t count) {
  const PlanPart& part = source_group_.parts[index];
  if (source_.count_kept(part.tensor, part.begin, part.count) == static_cast<uint64_t>(part.count)) {
    return static_cast<uint64_t>(count);
  }
  return ParameterSource::count_kept(index, begin, count);
}

std::vector<UnitScore> BlockScores::unit_scores(size_t index) {
  const PlanPart& part = source_group_.parts[index];
  std::vector<UnitScore> all, units;
  const int64_t cols = grid_cols(part), rows = cols == 0 ? 0 : static_cast<int64_t>(part.units) / cols;
  all.reserve(part.units);
  for (int64_t row = 0; row < rows; row += rows_together(part)) {
    fold(part, {row, std::min(rows, row + rows_together(part)), 0, cols}, units);
    all.insert(all.end(), units.begin(), units.end());
  }
  return all;
}

int64_t end_of_blocks(const Plan& plan, const PlanPart& part, int64_t begin) {
  const int64_t block_row = plan.block_rows * part.cols;
  return std::min(part.begin + part.count,
                  begin + std::max<int64_t>(1, kElementsTogether / block_row) * block_row);
}

KeptBits keep_blocks(BlockScores& blocks, const Plan& plan, const PlanPart& part, size_t part_index,
                     int64_t begin, int64_t end, Place cut) {
  const int64_t cols = divided_up(part.cols, plan.block_cols);
  const int64_t first_row = (begin - part.begin) / part.cols, last_row = (end - 1 - part.begin) / part.cols;
  const int64_t first = first_row / plan.block_rows * cols;
  const int64_t count = (last_row / plan.block_rows + 1) * cols - first;
  std::vector<uint64_t> kept_blocks(static_cast<size_t>((first % 64 + count + 63) / 64), 0);
  KeptBits bits;
  blocks.read(part_index, first, count, Statistic::squared, false, [&](const ParameterSource::Run& run) {
    bits.cut_units += blocks.backend().selection().apply(
        blocks.plan().scoring, block_of(blocks.plan(), blocks.tensors(), part_index, run), cut, nullptr,
        kept_blocks.data() + run.begin / 64 - first / 64);
  });
  bits.words = element_bits(plan, part, begin, end, kept_blocks.data(), first / 64 * 64);
  return bits;
}

KeptBits keep_blocks(const Plan& plan, const PlanPart& part, int64_t begin, int64_t end,
                     const std::vector<uint64_t>& kept_blocks) {
  return {element_bits(plan, part, begin, end, kept_blocks.data(), 0), 0};
}

}  // namespace coppice
