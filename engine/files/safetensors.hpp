#pragma once

#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engine/files/input_file.hpp"
#include "engine/files/weight_file.hpp"

namespace coppice {

// The safetensors format: 8 bytes of header length (little-endian), a JSON header
//   {"__metadata__": {string: string}, NAME: {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]},
//   ..}
// padded with spaces, and the tensors' bytes, which the offsets tile from 0 to the end without hole or
// overlap. https://huggingface.co/docs/safetensors

/// Headers beyond this are refused, as the reference implementation does.
inline constexpr int64_t kMaxSafetensorsHeader = 100'000'000;

/// "F32", "BF16", … as the format spells types.
const char* safetensors_name(DType type);

/// The type and shape of a tensor as JSON has them, checked: a known type, whole numbers, a product below 2⁶³
/// bytes.
FileTensor parse_safetensors_type(const std::string& name, const nlohmann::json& dtype,
                                  const nlohmann::json& shape, const std::string& what);

class SafetensorsFile final : public WeightFile {
 public:
  /// Reads and checks the header; tensor bytes are read when asked for.
  explicit SafetensorsFile(const std::string& path);
  std::string_view format() const override { return "safetensors"; }

  /// The bytes of the header, its length and padding included, and where each tensor starts in the file: what
  /// a file of the same layout takes over.
  std::string header_bytes() const;
  const std::vector<int64_t>& offsets() const { return offsets_; }

 protected:
  void read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const override;

 private:
  InputFile file_;
  std::vector<int64_t> offsets_;  // of each tensor, from the start of the file
  int64_t data_ = 0;              // where the tensors start
};

/// A checkpoint in several files: {"weight_map": {tensor: file name}} beside the shards. Every tensor must be
/// in the shard that the map names, and the shards must hold nothing else. Shards may be in our sparse
/// encoding; the map then names the tensors that they stand for.
class ShardedSafetensors final : public WeightFile {
 public:
  explicit ShardedSafetensors(const std::string& index_path);
  std::string_view format() const override { return "safetensors shards"; }
  int64_t stored_bytes(size_t tensor) const override;

  size_t shards() const { return shards_.size(); }
  const WeightFile& shard(size_t index) const { return *shards_[index]; }
  /// Its file's name in the index's folder.
  const std::string& shard_name(size_t index) const { return names_[index]; }
  /// Which shard holds a tensor, and its number there.
  std::pair<size_t, size_t> place(size_t tensor) const { return places_[tensor]; }

 protected:
  void read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const override;

 private:
  std::vector<std::unique_ptr<WeightFile>> shards_;
  std::vector<std::string> names_;
  std::vector<std::pair<size_t, size_t>> places_;  // shard, tensor in it
};

/// Writes a safetensors file. Tensors lie by descending element size, then by name, so that each is aligned
/// to its elements; the header is padded so that the data start on a multiple of 8.
class SafetensorsWriter final : public WeightWriter {
 public:
  SafetensorsWriter(const std::string& path, std::vector<FileTensor> tensors,
                    std::map<std::string, std::string> metadata = {}, Existing existing = Existing::refuse);
  /// A file laid out exactly as another one: the same header, every tensor in its place.
  SafetensorsWriter(const std::string& path, const SafetensorsFile& like,
                    Existing existing = Existing::refuse);

 protected:
  void write_elements(size_t tensor, int64_t begin, int64_t count, const void* data) override;
  void finish_file() override;

 private:
  AtomicFile file_;
  std::vector<int64_t> offsets_;
};

}  // namespace coppice
