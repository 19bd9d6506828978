#pragma once

#include "kernels/cpu/context.hpp"
#include "kernels/cpu/isa/cells.hpp"
#include "kernels/cpu/memory.hpp"

namespace coppice::cpu {

/// One parallel region over a whole sequence: each thread owns a slice of the streams for all T steps, so no
/// barrier stands in the time loop, a thread's states stay in its own caches, and a stream's result cannot
/// depend on the number of threads. A batch of one stream can't be split: there each step's product is shared
/// among the threads.
class CpuRecurrence final : public RecurrenceOps {
 public:
  explicit CpuRecurrence(const CpuContext& context);

 private:
  void forward_impl(const RecurrenceForward& sequence) override;
  void backward_impl(const RecurrenceBackward& sequence) override;

  CpuContext context_;
  const CellKernels& kernels_;
  Scratch recurrent_product_;  // GRU: h·W_hhᵀ of one step, [B, 3·H]
  Scratch carried_;            // d_hidden and d_cell of callers who don't want them
};

}  // namespace coppice::cpu
