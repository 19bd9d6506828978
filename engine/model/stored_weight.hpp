#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "engine/model/parameter_store.hpp"

namespace coppice {

/// A matrix of the store in the form in which it executes: dense, or a sparse layout for inference where that
/// takes less memory: a matrix that nothing was cut from, or too little for the indices to pay, is read
/// faster as it is. Renewed before use when the store's values have changed since.
class StoredWeight {
 public:
  void bind(ParameterStore& store, std::string_view name) {
    store_ = &store;
    segment_ = &store.segment(name);
    use_layout("dense");
  }

  void use_layout(std::string_view layout) {
    layout_ = layout;
    const MatrixView<float> values = store_->matrix(*segment_);
    weight_ = store_->backend().make_weight(layout, values);
    const int64_t dense_bytes = values.rows * values.cols * static_cast<int64_t>(sizeof(float));
    if (weight_->bytes() > dense_bytes) weight_ = store_->backend().dense_weight(values);
    version_ = store_->version();
  }

  Weight& current() {
    if (version_ != store_->version()) {
      // A sparse layout is made anew: where its nonzeros lie may have changed as well.
      if (layout_ == "dense") {
        weight_->refresh(store_->matrix(*segment_));
        version_ = store_->version();
      } else {
        use_layout(std::string(layout_));
      }
    }
    return *weight_;
  }

  const Segment& segment() const { return *segment_; }
  MatrixView<float> gradient() const { return store_->gradient_matrix(*segment_); }
  int64_t bytes() const { return weight_->bytes(); }

 private:
  ParameterStore* store_ = nullptr;
  const Segment* segment_ = nullptr;
  std::string layout_;  // as asked for
  std::unique_ptr<Weight> weight_;
  uint64_t version_ = 0;
};

}  // namespace coppice
