#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/files/safetensors.hpp"
#include "engine/files/weight_file.hpp"

// The sparse encoding of weights on disk (how a pruned model lies there; how it executes is a layout's
// business).
//
// It is a safetensors file like any other, with one more string in __metadata__:
//
//   "sparse_encoding": {"schema": 1, "tensors": {NAME: {"encoding": E, "dtype": "F32", "shape": [..]}, ..}}
//
// (JSON inside the string; dtypes as safetensors spells them.) A tensor that is not listed lies there as it
// is. A listed one is made of two plain tensors. Its elements are numbered 0 … n − 1 row-major; those whose
// bits are not all zero are its values: −0, denormals and NaN are values, +0 alone is not, so that decoding
// gives back every bit.
//
//   NAME.sparse_values   dtype as given, [number of values]: the values in the order of their elements.
//   E = "bitmap":
//   NAME.sparse_bitmap   U8 [⌈n / 8⌉]: bit i % 8 (the lowest is 0) of byte i / 8 is 1 when element i is a
//   value; the
//                        bits behind element n − 1 are 0.
//   E = "deltas":
//   NAME.sparse_deltas   U8: read with a position p = 0. A byte d < 255 says that element p + d is the next
//   value,
//                        and p becomes p + d + 1; a byte 255 only moves p by 255. Behind the last value there
//                        are as many 255 as fit: in the end n − p < 255, so that the size of a file bounds
//                        that of its tensors.
//
// A tensor is stored in the form that takes the fewest bytes (dense, then bitmap, then deltas when equal),
// counting 256 bytes and twice its name for the description that the last two need. Reading it with NumPy:
//
//   from safetensors import safe_open
//   with safe_open(path, "np") as f:
//       d = json.loads(f.metadata()["sparse_encoding"])["tensors"][name]
//       dense = numpy.zeros(math.prod(d["shape"]), values.dtype)   # values = f.get_tensor(name +
//       ".sparse_values") if d["encoding"] == "bitmap":
//           bits = f.get_tensor(name + ".sparse_bitmap")
//           at = numpy.flatnonzero(numpy.unpackbits(bits, bitorder="little"))
//       else:
//           deltas = f.get_tensor(name + ".sparse_deltas").astype(numpy.int64)
//           ends = numpy.cumsum(deltas + (deltas < 255))
//           at = (ends - 1)[deltas < 255]
//       dense[at] = values
//       dense = dense.reshape(d["shape"])

namespace coppice {

/// What became of one tensor.
struct EncodedTensor {
  std::string name;
  std::string encoding;       // dense | bitmap | deltas
  int64_t size = 0;           // elements
  int64_t values = 0;         // of them, not +0
  int64_t dense_bytes = 0;    // of the elements as a plain tensor
  int64_t encoded_bytes = 0;  // of what stands for them
};

struct SparseEncodingReport {
  std::vector<EncodedTensor> tensors;
  int64_t dense_bytes = 0;  // sums over the tensors
  int64_t encoded_bytes = 0;
  int64_t file_bytes = 0;  // of the file, header included
};

/// Writes all tensors of `from` to the safetensors file `to` in the sparse encoding, in two passes over
/// blocks. `from` may be of any format, this one included; its metadata are kept.
SparseEncodingReport encode_sparse(const WeightFile& from, const std::string& to,
                                   Existing existing = Existing::refuse,
                                   const BeforeBlock& before_block = {});

/// Counts the elements of a tensor that are not +0: what `inspect` calls kept.
int64_t count_values(const WeightFile& file, size_t tensor);

bool is_sparse_encoded(const SafetensorsFile& file);

/// A sparse-encoded file seen as the tensors it stands for. Blocks decode as they are read, without a dense
/// copy of the tensor; copy_weights makes it plain again.
class SparseEncodedFile final : public WeightFile {
 public:
  explicit SparseEncodedFile(std::unique_ptr<SafetensorsFile> file);
  ~SparseEncodedFile() override;
  std::string_view format() const override { return "sparse safetensors"; }
  int64_t stored_bytes(size_t tensor) const override;
  /// dense | bitmap | deltas
  std::string_view encoding(size_t tensor) const;

 protected:
  void read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const override;

 private:
  enum class Encoding { dense, bitmap, deltas };
  /// A place in the code from which decoding can start.
  struct Mark {
    int64_t code = 0;     // byte of the bitmap or of the deltas
    int64_t element = 0;  // p there
    int64_t value = 0;    // values before it
  };
  struct Part {
    Encoding encoding = Encoding::dense;
    size_t values = 0;  // positions in the file; the tensor itself when dense
    size_t code = 0;
    mutable std::vector<Mark> marks;  // made when the tensor is first read
  };

  const std::vector<Mark>& marks(size_t tensor) const;
  void read_bitmap(size_t tensor, int64_t begin, int64_t count, char* out) const;
  void read_deltas(size_t tensor, int64_t begin, int64_t count, char* out) const;

  std::unique_ptr<SafetensorsFile> file_;
  std::vector<Part> parts_;
  mutable std::mutex mutex_;  // of the marks
};

}  // namespace coppice
