#pragma once

#include <string>

#include "engine/bench/result.hpp"

namespace coppice::bench {

/// For the terminal: of a grid the speed-up over the best dense by batch and sparsity, family by family, and
/// from where on sparse pays; of a model one line a matrix and batch, and whether sparse pays.
std::string bench_table(const BenchResult& result);

/// The heat map alone, as an SVG that needs nothing else: one panel a family, a row a width and batch, a
/// column a sparsity. Blue where sparse pays, orange where it loses, the speed-up in every cell.
std::string heat_map_svg(const BenchResult& result);

/// One self-contained page: the heat map, the crossover, every time, and how it was measured.
std::string bench_html(const BenchResult& result);

}  // namespace coppice::bench
