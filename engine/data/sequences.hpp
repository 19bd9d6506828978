#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/config/recipe.hpp"
#include "engine/data/data.hpp"
#include "kernels/random.hpp"

namespace coppice {

/// Sequences of feature vectors with one label each, all in memory.
struct SequenceData {
  int64_t inputs = 0;            // features a step
  std::vector<float> features;   // the sequences one after another, each [length, inputs]
  std::vector<int64_t> offsets;  // [N + 1], in steps: where each sequence starts
  std::vector<int32_t> labels;   // [N], classes from 0

  int64_t count() const { return static_cast<int64_t>(labels.size()); }
  int64_t length(int64_t sequence) const {
    return offsets[static_cast<size_t>(sequence) + 1] - offsets[static_cast<size_t>(sequence)];
  }
};

/// Batches of `batch` sequences (−1: all in one), padded with zeros to the longest of the batch; the last may
/// be smaller. With `shuffled`, epoch e takes the order shuffle(0 … N − 1, {shuffle_key, e}), so that the
/// order depends on nothing but seed and epoch.
std::unique_ptr<BatchSource> make_sequence_source(std::shared_ptr<const SequenceData> data, int64_t batch,
                                                  bool shuffled, uint64_t shuffle_key);

// Data sets of sequences, from .npz or .ts files. The classes are the labels of the training file in sorted
// order (those that a .ts header declares included); another label elsewhere is an error. Of an .npz, `train`
// means the arrays x_train, y_train, or x, y; validation and test parts come from files that [data] names,
// else from the arrays x_valid, y_valid and x_test, y_test of the training file, else are split off: drawn by
// the seed, since files often go class by class. (Where an .npz has a validation part and no test part, the
// former serves as both.)

DataSet open_sequences(const DataConfig& config, uint64_t seed, std::string_view loss);
std::unique_ptr<BatchSource> open_sequence_split(const DataConfig& config, const std::string& path,
                                                 const DataShape& shape);
DataSet open_generated(const DataConfig& config, uint64_t seed, std::string_view loss);

}  // namespace coppice
