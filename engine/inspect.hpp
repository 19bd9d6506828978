#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/files/weight_file.hpp"
#include "engine/model/model_folder.hpp"

namespace coppice {

/// What one tensor of a file holds.
struct TensorFacts {
  struct Counted {
    uint64_t zeros = 0;
    uint64_t not_finite = 0;
  };
  FileTensor tensor;
  Counted counted;
  std::string gate_names;  // one letter a gate
  std::vector<uint64_t> gate_zeros;
};

/// Counts block by block: memory stays small whatever the file's size.
std::vector<TensorFacts> tensor_facts(const WeightFile& file);

/// "2 x lstm 200, embedding 200, vocabulary of 10000 words, loss softmax".
std::string model_text(const ModelDescription& description);

/// Bytes of a file, or of all files under a folder.
uint64_t bytes_under(const std::filesystem::path& path);

/// A file of weights or a model's folder as JSON: path, format, bytes, metadata, tensors[] (name, type,
/// shape, zeros, sparsity, not_finite, and gates: letter to sparsity), and of a model what it is.
std::string inspection_json(const std::filesystem::path& path);

}  // namespace coppice
