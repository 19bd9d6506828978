#include "engine/config/pattern.hpp"

#include <charconv>
#include <cmath>
#include <optional>

#include "kernels/error.hpp"

namespace coppice {
namespace {

/// More than that many weights are no pattern but a scope of its own.
constexpr int64_t kMostOfGroup = 1 << 16;
constexpr int64_t kMostOfBlock = 1 << 16;

std::optional<int64_t> number(std::string_view text) {
  int64_t value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || rest != text.data() + text.size()) return std::nullopt;
  return value;
}

struct Pair {
  std::optional<int64_t> first, second;
};

Pair numbers(std::string_view text, char between) {
  const size_t at = text.find(between);
  if (at == text.npos) return {};
  return {number(text.substr(0, at)), number(text.substr(at + 1))};
}

}  // namespace

PatternText parse_pattern(const std::string& text) {
  if (text == "element") return {Pattern::element};
  if (text == "row") return {Pattern::row};
  if (text == "column") return {Pattern::column};
  if (text == "unit") return {Pattern::unit};
  if (text.starts_with("block:")) {
    const auto [rows, cols] = numbers(std::string_view(text).substr(6), 'x');
    const auto fits = [](std::optional<int64_t> side) { return side && *side >= 1 && *side <= kMostOfBlock; };
    if (!fits(rows) || !fits(cols)) {
      bad_input("prune.pattern: a block is block:RxC with sides of 1 to {}, as in block:16x1; found '{}'",
                kMostOfBlock, text);
    }
    return {Pattern::block, *rows, *cols};
  }
  if (const auto [keep, group] = numbers(text, ':'); keep && group) {
    if (*keep < 1 || *group <= *keep || *group > kMostOfGroup) {
      bad_input("prune.pattern: N:M keeps N of every M weights, 1 <= N < M <= {}; found '{}'", kMostOfGroup,
                text);
    }
    return {Pattern::n_of_m, 1, 1, *keep, *group};
  }
  bad_input("prune.pattern must be {}; found '{}'", kPatterns, text);
}

void check_implied_sparsity(const PatternText& pattern, const std::string& text, double sparsity) {
  constexpr double kRounding = 1e-6;  // of decimals
  if (pattern.kind != Pattern::n_of_m || std::fabs(sparsity - pattern.implied_sparsity()) <= kRounding)
    return;
  bad_input("prune.pattern '{}' implies a sparsity of {:.6g}, but prune.sparsity is {:.6g}; leave that out",
            text, pattern.implied_sparsity(), sparsity);
}

}  // namespace coppice
