#include "engine/sparse/layout_policy.hpp"

#include "kernels/error.hpp"

namespace coppice {
namespace {

/// What a measurement chose, or null where it has no better word than the usual layout.
std::unique_ptr<Weight> measured_weight(Backend& backend, const LayoutPolicy& policy, const Weight& usual,
                                        MatrixView<const float> values) {
  if (policy.measured == nullptr || policy.values != DType::f32 || !backend.gives_dense_bits(usual.layout()))
    return nullptr;
  for (const std::string& layout : policy.measured->ranking(measured_on(backend), usual.out(), usual.in(),
                                                            usual.nonzeros(), policy.batch, usual.layout())) {
    if (layout == usual.layout()) return nullptr;
    if (!backend.gives_dense_bits(layout)) continue;
    try {
      return backend.make_weight(layout, values);
    } catch (const Error& error) {
      // The matrix that was measured was of a pattern that this one isn't of.
      if (error.kind() != ErrorKind::bad_input) throw;
    }
  }
  return nullptr;
}

}  // namespace

DType find_value_type(std::string_view key, std::string_view name) {
  if (name == "fp32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  bad_input("{} is \"{}\"; expected fp32 or bf16", key, name);
}

MeasuredOn measured_on(const Backend& backend) {
  const DeviceInfo info = backend.info();
  return {info.name, info.detail, info.threads, COPPICE_VERSION};
}

std::unique_ptr<Weight> make_weight(Backend& backend, const LayoutPolicy& policy, std::string_view tensor,
                                    MatrixView<const float> values) {
  if (const auto own = policy.tensors.find(tensor); own != policy.tensors.end()) {
    return backend.make_weight(backend.layout_of(own->second), values, policy.values);
  }
  std::unique_ptr<Weight> weight =
      backend.make_weight(backend.layout_of(policy.layout), values, policy.values);
  if (policy.layout == "auto") {
    if (std::unique_ptr<Weight> better = measured_weight(backend, policy, *weight, values)) return better;
  }
  const int64_t dense_bytes = values.rows * values.cols * size_of(policy.values);
  return weight->bytes() > dense_bytes ? backend.make_weight("dense", values, policy.values)
                                       : std::move(weight);
}

}  // namespace coppice
