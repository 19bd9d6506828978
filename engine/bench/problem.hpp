#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.hpp"

namespace coppice::bench {

/// A matrix W [rows, cols] on the host.
struct HostMatrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;  // row-major

  int64_t nonzeros() const;
  double density() const;  // 0 of an empty one
};

/// Values in (-0.1, 0.1), none of them 0; the same seed gives the same ones.
HostMatrix random_matrix(int64_t rows, int64_t cols, uint64_t seed);

/// `dense` with a share of `sparsity` cut at random in a pattern: "element"; "block:16x1" (8x1, 4x1), whole
/// blocks; "64" (balanced), round(64 * (1 - sparsity)) kept of every 64 columns of a row, one at least.
HostMatrix cut_at_random(const HostMatrix& dense, std::string_view pattern, double sparsity, uint64_t seed);

/// What is timed.
///   product:  y [B, out] += x·Wᵀ, W [G·H, H], as a step of the time loop does it
///   sequence: inference of a whole layer over T steps, H inputs, W_ih and W_hh both at the sparsity
///   frame:    one step of it with its state carried
enum class Work { product, sequence, frame };
std::string_view to_string(Work work);
/// Throws Error(bad_input) for an unknown name.
Work find_work(std::string_view name);

/// A candidate: a layout of the device and the pattern of the masks that it is made for.
struct Candidate {
  std::string layout;   // as the backend knows it: "sell", "bsr"
  std::string pattern;  // as cut_at_random has it
  std::string name;     // as it is shown: "sell", "bsr 16x1", "balanced"
};

/// The families in which candidates are compared, and which a heat map shows apart: what a mask of one
/// pattern gains can't be had by a mask of another. "unstructured", "blocks", "balanced".
std::string_view family_of(std::string_view pattern);

/// The candidates of some of a device's layouts for values of a type (empty, or "all": of all but dense that
/// store it). Throws Error(bad_input) for a layout that is unknown or doesn't store it.
std::vector<Candidate> candidates_of(const Backend& backend, const std::vector<std::string>& wanted,
                                     DType values = DType::f32);

}  // namespace coppice::bench
