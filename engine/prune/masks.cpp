#include "engine/prune/masks.hpp"

#include <algorithm>

#include "engine/prune/select.hpp"

namespace coppice {

uint64_t write_part(ParameterSource& source, const Plan& plan, const PlanPart& part, const PartCut& cut,
                    std::vector<uint64_t>& cut_by_gate) {
  SelectionOps& ops = source.backend().selection();
  const std::span<const SourceTensor> tensors = source.tensors();
  const SourceTensor& tensor = tensors[part.tensor];
  const int64_t gate_size = tensor.size() / tensor.gates;
  uint64_t total = 0;
  for (int64_t gate = 0; gate < tensor.gates; ++gate) {
    const int64_t begin = std::max(part.begin, gate * gate_size);
    const int64_t end = std::min(part.begin + part.count, (gate + 1) * gate_size);
    if (begin >= end) continue;
    uint64_t here = 0;
    source.read(part.tensor, begin, end - begin, plan.statistic, true, [&](const ParameterSource::Run& run) {
      const ScoreBlock block = block_of(plan, tensors, part.tensor, run);
      if (plan.scope == Scope::row) {
        here += apply_rows(source.backend(), plan, block, part, run.begin - part.begin, cut.rows, run.output,
                           run.mask);
      } else if (plan.pattern == Pattern::element) {
        here += ops.apply(plan.scoring, block, cut.place, run.output, run.mask);
      } else {
        const UnitAxis axis = plan.pattern == Pattern::row ? UnitAxis::row : UnitAxis::column;
        here += ops.apply_units(block, axis, part.cols, run.begin - part.begin, cut.kept_units.data(),
                                run.output, run.mask);
      }
    });
    cut_by_gate[static_cast<size_t>(gate)] += here;
    total += here;
  }
  return total;
}

}  // namespace coppice
