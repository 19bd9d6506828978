#include "engine/prune/masks.hpp"

#include <algorithm>

#include "engine/prune/host_scores.hpp"
#include "engine/prune/n_of_m.hpp"
#include "engine/prune/select.hpp"

namespace coppice {
namespace {

int64_t end_of_stretch(const Plan& plan, const PlanPart& part, int64_t begin) {
  return plan.pattern == Pattern::n_of_m ? end_of_groups(plan, part, begin)
                                         : end_of_blocks(plan, part, begin);
}

/// The bits of the elements [begin, end) of the tensor, whole groups, a stretch that fits a cache at a time.
KeptBits select_between(ParameterSource& source, const Plan& plan, const PlanPart& part, const PartCut& cut,
                        int64_t begin, int64_t end) {
  KeptBits bits;
  bits.words.assign(static_cast<size_t>((begin % 64 + end - begin + 63) / 64), 0);
  for (int64_t at = begin; at < end;) {
    const int64_t stop = end_of_stretch(plan, part, at);
    const KeptBits here =
        plan.pattern == Pattern::n_of_m ? select_groups(source, plan, part, at, stop, nullptr)
        : cut.blocks != nullptr         ? keep_blocks(*cut.blocks, plan, part, cut.part, at, stop, cut.place)
                                        : keep_blocks(plan, part, at, stop, cut.kept_units);
    for (size_t i = 0; i < here.words.size(); ++i) {
      bits.words[static_cast<size_t>(at / 64 - begin / 64) + i] |= here.words[i];
    }
    bits.cut_units += here.cut_units;
    at = stop;
  }
  return bits;
}

/// Patterns whose groups lie close together: a stretch is selected and, while it lies in the cache, written.
PartWritten write_stretches(ParameterSource& source, const Plan& plan, const PlanPart& part,
                            const PartCut& cut, std::vector<uint64_t>& cut_by_gate) {
  PartWritten written;
  const int64_t part_end = part.begin + part.count;
  for (int64_t begin = part.begin; begin < part_end;) {
    // A stream that would have to start over is read to its end first.
    const int64_t end = source.random_access() ? end_of_stretch(plan, part, begin) : part_end;
    const KeptBits kept = select_between(source, plan, part, cut, begin, end);
    written.units += kept.cut_units;
    for_gates(source.tensors()[part.tensor], begin, end, [&](size_t gate, int64_t from, int64_t to) {
      uint64_t here = 0;
      source.read(part.tensor, from, to - from, Statistic::none, true, [&](const ParameterSource::Run& run) {
        here += apply_bits(source.backend(), block_of(plan, source.tensors(), part.tensor, run),
                           kept.words.data() + run.begin / 64 - begin / 64, run.output, run.mask);
      });
      cut_by_gate[gate] += here;
      written.elements += here;
    });
    begin = end;
  }
  return written;
}

}  // namespace

PartWritten write_part(ParameterSource& source, const Plan& plan, const PlanPart& part, const PartCut& cut,
                       std::vector<uint64_t>& cut_by_gate) {
  if (plan.pattern == Pattern::block || plan.pattern == Pattern::n_of_m) {
    return write_stretches(source, plan, part, cut, cut_by_gate);
  }
  SelectionOps& ops = source.backend().selection();
  const std::span<const SourceTensor> tensors = source.tensors();
  const auto cut_run = [&](const ParameterSource::Run& run) {
    ScoreBlock block = block_of(plan, tensors, part.tensor, run);
    const int64_t first = run.begin - part.begin;
    if (cut.marks != nullptr) {
      block.kept = nullptr;  // what is cut already has no mark
      return apply_bits(source.backend(), block, cut.marks + (run.begin / 64 - part.begin / 64), run.output,
                        run.mask);
    }
    if (plan.scope == Scope::row) {
      return apply_rows(source.backend(), plan, block, part, first, cut.rows, run.output, run.mask);
    }
    if (plan.pattern == Pattern::element) {
      return ops.apply(plan.scoring, block, cut.place, run.output, run.mask);
    }
    const UnitAxis axis = plan.pattern == Pattern::row ? UnitAxis::row : UnitAxis::column;
    return ops.apply_units(block, axis, part.cols, first, cut.kept_units.data(), run.output, run.mask);
  };
  PartWritten written;
  const Statistic statistic = cut.marks != nullptr ? Statistic::none : plan.statistic;
  const int64_t part_end = part.begin + part.count;
  for_gates(tensors[part.tensor], part.begin, part_end, [&](size_t gate, int64_t begin, int64_t end) {
    uint64_t here = 0;
    source.read(part.tensor, begin, end - begin, statistic, true,
                [&](const ParameterSource::Run& run) { here += cut_run(run); });
    cut_by_gate[gate] += here;
    written.elements += here;
  });
  written.units = written.elements;
  return written;
}

}  // namespace coppice
