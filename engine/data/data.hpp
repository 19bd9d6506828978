#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "engine/config/recipe.hpp"
#include "engine/data/batch.hpp"

namespace coppice {

/// A data set, opened: its shape, from which the model is sized, and its three parts. `train`, `valid` and
/// `test` are never null.
struct DataSet {
  DataShape shape;
  std::optional<Vocabulary> vocabulary;  // text
  std::unique_ptr<BatchSource> train;
  std::unique_ptr<BatchSource> valid;
  std::unique_ptr<BatchSource> test;
  bool test_is_valid = false;  // there is no test part: `test` reads the validation part once more
};

/// Opens what [data] describes. Everything of a data set is in memory afterwards; the same configuration,
/// files and seed give the same batches. Bad data are Error(bad_input) naming the file and the byte, line or
/// array.
///
/// - `fixed`: the vocabulary of a model that exists already, used instead of one made from the training text.
/// A token
///   that it does not have becomes its <unk>; when it has none, that is an error naming token and line.
/// - `loss`: "sigmoid" asks for two classes, and DataShape::classes is 1; else it is the number of classes.
DataSet open_data(const DataConfig& config, uint64_t seed, const Vocabulary* fixed = nullptr,
                  std::string_view loss = "softmax");

/// One file as a model of `shape` reads it, in order and never shuffled: for evaluation. Text needs the
/// model's vocabulary; sequences (.npz, .ts) must have the model's number of inputs and no label that it does
/// not know. Of [data], the batching (batch_size, steps, carry_state) and the word rules count.
std::unique_ptr<BatchSource> open_split(const DataConfig& config, const std::string& path,
                                        const DataShape& shape, const Vocabulary* vocabulary);

}  // namespace coppice
