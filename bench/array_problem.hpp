#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "bench/selection_problem.hpp"
#include "engine/files/array_file.hpp"
#include "engine/prune/prune_file.hpp"
#include "kernels/backend.hpp"

namespace coppice::bench {

/// Half-precision weights and gradients in the host's memory, cut in place as a caller's arrays are: by the
/// path of files, for which they are one that lies in memory.
class ArrayProblem {
 public:
  /// `dtype`: bf16 or f16; the upper bits of float32 values, which are some half of either.
  ArrayProblem(Backend& backend, int64_t parameters, int64_t tensor_count, DType dtype)
      : backend_(backend), dtype_(dtype), size_(parameters / tensor_count / kRows * kRows) {
    std::vector<NamedArray> weights, gradients;
    for (int64_t t = 0; t < tensor_count; ++t) {
      const std::string name = "layer" + std::to_string(t) + ".proj.weight";
      const FileTensor tensor{name, dtype, {kRows, size_ / kRows}};
      original_.push_back(halves(static_cast<uint64_t>(2 * t + 1)));
      weights_.push_back(original_.back());
      gradients_.push_back(halves(static_cast<uint64_t>(2 * t + 2)));
      weights.push_back({tensor, weights_.back().data()});
      gradients.push_back({tensor, gradients_.back().data()});
    }
    weight_file_ = std::make_unique<ArrayFile>("weights", std::move(weights));
    gradient_file_ = std::make_unique<ArrayFile>("gradients", std::move(gradients));
  }

  int64_t parameters() const { return size_ * static_cast<int64_t>(weights_.size()); }
  const PruneOutcome& outcome() const { return report_.outcome; }
  void restore() {
    for (size_t t = 0; t < weights_.size(); ++t) {
      std::copy(original_[t].begin(), original_[t].end(), weights_[t].begin());
    }
  }
  void select(const PruneConfig& config) {
    struct InPlace final : CutOutput {
      bool in_place() const override { return true; }
      void write(size_t, int64_t, int64_t, const void*) override {}
      void write_mask(size_t, int64_t, int64_t, const void*) override {}
    } in_place;
    ScoreFiles scores;
    scores.gradients.push_back(gradient_file_.get());
    report_ = prune_weights(*weight_file_, scores, {}, config, 1, backend_,
                            [&](const std::set<size_t>&) { return &in_place; });
  }
  /// One pass that scores, masks and cuts in place at the threshold that `select` found.
  void cut(const PruneConfig& config) {
    Scoring scoring;
    for (Criterion criterion : kCriteria) {
      if (to_string(criterion) == config.criterion) scoring.criterion = criterion;
    }
    const Key threshold = key_of(scoring, report_.outcome.groups.front().threshold);
    mask_.resize(static_cast<size_t>(size_ / 64 + 1));
    for (size_t t = 0; t < weights_.size(); ++t) {
      ScoreBlock block;
      block.dtype = block.statistic_dtype = dtype_;
      block.weights = weights_[t].data();
      block.statistic = gradients_[t].data();
      block.count = size_;
      block.position = t * static_cast<uint64_t>(size_);
      backend_.selection().apply(scoring, block, {threshold, 0}, weights_[t].data(), mask_.data());
    }
  }
  /// Calls visit(data, bytes) for each array that a selection reads.
  template <class Visit>
  void for_arrays(bool with_gradients, Visit visit) const {
    for (const auto& array : weights_) visit(array.data(), size_ * 2);
    for (const auto& array : gradients_) {
      if (with_gradients) visit(array.data(), size_ * 2);
    }
  }

 private:
  static constexpr int64_t kRows = 1000;
  std::vector<uint16_t> halves(uint64_t seed) const {
    const std::vector<float> values = normal_values(size_, 0.05f, seed);
    std::vector<uint16_t> bits(values.size());
    for (size_t i = 0; i < bits.size(); ++i) {
      bits[i] = static_cast<uint16_t>(__builtin_bit_cast(uint32_t, values[i]) >> 16);
    }
    return bits;
  }

  Backend& backend_;
  DType dtype_;
  int64_t size_;  // of a tensor
  std::vector<std::vector<uint16_t>> original_, weights_, gradients_;
  std::unique_ptr<ArrayFile> weight_file_, gradient_file_;
  std::vector<uint64_t> mask_;
  PruneReport report_;
};

}  // namespace coppice::bench
