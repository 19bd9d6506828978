#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "engine/files/atomic_write.hpp"
#include "engine/model/network.hpp"
#include "engine/model/trained_weights.hpp"

namespace coppice {

// A model is a folder: weights.safetensors, named as in PyTorch, and model.json, which says what they are:
//   {"schema": 1, "architecture": {[model] but for `weights`}, "gates": {"order": "ifgo", ...},
//    "shape": {task, inputs, vocabulary, classes, ...}, "data": {how text is cut and batches are made},
//    "vocabulary": {"token": "word", "unknown": id, "end_of_line": id, "entries": [by id]}}

inline constexpr int kModelSchema = 1;

/// What model.json says: everything about a model but its weights.
struct ModelDescription {
  ModelConfig model;
  DataShape shape;
  DataConfig data;                       // as it was trained; file names are left out
  std::optional<Vocabulary> vocabulary;  // text
};

/// How weights.safetensors lies on disk: dense, or only the nonzeros (engine/files/sparse_encoding.hpp);
/// either opens everywhere, and the first in any framework.
enum class WeightEncoding { plain, sparse };

/// Writes the two files into a folder that exists (an AtomicFolder's, say). Returns the bytes of the weights.
int64_t write_model(const Network& network, const DataConfig& data, const Vocabulary* vocabulary,
                    const std::filesystem::path& folder, WeightEncoding encoding = WeightEncoding::plain);

/// The same as a new folder, which appears whole or not at all.
int64_t save_model(const Network& network, const DataConfig& data, const Vocabulary* vocabulary,
                   const std::filesystem::path& folder, Existing existing = Existing::refuse,
                   WeightEncoding encoding = WeightEncoding::plain);

/// A folder with a model.json in it.
bool is_model_folder(const std::filesystem::path& path);

/// Reads and checks model.json.
ModelDescription read_model(const std::filesystem::path& folder);

/// The text of a folder's model.json, but for the width of its recurrent layers.
std::string description_with_hidden(const std::filesystem::path& folder, int64_t hidden);

/// The model of a folder, its weights loaded.
std::unique_ptr<Network> load_model(Backend& backend, const std::filesystem::path& folder);

}  // namespace coppice
