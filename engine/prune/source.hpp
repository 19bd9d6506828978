#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.hpp"

namespace coppice {

class ParameterStore;

/// What a source says of one tensor.
struct SourceTensor {
  std::string name;                    // full name; ties are cut in the byte order of these
  std::vector<int64_t> shape;          // row-major, [out, in] for weights
  DType dtype = DType::f32;            // f64, f32, f16 or bf16 where it is pruned
  int64_t gates = 1;                   // row blocks of equal height
  std::string gate_names;              // one letter a gate, or empty
  bool prunable = true;                // when no include pattern says otherwise
  std::vector<std::string> aliases{};  // other names of the same weights (tied tensors); patterns match any

  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  int64_t cols() const { return rows() == 0 ? 0 : size() / rows(); }
};

/// What selection consumes: named tensors of (weights, one statistic of the gradient) that can be read, block
/// by block, more than once, and a place where the cut is written. The parameter store, streamed files and a
/// caller's arrays are sources; nothing in selection knows which.
class ParameterSource {
 public:
  virtual ~ParameterSource() = default;
  virtual Backend& backend() = 0;
  virtual std::span<const SourceTensor> tensors() const = 0;

  /// A run of elements of tensor `tensor`, on the device, valid until the next call. Of the arrays of bits,
  /// element `begin` + i is bit (begin + i) % 64 of word (begin + i) / 64 − begin / 64: the bits of a tensor
  /// start at bit 0 of a word, and a run's words start at the word in which its first bit lies.
  struct Run {
    const void* weights = nullptr;
    const void* statistic = nullptr;  // as asked for; null for Statistic::none
    DType statistic_dtype = DType::f32;
    StatisticForm statistic_form = StatisticForm::as_is;
    const uint64_t* kept = nullptr;  // 0 where a weight is cut already and must stay so; null: none is
    void* output = nullptr;          // cut weights go here (may be `weights`); null: not wanted, or counting
    uint64_t* mask = nullptr;        // 1 = kept (may be `kept`); null likewise
    int64_t begin = 0;
    int64_t count = 0;
  };
  /// Calls `visit` for consecutive runs covering [begin, begin + count) of the tensor in order. `writing`
  /// says that the runs need `output` and `mask`. Throws Error(bad_input) naming the tensor when the
  /// statistic that was asked for is missing.
  virtual void read(size_t tensor, int64_t begin, int64_t count, Statistic statistic, bool writing,
                    const std::function<void(const Run&)>& visit) = 0;

  /// True where reading a few elements costs a few elements: selection then draws a sample first. From a
  /// stream it would be a whole pass, and histograms are cheaper.
  virtual bool random_access() const { return true; }

  /// The sample: `lines` are the first elements, ascending, of lines of `SelectionOps::kSampleLine` elements
  /// inside [begin, begin + count), shorter only where that ends. `visit` gets runs, in which the lines start
  /// at `starts`. A run may be lines gathered from all over the tensor, of which only the first is at
  /// run.begin: good for a sample of scores, and for nothing else. By default the range is read.
  virtual void read_lines(size_t tensor, int64_t begin, int64_t count, std::span<const int64_t> lines,
                          Statistic statistic,
                          const std::function<void(const Run&, std::span<const int64_t> starts)>& visit);

  /// How many elements of [begin, begin + count) are not cut already. By default the bits are read as runs.
  virtual uint64_t count_kept(size_t tensor, int64_t begin, int64_t count);

  /// What the criterion's score is here, for messages: where the statistic is none of a gradient.
  virtual std::string_view formula_of(Criterion criterion) const { return formula(criterion); }

  /// Bytes that a search may take for the places among which it looks; where they don't suffice it narrows
  /// its bracket in one more pass.
  virtual uint64_t scratch_bytes() const { return ~uint64_t{0}; }

  /// Everything is written: whoever holds derived data may renew it.
  virtual void finish_writing() {}
};

/// One tensor of a `MemorySource`. Arrays are on the backend's device, contiguous, of `info.dtype`.
struct MemoryTensor {
  SourceTensor info;
  const void* weights = nullptr;
  const void* sum = nullptr;       // Σg,   [size], or null
  const void* absolute = nullptr;  // Σ|g|
  const void* squared = nullptr;   // Σg²
  const uint64_t* kept = nullptr;  // ⌈size/64⌉ words, 0 where cut already, or null
  void* output = nullptr;          // may be `weights`, or null
  uint64_t* mask = nullptr;        // ⌈size/64⌉ words, may be `kept`, or null; bits past the end stay
};

/// Arrays of the caller, or of a parameter store. They must outlive it.
class MemorySource : public ParameterSource {
 public:
  /// Runs have at most `run` elements (a multiple of 64); 0: a tensor is one run.
  MemorySource(Backend& backend, std::vector<MemoryTensor> tensors, int64_t run = 0);

  Backend& backend() override { return *backend_; }
  std::span<const SourceTensor> tensors() const override { return infos_; }
  void read(size_t tensor, int64_t begin, int64_t count, Statistic statistic, bool writing,
            const std::function<void(const Run&)>& visit) override;

 private:
  Backend* backend_;
  std::vector<MemoryTensor> tensors_;
  std::vector<SourceTensor> infos_;
  int64_t run_;
};

/// Statistics of the gradient in buffers laid out as the store ([store.size()]), or empty where nobody needs
/// them.
struct StoreStatistics {
  VectorView<const float> sum{};
  VectorView<const float> absolute{};
  VectorView<const float> squared{};
};

/// The store as a source, cut in place: weights that its mask already cuts stay cut and count towards the
/// sparsity, so that a schedule only ever cuts more. The store gets a mask if it has none, when the cut is
/// written.
std::unique_ptr<ParameterSource> store_source(ParameterStore& store, const StoreStatistics& statistics = {});

}  // namespace coppice
