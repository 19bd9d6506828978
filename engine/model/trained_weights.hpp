#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/files/weight_file.hpp"
#include "engine/model/network.hpp"

namespace coppice {

/// Somebody's weights seen as the tensors of a model: a model folder, safetensors (plain, sharded, sparse) or
/// npz, of any floating type.
///
/// Names as other people write them are understood: what ends in ".weight_ih_l0" is ours of that ending; the
/// embedding and the decoder may be called encoder, fc, head and the like, or be the only tensor left of
/// their shape. Every tensor of the model must be found and every floating tensor of the file be used:
/// otherwise Error(bad_input) names the first one that doesn't fit, and says what the file does fit.
class TrainedWeights {
 public:
  TrainedWeights(const std::filesystem::path& path, std::span<const Segment> segments,
                 const ModelConfig& config);

  /// The values of one of the segments, as float32.
  std::vector<float> read(const Segment& segment) const;

 private:
  std::unique_ptr<WeightFile> file_;
  std::map<std::string, size_t> places_;  // by the segment's name: the tensor of the file
};

/// Fills all parameters of a model.
void load_weights(Network& network, const std::filesystem::path& path);

/// The architecture behind weights: `config` with cell, layers, directions, hidden and embedding as the file
/// has them; of a model folder the loss too. What training alone needs (dropout, initialisation) stays as it
/// is, and so does a simple RNN's activation, which can't be seen in a file without model.json. Throws
/// Error(bad_input) when the file holds no recurrent layers in PyTorch's names.
ModelConfig model_of_weights(const std::filesystem::path& path, ModelConfig config);

/// The vocabulary that belongs to weights: of a model folder, or of a vocab.json beside a checkpoint ({token:
/// id} or [tokens]; characters when every token is one). Empty when there is none.
std::optional<Vocabulary> model_vocabulary(const std::filesystem::path& path);

}  // namespace coppice
