#include "engine/model/loss.hpp"

#include <algorithm>

#include "kernels/error.hpp"

namespace coppice {

double loss_scale(const Batch& batch, std::string_view reduction) {
  const auto counted =
      std::count_if(batch.targets.begin(), batch.targets.end(), [](int32_t target) { return target >= 0; });
  if (counted == 0) return 0.0;
  if (reduction == "mean") return 1.0 / static_cast<double>(counted);
  if (reduction == "sum_steps") return 1.0 / static_cast<double>(batch.batch);
  bad_input("loss_reduction: unknown reduction \"{}\"; expected mean or sum_steps", reduction);
}

}  // namespace coppice
