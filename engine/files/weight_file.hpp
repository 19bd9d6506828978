#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/files/atomic_write.hpp"
#include "kernels/tensor.hpp"

namespace coppice {

/// One tensor of a file: row-major, little-endian. A scalar has an empty shape; sizes of 0 are legal.
struct FileTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;

  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  int64_t bytes() const { return size() * size_of(dtype); }
};

/// Named tensors that can be read block by block and more than once, whatever file they lie in. The readers
/// behind it take nothing on trust: a file that lies about sizes, offsets or types is Error(bad_input) naming
/// the file and the tensor, and memory is only ever claimed for bytes that are there.
///
/// Reading is const and may be done from several threads at once.
class WeightFile {
 public:
  virtual ~WeightFile() = default;

  const std::string& path() const { return path_; }
  /// "safetensors", "safetensors shards", "sparse safetensors", "npz", "npy".
  virtual std::string_view format() const = 0;
  /// In the order of their data in the file.
  const std::vector<FileTensor>& tensors() const { return tensors_; }
  /// The file's own strings (__metadata__ of safetensors); empty where the format has none.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(std::string_view name) const { return positions_.find(name) != positions_.end(); }
  /// Position in `tensors()`. Throws Error(bad_input) when there is none of that name.
  size_t index(std::string_view name) const;
  const FileTensor& tensor(std::string_view name) const { return tensors_[index(name)]; }

  /// Elements [begin, begin + count) of a tensor as they lie in the file; `out` may be unaligned.
  void read(size_t tensor, int64_t begin, int64_t count, void* out) const;
  /// The same converted: exact for f16, bf16 and f32, f64 rounded once; integers and bool as numbers.
  void read_f32(size_t tensor, int64_t begin, int64_t count, float* out) const;
  void read_f64(size_t tensor, int64_t begin, int64_t count, double* out) const;
  /// A whole tensor.
  std::vector<float> read_f32(std::string_view name) const;
  std::vector<double> read_f64(std::string_view name) const;

  /// Where all elements of a tensor lie in memory as `read` gives them, or null. Who cuts the file's weights
  /// may cut them there.
  virtual std::byte* memory(size_t /*tensor*/) const { return nullptr; }
  /// True where reading a few elements anywhere costs a few elements.
  virtual bool random_access() const { return true; }
  /// Bytes that the tensor takes in the file: fewer than tensors()[i].bytes() when encoded or compressed.
  virtual int64_t stored_bytes(size_t tensor) const { return tensors_[tensor].bytes(); }

 protected:
  explicit WeightFile(std::string path) : path_(std::move(path)) {}
  /// The range is inside the tensor and not empty.
  virtual void read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const = 0;
  /// Sets the list of tensors; Error(bad_input) when two have one name.
  void set_tensors(std::vector<FileTensor> tensors);

  std::map<std::string, std::string> metadata_;

 private:
  std::string path_;
  std::vector<FileTensor> tensors_;
  std::map<std::string, size_t, std::less<>> positions_;
};

/// Opens weights by what they are: a .safetensors file (plain or in our sparse encoding, which decodes as it
/// is read), a Hugging Face shard index (*.index.json), an .npz or .npy file, or a folder that holds
/// weights.safetensors, model.safetensors or model.safetensors.index.json.
std::unique_ptr<WeightFile> open_weights(const std::string& path);

/// Writes named tensors: declare all, then fill each in any order and in pieces of any size; a range may be
/// written again. The same tensors give the same file, whatever the order of declarations and writes.
class WeightWriter {
 public:
  virtual ~WeightWriter() = default;

  const std::string& path() const { return path_; }
  const std::vector<FileTensor>& tensors() const { return tensors_; }
  size_t index(std::string_view name) const;

  /// Raw elements [begin, begin + count). Pieces of one tensor may overlap but leave no hole: begin is at
  /// most what has been written so far.
  void write(size_t tensor, int64_t begin, int64_t count, const void* data);
  /// All of one tensor; `count` is checked against its size.
  void write(std::string_view name, const void* data, int64_t count);

  /// Checks that every element was written, and puts the file in place.
  void finish();

 protected:
  WeightWriter(std::string path, std::vector<FileTensor> tensors);
  virtual void write_elements(size_t tensor, int64_t begin, int64_t count, const void* data) = 0;
  virtual void finish_file() = 0;

 private:
  std::string path_;
  std::vector<FileTensor> tensors_;
  std::vector<int64_t> written_;
};

/// A writer by the name's extension: .npz, else safetensors. NumPy's format has no bf16, which is
/// Error(bad_input), and no place for metadata, which is dropped.
std::unique_ptr<WeightWriter> create_weights(const std::string& path, std::vector<FileTensor> tensors,
                                             std::map<std::string, std::string> metadata = {},
                                             Existing existing = Existing::refuse);

/// Called before every block that a copy or an encoding reads, with its number of elements; may throw, and
/// then no output is left.
using BeforeBlock = std::function<void(int64_t elements)>;

/// Copies all tensors into a plain file, block by block: a sparse-encoded file becomes dense again, bit for
/// bit.
void copy_weights(const WeightFile& from, const std::string& to, Existing existing = Existing::refuse,
                  const BeforeBlock& before_block = {});

}  // namespace coppice
