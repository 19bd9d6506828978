#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/config/recipe.hpp"
#include "kernels/tensor.hpp"

namespace coppice::test {

/// A tensor on the host in float64; f32 tensors hold values that float32 holds exactly.
struct PrunableTensor {
  std::string name;
  std::vector<int64_t> shape;
  int64_t gates = 1;
  DType dtype = DType::f32;
  bool prunable = true;
  std::vector<double> weights, sum, absolute, squared;
  std::vector<bool> kept;  // empty: nothing is cut already

  size_t size() const {
    size_t n = 1;
    for (int64_t d : shape) n *= static_cast<size_t>(d);
    return n;
  }
};

struct ExpectedGroup {
  std::string name;
  uint64_t units = 0;
  uint64_t cut = 0;
  double threshold = 0.0;  // NaN: none cut
};

struct Expected {
  bool infeasible = false;
  std::vector<std::vector<bool>> kept;  // [tensor][element]
  std::vector<ExpectedGroup> groups;    // in the byte order of names
};

/// What DESIGN's rules say should be kept, by scoring everything, sorting everything and cutting: written
/// without a look at the product's code. Only tensors with `prunable` take part; include and exclude are not
/// looked at.
Expected expected_masks(const std::vector<PrunableTensor>& tensors, const PruneConfig& config, uint64_t seed);

}  // namespace coppice::test
