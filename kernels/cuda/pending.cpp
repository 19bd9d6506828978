#include "kernels/cuda/context.hpp"

// Families that are not there yet: a definition of their own takes the place of the weak one.
namespace coppice::cuda {

[[gnu::weak]] std::unique_ptr<RecurrenceOps> make_recurrence(CudaContext&) {
  return nullptr;
}
[[gnu::weak]] std::unique_ptr<SequenceOps> make_sequence(CudaContext&) {
  return nullptr;
}
[[gnu::weak]] std::unique_ptr<OptimizerOps> make_optimizer(CudaContext&) {
  return nullptr;
}
[[gnu::weak]] std::unique_ptr<SelectionOps> make_selection(CudaContext&) {
  return nullptr;
}

}  // namespace coppice::cuda
