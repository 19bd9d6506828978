#include "engine/prune/blocks.hpp"

#include <fmt/format.h>

#include <string>

#include "kernels/error.hpp"

namespace coppice {
namespace {

std::string where(const SourceTensor& tensor, uint64_t index) {
  if (tensor.cols() <= 1) return fmt::format("index {}", index);
  const uint64_t cols = static_cast<uint64_t>(tensor.cols());
  return fmt::format("index {} (row {}, column {})", index, index / cols, index % cols);
}

}  // namespace

ScoreBlock block_of(const Plan& plan, std::span<const SourceTensor> tensors, size_t tensor,
                    const ParameterSource::Run& run) {
  ScoreBlock block;
  block.dtype = tensors[tensor].dtype;
  block.statistic_dtype = run.statistic_dtype;
  block.statistic_form = run.statistic_form;
  block.weights = run.weights;
  block.statistic = run.statistic;
  block.kept = run.kept;
  block.mask_bit = static_cast<int>(run.begin % 64);
  block.count = run.count;
  block.position = plan.positions[tensor] + static_cast<uint64_t>(run.begin);
  return block;
}

void refuse_nan(const BlockCount& found, const Plan& plan, const ParameterSource& source, size_t tensor) {
  if (found.nan_count == 0) return;
  const SourceTensor& info = source.tensors()[tensor];
  bad_input("the score {} of '{}' is NaN at {}: its weight or gradient is not a number",
            source.formula_of(plan.scoring.criterion), info.name,
            where(info, found.first_nan - plan.positions[tensor]));
}

}  // namespace coppice
