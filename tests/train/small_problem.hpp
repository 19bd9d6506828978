#pragma once

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "engine/model/network.hpp"
#include "engine/train/trainer.hpp"
#include "kernels/backend.hpp"
#include "tests/test_device.hpp"

namespace coppice::test {

/// A text of random tokens in columns, state carried; or labelled sequences of unequal length.
class SmallSource : public BatchSource {
 public:
  SmallSource(Task task, int64_t batches, uint64_t seed = 7) : task_(task), batches_(batches), seed_(seed) {}

  int64_t batches() const override { return batches_; }
  int64_t targets() const override {
    return batches_ * (task_ == Task::language_model ? kSteps : 1) * kBatch;
  }
  void start_epoch(int64_t epoch) override { epoch_ = epoch; }
  void read(int64_t index, Batch& batch) override {
    if (on_read) on_read(epoch_, index);
    std::mt19937_64 random(seed_ +
                           1000 * (task_ == Task::language_model ? 0 : static_cast<uint64_t>(epoch_)) +
                           static_cast<uint64_t>(index));
    batch = {};
    batch.steps = kSteps;
    batch.batch = kBatch;
    if (task_ == Task::language_model) {
      for (int64_t i = 0; i < kSteps * kBatch; ++i) {
        batch.ids.push_back(static_cast<int32_t>(random() % kVocabulary));
        batch.targets.push_back((batch.ids.back() + 1) % kVocabulary);
      }
      batch.carries_state = index > 0;
    } else {
      std::normal_distribution<float> normal;
      for (int64_t i = 0; i < kSteps * kBatch * kInputs; ++i) batch.features.push_back(normal(random));
      for (int64_t b = 0; b < kBatch; ++b) {
        batch.lengths.push_back(static_cast<int32_t>(1 + random() % kSteps));
        batch.targets.push_back(batch.features[static_cast<size_t>(b * kInputs)] > 0.0f ? 1 : 0);
      }
    }
  }

  static constexpr int64_t kSteps = 5, kBatch = 3, kVocabulary = 11, kInputs = 4;
  std::function<void(int64_t epoch, int64_t index)> on_read;

 private:
  Task task_;
  int64_t batches_;
  uint64_t seed_;
  int64_t epoch_ = 0;
};

inline DataShape small_shape(Task task) {
  DataShape shape;
  shape.task = task;
  if (task == Task::language_model) {
    shape.vocabulary = shape.classes = SmallSource::kVocabulary;
  } else {
    shape.inputs = SmallSource::kInputs;
    shape.classes = 1;
  }
  return shape;
}

inline std::unique_ptr<Network> small_network(Backend& backend, Task task, double dropout = 0.0) {
  ModelConfig model;
  model.cell = task == Task::language_model ? "lstm" : "rnn_tanh";
  model.embedding = task == Task::language_model ? 6 : 0;
  model.hidden = 7;
  model.layers = 2;
  model.dropout = dropout;
  model.loss = task == Task::language_model ? "softmax" : "sigmoid";
  auto network = std::make_unique<Network>(backend, model, small_shape(task));
  network->initialise(3);
  return network;
}

inline std::vector<float> values_of(Network& network) {
  return network.backend().download(network.store().values());
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace coppice::test
