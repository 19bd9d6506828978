#include "engine/prune/block_scores.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "engine/prune/host_scores.hpp"
#include "kernels/error.hpp"
#include "kernels/ordered_key.hpp"

namespace coppice {
namespace {

/// Blocks that a pass holds at a time, elements that are selected together, and those of a task of a thread.
constexpr int64_t kBlocksTogether = int64_t{1} << 15;
constexpr int64_t kElementsTogether = int64_t{1} << 18;
constexpr int64_t kTile = 1024;

int64_t divided_up(int64_t length, int64_t side) {
  return (length + side - 1) / side;
}

double score_of(uint32_t key) {
  // Not value_of_key, whose choice g++ 12 makes with a branch.
  const uint32_t negative = (key >> 31) - 1;
  return __builtin_bit_cast(float, (key & 0x7fff'ffffu & ~negative) | (~key & negative));
}
double score_of(uint64_t key) {
  return value_of_key(key);
}

/// Units that a thread adds to, side by side: loops over them are loops over registers.
struct Tile {
  double mantissa[kTile];
  int64_t exponent[kTile];
  int64_t kept[kTile];
};

/// Adds scores in index order to units of `width` elements in a row, of the first of which `in_unit` lie
/// before. Keys of what is cut already are 0 and left out.
template <Reduce kReduce, class Key>
void fold(const Key* keys, int64_t count, int64_t width, int64_t in_unit, int64_t unit, Tile& tile) {
  constexpr double kNothing = kReduce == Reduce::max ? -std::numeric_limits<double>::infinity() : 0.0;
  const auto folded = [](double sum, double score) {
    if constexpr (kReduce == Reduce::max) return sum < score ? score : sum;
    if constexpr (kReduce == Reduce::l2) return sum + score * score;
    return sum + score;
  };
  if (width == 1) {
    double* const sums = tile.mantissa + unit;
    int64_t* const kept = tile.kept + unit;
    for (int64_t i = 0; i < count; ++i)
      sums[i] = folded(sums[i], keys[i] == 0 ? kNothing : score_of(keys[i]));
    for (int64_t i = 0; i < count; ++i) kept[i] += keys[i] == 0 ? 0 : 1;
    return;
  }
  for (int64_t i = 0, stop = width - in_unit; i < count; stop += width, ++unit) {
    double sum = tile.mantissa[unit];
    int64_t kept = tile.kept[unit];
    for (const int64_t end = std::min(count, stop); i < end; ++i) {
      sum = folded(sum, keys[i] == 0 ? kNothing : score_of(keys[i]));
      kept += keys[i] == 0 ? 0 : 1;
    }
    tile.mantissa[unit] = sum;
    tile.kept[unit] = kept;
  }
}

/// The same of products, whose exponent is kept apart.
template <class Key>
void fold_products(const Key* keys, int64_t count, int64_t width, int64_t in_unit, int64_t unit, Tile& tile) {
  for (int64_t i = 0; i < count; ++i) {
    if (keys[i] == 0) continue;
    const int64_t at = unit + (in_unit + i) / width;
    UnitScore product{tile.mantissa[at], tile.exponent[at], 0};
    multiply(product, score_of(keys[i]));
    tile.mantissa[at] = product.mantissa;
    tile.exponent[at] = product.exponent;
    ++tile.kept[at];
  }
}

template <class Key>
void fold(Reduce reduce, const Key* keys, int64_t count, int64_t width, int64_t in_unit, int64_t unit,
          Tile& tile) {
  switch (reduce) {
    case Reduce::sum:
    case Reduce::mean:
      return fold<Reduce::sum>(keys, count, width, in_unit, unit, tile);
    case Reduce::max:
      return fold<Reduce::max>(keys, count, width, in_unit, unit, tile);
    case Reduce::l2:
      return fold<Reduce::l2>(keys, count, width, in_unit, unit, tile);
    case Reduce::product:
      return fold_products(keys, count, width, in_unit, unit, tile);
  }
}

/// Sets `count` bits from `bit` on.
void set_bits(std::vector<uint64_t>& words, int64_t bit, int64_t count) {
  for (const int64_t end = bit + count; bit < end;) {
    const int64_t here = std::min(end - bit, 64 - bit % 64);
    words[static_cast<size_t>(bit / 64)] |= (~uint64_t{0} >> (64 - here)) << (bit % 64);
    bit += here;
  }
}

/// Sets the bits from `bit` on that are set in `from` from bit `from_bit` on.
void copy_bits(std::vector<uint64_t>& words, int64_t bit, const uint64_t* from, int64_t from_bit,
               int64_t count) {
  while (count > 0) {
    const int64_t here = std::min({count, 64 - bit % 64, 64 - from_bit % 64});
    const uint64_t bits = from[from_bit / 64] >> (from_bit % 64) & (~uint64_t{0} >> (64 - here));
    words[static_cast<size_t>(bit / 64)] |= bits << (bit % 64);
    bit += here, from_bit += here, count -= here;
  }
}

/// Bits of elements from those of blocks: block (r, c) is bit r · grid_cols + c − origin.
std::vector<uint64_t> element_bits(const Plan& plan, const PlanPart& part, int64_t begin, int64_t end,
                                   const uint64_t* kept_blocks, int64_t origin) {
  const int64_t lead = begin % 64, count = end - begin, grid_cols = divided_up(part.cols, plan.block_cols);
  std::vector<uint64_t> words(static_cast<size_t>((lead + count + 63) / 64), 0);
  for (int64_t row = (begin - part.begin) / part.cols; row * part.cols < end - part.begin; ++row) {
    const int64_t first_block = row / plan.block_rows * grid_cols - origin;
    const int64_t bit = lead + row * part.cols - (begin - part.begin);
    if (plan.block_cols == 1) {
      copy_bits(words, bit, kept_blocks, first_block, grid_cols);
      continue;
    }
    for (int64_t c = 0; c < grid_cols; ++c) {
      const int64_t block = first_block + c, col = c * plan.block_cols;
      if ((kept_blocks[block / 64] >> (block % 64) & 1) == 0) continue;
      set_bits(words, bit + col, std::min(plan.block_cols, part.cols - col));
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

template <class Key>
void BlockScores::fold_stretch(const PlanPart& part, const Grid& grid, const Key* keys, int64_t first,
                               int64_t count, std::vector<UnitScore>& units) {
  const int64_t height = source_plan_.block_rows, width = source_plan_.block_cols;
  const int64_t first_col = grid.col_begin * width, end = first + count;
  const int64_t cols = std::min(part.cols, grid.col_end * width) - first_col;
  // Tiles hold whole blocks, so that no two threads add to one.
  const int64_t length = std::max<int64_t>(1, kTile / width) * width, tiles = divided_up(cols, length);
  const int64_t top = first / part.cols / height, bottom = (end - 1) / part.cols / height;
  const int threads = threads_of(source_.backend());
#pragma omp parallel for num_threads(threads) if (count > 50'000)
  for (int64_t task = 0; task < (bottom - top + 1) * tiles; ++task) {
    const int64_t block_row = top + task / tiles, from = first_col + task % tiles * length;
    const int64_t to = std::min(from + length, first_col + cols);
    UnitScore* const tile_units =
        units.data() + (block_row - grid.row_begin) * grid.cols() + from / width - grid.col_begin;
    const int64_t tile_size = divided_up(to - from, width);
    Tile tile;
    for (int64_t u = 0; u < tile_size; ++u) {
      tile.mantissa[u] = tile_units[u].mantissa;
      tile.exponent[u] = tile_units[u].exponent;
      tile.kept[u] = tile_units[u].kept;
    }
    for (int64_t row = block_row * height; row < (block_row + 1) * height; ++row) {
      const int64_t piece = std::max(first, row * part.cols + from);
      const int64_t piece_end = std::min(end, row * part.cols + to);
      if (piece >= piece_end) continue;
      const int64_t col = piece - row * part.cols;
      coppice::fold(source_plan_.reduce, keys + (piece - first), piece_end - piece, width, col % width,
                    (col - from) / width, tile);
    }
    for (int64_t u = 0; u < tile_size; ++u)
      tile_units[u] = {tile.mantissa[u], tile.exponent[u], tile.kept[u]};
  }
}

void BlockScores::fold_range(const PlanPart& part, const Grid& grid, int64_t begin, int64_t count,
                             std::vector<UnitScore>& units) {
  const bool wide = source_.tensors()[part.tensor].dtype == DType::f64;
  source_.read(part.tensor, part.begin + begin, count, source_plan_.statistic, false,
               [&](const ParameterSource::Run& run) {
                 elements_read_ += static_cast<uint64_t>(run.count);
                 const ScoreBlock block = block_of(source_plan_, source_.tensors(), part.tensor, run);
                 for (int64_t at = 0; at < run.count; at += kElementsTogether) {
                   const int64_t here = std::min(kElementsTogether, run.count - at);
                   keys_.read(source_plan_, source_, part.tensor, part_of(block, at, here));
                   const int64_t first = run.begin + at - part.begin;
                   if (wide) {
                     fold_stretch(part, grid, keys_.as<uint64_t>(), first, here, units);
                   } else {
                     fold_stretch(part, grid, keys_.as<uint32_t>(), first, here, units);
                   }
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
  run.statistic_dtype = DType::f64;
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
