#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/c_api/options.hpp"
#include "engine/prune/plan.hpp"
#include "engine/prune/source.hpp"

namespace coppice::c_api {

/// Options of pruning arrays.
struct ArrayOptions {
  PruneConfig config;  // its criterion one of kernels/criteria.hpp
  bool wanda = false;  // that is |w|·‖x‖
  uint64_t seed = 1;
  std::string device;
  int threads = 0;
  std::vector<std::string> keep_diagonal;
};
ArrayOptions array_options(const char* const* options, size_t count);

}  // namespace coppice::c_api
