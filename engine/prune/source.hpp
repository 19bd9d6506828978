#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.hpp"

namespace coppice {

/// What a source says of one tensor.
struct SourceTensor {
  std::string name;             // full name; ties are cut in the byte order of these
  std::vector<int64_t> shape;   // row-major, [out, in] for weights
  DType dtype = DType::f32;     // as selection sees it: f32, or f64
  int64_t gates = 1;            // row blocks of equal height
  std::string gate_names;       // one letter a gate, or empty
  bool prunable = true;         // when no include pattern says otherwise

  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  int64_t cols() const { return rows() == 0 ? 0 : size() / rows(); }
};

/// What selection consumes: named tensors of (weights, one statistic of the gradient) that can be read, block by
/// block, more than once, and a place where the cut is written. The parameter store, mapped or streamed shards and
/// a caller's arrays are sources; nothing in selection knows which.
class ParameterSource {
 public:
  virtual ~ParameterSource() = default;
  virtual Backend& backend() = 0;
  virtual std::span<const SourceTensor> tensors() const = 0;

  /// A run of elements of tensor `tensor`, on the device, valid until the next call.
  struct Run {
    const void* weights = nullptr;
    const void* statistic = nullptr;  // as asked for; null for Statistic::none
    void* output = nullptr;           // cut weights go here (may be `weights`); null in counting passes
    uint64_t* mask = nullptr;         // mask bits of the run go here (begin is a multiple of 64); null likewise
    int64_t begin = 0;
    int64_t count = 0;
  };
  /// Calls `visit` for consecutive runs covering [begin, begin + count) of the tensor in order. `writing` says
  /// that the runs need `output` and `mask`. Throws Error(bad_input) naming the tensor when the statistic that
  /// was asked for is missing.
  virtual void read(size_t tensor, int64_t begin, int64_t count, Statistic statistic, bool writing,
                    const std::function<void(const Run&)>& visit) = 0;
};

}  // namespace coppice
