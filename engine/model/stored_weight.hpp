#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/model/parameter_store.hpp"
#include "engine/sparse/layout_policy.hpp"

namespace coppice {

/// A matrix of the store in the form in which it executes: dense, for inference as a policy has it, or in a
/// sparse layout by its mask while that holds. Renewed before use when the store's values have changed since.
class StoredWeight {
 public:
  void bind(ParameterStore& store, std::string_view name) {
    store_ = &store;
    segment_ = &store.segment(name);
    use_layout("dense");
  }

  void use_layout(LayoutPolicy policy) {
    policy_ = std::move(policy);
    fixed_ = policy_.layout == "dense" && policy_.tensors.empty();
    weight_ = make_weight(store_->backend(), policy_, segment_->name, store_->matrix(*segment_));
    version_ = store_->version();
  }

  /// For training with a mask that holds: the kept weights in `layout`, in which the gradient has values at
  /// their places alone, if at least a share `from` of the matrix, and something, is cut; else dense. Called
  /// again when the mask has changed. True when sparse.
  bool use_mask(std::string_view layout, double from) {
    const int64_t size = segment_->size();
    const std::vector<uint64_t> words = store_->download_mask(*segment_);
    // A kept weight may be zero, so the places are the mask's and not those of the values.
    std::vector<float> pattern(static_cast<size_t>(size));
    for (size_t i = 0; i < pattern.size(); ++i)
      pattern[i] = (words[i / 64] >> (i % 64) & 1) != 0 ? 1.0f : 0.0f;
    const int64_t cut = std::count(pattern.begin(), pattern.end(), 0.0f);
    if (cut == 0 || static_cast<double>(cut) < from * static_cast<double>(size)) {
      use_layout("dense");
      return false;
    }
    Backend& backend = store_->backend();
    const MatrixView<float> values = store_->matrix(*segment_);
    const Buffer places(backend, size * static_cast<int64_t>(sizeof(float)), "the places of a mask");
    backend.upload(pattern, places.vector<float>(size));
    weight_ = backend.make_weight(layout, places.matrix<float>(values.rows, values.cols));
    weight_->refresh(values);
    fixed_ = true;
    version_ = store_->version();
    return true;
  }

  Weight& current() {
    if (version_ != store_->version()) {
      // A sparse layout made from values is made anew: where its nonzeros lie may have changed as well.
      if (fixed_) {
        weight_->refresh(store_->matrix(*segment_));
        version_ = store_->version();
      } else {
        use_layout(policy_);
      }
    }
    return *weight_;
  }

  const Segment& segment() const { return *segment_; }
  MatrixView<float> gradient() const { return store_->gradient_matrix(*segment_); }
  int64_t bytes() const { return weight_->bytes(); }
  /// Adds the layout in which it executes, by its name.
  void add_layout(std::map<std::string, std::string>& layouts) const {
    layouts[segment_->name] = weight_->layout();
  }

 private:
  ParameterStore* store_ = nullptr;
  const Segment* segment_ = nullptr;
  LayoutPolicy policy_;
  bool fixed_ = true;  // where its values lie does not depend on them
  std::unique_ptr<Weight> weight_;
  uint64_t version_ = 0;
};

}  // namespace coppice
