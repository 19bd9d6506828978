#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace coppice {

/// What is cut as one unit.
enum class Pattern : uint8_t { element, row, column, block, n_of_m, unit };

/// A pattern as recipes write it: "element", "row", "column", "block:16x1", "2:4",
/// "unit".
struct PatternText {
  Pattern kind = Pattern::element;
  int64_t rows = 1, cols = 1;   // block
  int64_t keep = 1, group = 1;  // n_of_m: `keep` of every `group` consecutive weights of a row

  /// The share that n:m cuts of full groups: nothing else says how much.
  double implied_sparsity() const { return 1.0 - static_cast<double>(keep) / static_cast<double>(group); }
};

inline constexpr std::string_view kPatterns = "element, row, column, block:RxC, N:M or unit";

/// Throws Error(bad_input) that names prune.pattern, what was expected and what was found.
PatternText parse_pattern(const std::string& text);

/// Throws Error(bad_input) where `sparsity` is not the one that an n:m pattern implies.
void check_implied_sparsity(const PatternText& pattern, const std::string& text, double sparsity);

}  // namespace coppice
