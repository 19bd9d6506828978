#include "kernels/optimizer.hpp"

#include "kernels/check.hpp"

namespace coppice {
namespace {

template <class T>
void check_mask(const char* operation, VectorView<const uint64_t> mask, const VectorView<T>& values) {
  check::optional_vector(operation, "mask", mask, (values.size + 63) / 64, values.device);
}

}  // namespace

void OptimizerOps::gradient_norm(VectorView<const float> gradients, VectorView<const uint64_t> mask,
                                 VectorView<double> norm) {
  check::vector("gradient_norm", "gradients", gradients, gradients.size, norm.device);
  check_mask("gradient_norm", mask, gradients);
  check::vector("gradient_norm", "norm", norm, 1, norm.device);
  gradient_norm_impl(gradients, mask, norm);
}

void OptimizerOps::update(const OptimizerSettings& settings, float clip, VectorView<const double> norm,
                          VectorView<float> values, VectorView<const float> gradients,
                          VectorView<const uint64_t> mask, VectorView<float> state0,
                          VectorView<float> state1) {
  check::vector("update", "values", values, values.size, values.device);
  check::vector("update", "gradients", gradients, values.size, values.device);
  check_mask("update", mask, values);
  if (clip > 0.0f || !norm.empty()) check::vector("update", "norm", norm, 1, values.device);
  const int slots = optimizer_slots(settings);
  if (slots > 0) check::vector("update", "state0", state0, values.size, values.device);
  if (slots > 1) check::vector("update", "state1", state1, values.size, values.device);
  if (settings.step < 1) bad_input("update: the step is {}, expected at least 1", settings.step);
  if (!values.empty()) update_impl(settings, clip, norm, values, gradients, mask, state0, state1);
}

void OptimizerOps::apply_mask(VectorView<float> values, VectorView<const uint64_t> mask) {
  check::vector("apply_mask", "values", values, values.size, values.device);
  check_mask("apply_mask", mask, values);
  if (!values.empty() && !mask.empty()) apply_mask_impl(values, mask);
}

void OptimizerOps::accumulate_statistics(VectorView<const float> gradients, VectorView<float> sum,
                                         VectorView<float> absolute, VectorView<float> squared) {
  check::vector("accumulate_statistics", "gradients", gradients, gradients.size, gradients.device);
  check::optional_vector("accumulate_statistics", "sum", sum, gradients.size, gradients.device);
  check::optional_vector("accumulate_statistics", "absolute", absolute, gradients.size, gradients.device);
  check::optional_vector("accumulate_statistics", "squared", squared, gradients.size, gradients.device);
  if (!gradients.empty()) accumulate_statistics_impl(gradients, sum, absolute, squared);
}

}  // namespace coppice
