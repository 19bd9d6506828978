#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "engine/sparse/layout_cache.hpp"
#include "kernels/backend.hpp"

namespace coppice {

/// In which layout each matrix of a model executes.
struct LayoutPolicy {
  LayoutPolicy() = default;
  LayoutPolicy(std::string name) : layout(std::move(name)) {}
  LayoutPolicy(const char* name) : layout(name) {}

  /// A layout of the device, or "auto". Of each matrix only where that takes less memory than dense: one that
  /// nothing was cut from, or too little for the indices to pay, is read faster as it is.
  std::string layout = "dense";
  /// By tensor name: a matrix's own layout, whatever it takes.
  std::map<std::string, std::string, std::less<>> tensors{};
  /// What "auto" goes by where it knows the matrix; null: nothing is known.
  const LayoutCache* measured = nullptr;
  int64_t batch = 1;  // rows of x that a step multiplies
  /// bf16: every matrix is rounded, the dense ones too (Weight::value_type). Only on request, for it changes
  /// results; a measurement of float values then chooses nothing.
  DType values = DType::f32;
};

/// "fp32" or "bf16", as a key or option named `key` gives it; throws Error(bad_input) for anything else.
DType find_value_type(std::string_view key, std::string_view name);

/// What a backend's measurements are filed under.
MeasuredOn measured_on(const Backend& backend);

/// The weight of a matrix `values` [out, in], which must outlive it where it is dense. A measurement chooses
/// among the layouts that give the dense product's bits and that the matrix admits, and only where the one
/// that "auto" usually stands for gives them too: so it changes the speed, and never a result.
/// Throws Error(bad_input) for a layout that the device lacks, or, when it was named, one that doesn't fit
/// the matrix.
std::unique_ptr<Weight> make_weight(Backend& backend, const LayoutPolicy& policy, std::string_view tensor,
                                    MatrixView<const float> values);

}  // namespace coppice
