#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "engine/files/weight_file.hpp"

namespace coppice::bench {

/// A checkpoint of random weights with the tensor names and shapes of a published model.
struct CheckpointOptions {
  std::string family;  // one of kFamilies
  double width = 1.0;  // scales the model's width, and all that goes with it
  int64_t layers = 0;  // 0: as many as the model has
  DType dtype = DType::bf16;
  int64_t shards = 1;  // files; more than one come with an index
  uint64_t seed = 1;
};

inline constexpr std::string_view kFamilies[] = {"xlstm-7b", "rwkv7-1.5b", "mamba2-2.7b", "recurrentgemma-2b",
                                                 "llama-8b", "lstm",       "gru"};

struct CheckpointTensor {
  FileTensor tensor;
  bool projection = false;  // a matrix that multiplies activations, neither embedding nor head
};

/// In the order of the model. Throws Error(bad_input) that lists the families for an unknown one.
std::vector<CheckpointTensor> checkpoint_tensors(const CheckpointOptions& options);

/// Writes model.safetensors, or model-00001-of-0000N.safetensors … and model.safetensors.index.json, into a
/// folder, which is made. Returns the file to open. Weights are normal with deviation 0.02, from one block
/// that every tensor starts at a place of its own: fast to write, and no two tensors are alike.
std::filesystem::path write_checkpoint(const CheckpointOptions& options, const std::filesystem::path& folder);

}  // namespace coppice::bench
