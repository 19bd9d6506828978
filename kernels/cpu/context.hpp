#pragma once

#include <memory>

#include "kernels/cpu/isa.hpp"
#include "kernels/optimizer.hpp"
#include "kernels/recurrence.hpp"
#include "kernels/selection.hpp"
#include "kernels/sequence.hpp"

namespace coppice::cpu {

/// What every family of CPU operations is told once, when the backend opens. A copy is kept: it never
/// changes.
struct CpuContext {
  Isa isa = Isa::baseline;
  /// For `num_threads(threads)` of parallel regions. Results must not depend on it.
  int threads = 1;
};

// The families, each defined beside its kernels.
std::unique_ptr<RecurrenceOps> make_recurrence(const CpuContext& context);
std::unique_ptr<SequenceOps> make_sequence(const CpuContext& context);
std::unique_ptr<OptimizerOps> make_optimizer(const CpuContext& context);
std::unique_ptr<SelectionOps> make_selection(const CpuContext& context);

}  // namespace coppice::cpu
