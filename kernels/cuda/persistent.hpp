#pragma once

#include "kernels/cuda/context.hpp"
#include "kernels/cuda/layouts/csr.hpp"
#include "kernels/recurrence.hpp"

namespace coppice::cuda {

struct ForwardStep;
struct ForwardDistance;
struct BackwardStep;
struct BackwardDistance;

/// Queues a whole sequence as one kernel, if it is one for which that pays, and says whether: a dense weight
/// [G·H, H] that fits into the shared memory of all multiprocessors together, a batch of a few streams, and
/// more than a few steps. Every block keeps the weight's rows of its own units from the first step to the
/// last; a step costs the reading of the other blocks' states and one barrier of the grid, where a product
/// and a kernel for the cells cost two launches and the reading of the whole weight.
bool run_persistently(const CudaContext& context, Cell cell, MatrixView<const float> weight,
                      const ForwardStep& first, const ForwardDistance& distance, int64_t steps);

/// The same with the nonzeros of a sparse weight, which fit where a dense one does not, for up to 32 streams.
/// Results are the same bits for any number of multiprocessors, and for a stream whatever others run beside
/// it.
bool run_persistently(const CudaContext& context, Cell cell, CsrWeight& weight, const ForwardStep& first,
                      const ForwardDistance& distance, int64_t steps);

/// The backward pass, from the last step on, with the nonzeros of Wᵀ. `last.d_hidden` and, for LSTM,
/// `last.d_cell` are there; what reaches the state before the first step is made when `first_state_wanted`.
bool run_persistently(const CudaContext& context, Cell cell, CsrWeight& weight, const BackwardStep& last,
                      const BackwardDistance& distance, int64_t steps, bool first_state_wanted);

}  // namespace coppice::cuda
