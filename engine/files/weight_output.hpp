#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/files/safetensors.hpp"
#include "engine/files/weight_file.hpp"

namespace coppice {

/// Writes tensors into plain files that lie as those they came from, so that they take their place: of a
/// plain .safetensors file the same header; of a sharded checkpoint a folder with the same shards and the
/// same index. Everything else (npz, the sparse encoding) becomes one .safetensors file.
class WeightOutput {
 public:
  /// `path`: a file, or for a sharded `like` a folder that exists (an AtomicFolder's, say) unless `one_file`.
  WeightOutput(const WeightFile& like, const std::string& path, bool one_file,
               Existing existing = Existing::refuse);

  /// Elements of a tensor, by its number in `like`. Pieces of a tensor come in order.
  void write(size_t tensor, int64_t begin, int64_t count, const void* data);
  /// Puts the files in place.
  void finish();

 private:
  struct Place {
    size_t writer;
    size_t tensor;
  };
  void add(const WeightFile& file, const std::string& path, Existing existing);

  std::vector<std::unique_ptr<WeightWriter>> writers_;
  std::vector<Place> places_;
  std::string index_, index_path_;  // of shards
};

/// Whether a name asks for one file: with an extension of a file of weights.
bool names_weight_file(const std::string& path);

enum class Encoding { dense, sparse };

struct ConvertReport {
  int64_t bytes_before = 0;  // of the weights' files
  int64_t bytes_after = 0;
  size_t files = 0;  // written
};

/// Writes weights in the other form, every bit kept: `dense` plain, `sparse` in the sparse encoding. A
/// sharded checkpoint gives a folder of shards with the same index, in which an existing one of them may be
/// replaced; all else gives one file. Memory stays small whatever the size.
ConvertReport convert_weights(const WeightFile& from, const std::string& to, Encoding encoding,
                              Existing existing = Existing::refuse, const BeforeBlock& before_block = {});

/// The sparse encoding of each of `from`'s files under the same name in the folder `to`, and its index.
void encode_shards(const ShardedSafetensors& from, const std::string& to,
                   const BeforeBlock& before_block = {});

/// Throws Error(bad_input) when a folder of shards would replace the folder in which `from` lies: it may hold
/// more than weights, which a replacement would take with it.
void check_not_over_input(const WeightFile& from, const std::string& to);

/// Bytes on disk of a file of weights, of all shards where there are some.
int64_t file_bytes(const WeightFile& file);

}  // namespace coppice
