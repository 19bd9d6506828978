#include "engine/bench/problem.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kernels/error.hpp"

namespace coppice::bench {
namespace {

constexpr int64_t kRun = 64;  // columns in which a balanced row keeps as many values as in every other

void cut_blocks(HostMatrix& matrix, int64_t height, double sparsity, std::mt19937_64& random) {
  const auto below = static_cast<uint64_t>(std::ldexp(std::clamp(sparsity, 0.0, 1.0), 32));
  for (int64_t r = 0; r < matrix.rows; r += height) {
    for (int64_t c = 0; c < matrix.cols; ++c) {
      if ((random() >> 32) >= below) continue;
      for (int64_t i = r; i < std::min(matrix.rows, r + height); ++i) {
        matrix.values[static_cast<size_t>(i * matrix.cols + c)] = 0.0f;
      }
    }
  }
}

void cut_balanced(HostMatrix& matrix, double sparsity, std::mt19937_64& random) {
  const int64_t kept = std::max<int64_t>(1, std::llround(static_cast<double>(kRun) * (1 - sparsity)));
  std::vector<int64_t> order(kRun);
  for (int64_t r = 0; r < matrix.rows; ++r) {
    for (int64_t c = 0; c < matrix.cols; c += kRun) {
      const int64_t width = std::min(kRun, matrix.cols - c);
      // The first `width - kept` of a random order go.
      std::iota(order.begin(), order.begin() + width, int64_t{0});
      for (int64_t i = 0; i < width - kept; ++i) {
        const auto other = static_cast<int64_t>(random() % static_cast<uint64_t>(width - i));
        std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(i + other)]);
        matrix.values[static_cast<size_t>(r * matrix.cols + c + order[static_cast<size_t>(i)])] = 0.0f;
      }
    }
  }
}

}  // namespace

int64_t HostMatrix::nonzeros() const {
  return static_cast<int64_t>(values.size()) - std::count(values.begin(), values.end(), 0.0f);
}

double HostMatrix::density() const {
  return values.empty() ? 0.0 : static_cast<double>(nonzeros()) / static_cast<double>(values.size());
}

HostMatrix random_matrix(int64_t rows, int64_t cols, uint64_t seed) {
  HostMatrix matrix{rows, cols, std::vector<float>(static_cast<size_t>(rows * cols))};
  std::mt19937_64 random(seed);
  for (float& value : matrix.values) {
    // 24 bits with the last one set: never 0.
    value = (static_cast<float>((random() >> 40) | 1u) * 0x1p-23f - 1.0f) * 0.1f;
  }
  return matrix;
}

HostMatrix cut_at_random(const HostMatrix& dense, std::string_view pattern, double sparsity, uint64_t seed) {
  HostMatrix matrix = dense;
  std::mt19937_64 random(seed);
  if (pattern == "64") {
    cut_balanced(matrix, sparsity, random);
  } else if (pattern.starts_with("block:")) {
    cut_blocks(matrix, std::stoll(std::string(pattern.substr(6))), sparsity, random);
  } else {
    cut_blocks(matrix, 1, sparsity, random);
  }
  return matrix;
}

std::string_view to_string(Work work) {
  return work == Work::product ? "product" : work == Work::sequence ? "sequence" : "frame";
}

Work find_work(std::string_view name) {
  for (const Work work : {Work::product, Work::sequence, Work::frame}) {
    if (to_string(work) == name) return work;
  }
  bad_input("work \"{}\" is unknown; expected product, sequence or frame", name);
}

std::string_view family_of(std::string_view pattern) {
  if (pattern == "64") return "balanced";
  return pattern.starts_with("block:") ? "blocks" : "unstructured";
}

std::vector<Candidate> candidates_of(const Backend& backend, const std::vector<std::string>& wanted,
                                     DType values) {
  const std::vector<std::string_view> known = backend.layouts();
  const auto is_wanted = [&](std::string_view layout) {
    return std::find(wanted.begin(), wanted.end(), layout) != wanted.end();
  };
  for (const std::string& layout : wanted) {
    if (layout == "all") continue;
    if (std::find(known.begin(), known.end(), layout) == known.end()) {
      bad_input("no weight layout \"{}\" on this device; known: all, {}", layout, fmt::join(known, ", "));
    }
    if (!backend.stores(layout, values)) {
      bad_input("layout {} stores no {} values on this device", layout, to_string(values));
    }
  }
  const bool all = wanted.empty() || is_wanted("all");
  std::vector<Candidate> candidates;
  for (const std::string_view layout : known) {
    if (layout == "dense" || !backend.stores(layout, values) || (!all && !is_wanted(layout))) continue;
    const std::string name(layout);
    const std::string suffix = values == DType::f32 ? "" : fmt::format(" {}", to_string(values));
    if (name == "bsr") {
      for (const int height : {16, 8, 4}) {
        candidates.push_back(
            {name, fmt::format("block:{}x1", height), fmt::format("bsr {}x1{}", height, suffix)});
      }
    } else {
      candidates.push_back({name, name == "balanced" ? "64" : "element", name + suffix});
    }
  }
  if (all && candidates.empty())
    bad_input("no sparse layout on this device stores {} values", to_string(values));
  return candidates;
}

}  // namespace coppice::bench
