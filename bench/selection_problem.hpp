#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/prune/prune.hpp"
#include "engine/prune/source.hpp"
#include "kernels/backend.hpp"

namespace coppice::bench {

/// Normal values from a table: as much entropy as selection can tell apart, and fast to fill.
inline std::vector<float> normal_values(int64_t count, float scale, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> table(1 << 16), values(static_cast<size_t>(count));
  for (float& x : table) x = normal(random);
  uint64_t s = seed * 0x9e37'79b9'7f4a'7c15ull + 1;
  for (float& x : values) {
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    x = table[s & 0xffff] * (1.0f + static_cast<float>(s >> 44) * 0x1p-22f);
  }
  return values;
}

/// Float32 weights and gradients in `tensor_count` tensors on a backend, to be cut in place, and the passes
/// that a selection can be compared with.
class SelectionProblem {
 public:
  /// `zeros`: the share of the gradients that are exactly 0.
  SelectionProblem(Backend& backend, int64_t parameters, int64_t tensor_count, double zeros = 0.0)
      : backend_(backend), size_(parameters / tensor_count / kRows * kRows) {
    for (int64_t t = 0; t < tensor_count; ++t) {
      Arrays a{Buffer(backend, size_ * 4, "weights"), Buffer(backend, size_ * 4, "weights"),
               Buffer(backend, size_ * 4, "gradients"), Buffer(backend, (size_ + 63) / 64 * 8, "mask")};
      backend.upload(normal_values(size_, 0.05f, static_cast<uint64_t>(2 * t + 1)),
                     a.original.vector<float>(size_));
      std::vector<float> gradients = normal_values(size_, 1e-3f, static_cast<uint64_t>(2 * t + 2));
      std::mt19937 random(static_cast<uint32_t>(t));
      for (size_t i = 0; zeros > 0.0 && i < gradients.size(); ++i) {
        if (static_cast<double>(random()) < zeros * 0x1p32) gradients[i] = 0.0f;
      }
      backend.upload(gradients, a.gradients.vector<float>(size_));
      MemoryTensor tensor;
      tensor.info = {"tensor" + std::to_string(t), {kRows, size_ / kRows}, DType::f32, 1, "", true};
      tensor.weights = tensor.output = a.weights.data();
      tensor.sum = tensor.absolute = tensor.squared = a.gradients.data();
      tensor.mask = static_cast<uint64_t*>(a.mask.data());
      tensors_.push_back(tensor);
      arrays_.push_back(std::move(a));
    }
    source_ = std::make_unique<MemorySource>(backend, tensors_);
  }

  int64_t parameters() const { return size_ * static_cast<int64_t>(tensors_.size()); }
  const PruneOutcome& outcome() const { return outcome_; }

  /// The weights as they were before any cut.
  void restore() {
    for (const Arrays& a : arrays_) backend_.copy(a.original.data(), a.weights.data(), size_ * 4);
  }
  /// Scores, selects exactly, masks and cuts.
  void select(const PruneConfig& config) {
    outcome_ = prune(*source_, config, 1);
    for (Criterion criterion : kCriteria) {
      if (to_string(criterion) == config.criterion) scoring_.criterion = criterion;
    }
    threshold_ = outcome_.groups.empty() ? 0 : key_of(scoring_, outcome_.groups.front().threshold);
  }
  /// One pass that scores, masks and cuts in place at the threshold that `select` found.
  void cut() {
    for_blocks([&](const ScoreBlock& block, const MemoryTensor& tensor) {
      backend_.selection().apply(scoring_, block, {threshold_, 0}, tensor.output, tensor.mask);
    });
  }
  /// One pass that counts what lies below it.
  void count() {
    std::vector<Place> none;
    for_blocks([&](const ScoreBlock& block, const MemoryTensor&) {
      backend_.selection().bracket(scoring_, block, threshold_, threshold_, 0, none);
    });
  }
  /// Calls visit(weights, gradients, count) for each tensor.
  template <class Visit>
  void for_tensors(Visit visit) const {
    for (const Arrays& a : arrays_)
      visit(static_cast<const float*>(a.weights.data()), static_cast<const float*>(a.gradients.data()),
            size_);
  }

 private:
  static constexpr int64_t kRows = 1000;
  struct Arrays {
    Buffer original, weights, gradients, mask;
  };

  template <class Visit>
  void for_blocks(Visit visit) {
    uint64_t position = 0;
    for (const MemoryTensor& tensor : tensors_) {
      ScoreBlock block;
      block.weights = tensor.weights;
      block.statistic = tensor.sum;
      block.count = size_;
      block.position = position;
      visit(block, tensor);
      position += static_cast<uint64_t>(size_);
    }
  }

  Backend& backend_;
  int64_t size_;  // of a tensor
  std::vector<Arrays> arrays_;
  std::vector<MemoryTensor> tensors_;
  std::unique_ptr<MemorySource> source_;
  PruneOutcome outcome_;
  Scoring scoring_;
  Key threshold_ = 0;
};

}  // namespace coppice::bench
