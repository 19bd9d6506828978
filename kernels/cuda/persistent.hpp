#pragma once

#include "kernels/cuda/context.hpp"
#include "kernels/recurrence.hpp"

namespace coppice::cuda {

struct ForwardStep;

/// By how many elements the rows of a step lie behind those of the step before it; negative in reverse.
struct StepDistance {
  int64_t step, gates, hidden, cell, candidate, output;
};

/// Queues a whole sequence as one kernel, if it is one for which that pays, and says whether: a dense weight
/// [G·H, H] that fits into the shared memory of all multiprocessors together, a batch of a few streams, and
/// more than a few steps. Every block keeps the weight's rows of its own units from the first step to the
/// last; a step costs the reading of the other blocks' states and one barrier of the grid, where a product
/// and a kernel for the cells cost two launches and the reading of the whole weight.
bool run_persistently(const CudaContext& context, Cell cell, MatrixView<const float> weight,
                      const ForwardStep& first, const StepDistance& distance, int64_t steps, float* product);

}  // namespace coppice::cuda
