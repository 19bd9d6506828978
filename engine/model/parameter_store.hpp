#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.hpp"

namespace coppice {

/// One named tensor of a model.
struct Segment {
  std::string name;            // PyTorch's names: "lstm.weight_hh_l0"
  std::vector<int64_t> shape;  // row-major; weights [out, in]
  int64_t offset = 0;          // elements from the store's start; a multiple of `ParameterStore::kBlock`
  bool prunable = false;       // by default; a recipe's include and exclude decide
  int64_t gates = 1;           // row blocks of equal height, in Cell's gate order
  std::string gate_names{};    // one letter a gate, empty when gates == 1

  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  int64_t cols() const { return rows() == 0 ? 0 : size() / rows(); }
};

/// All parameters of a model in one contiguous device buffer, with gradients and mask bits in buffers of the
/// same layout, so that scoring, masking and the optimizer step are one launch over the whole model. Segments
/// start on whole blocks; the padding between them is zero, kept, and never scored.
class ParameterStore {
 public:
  static constexpr int64_t kBlock = 64;  // elements: one word of mask bits, four cache lines of values

  /// `segments` in declaration order; offsets are assigned here. Values and gradients start at zero.
  ParameterStore(Backend& backend, std::vector<Segment> segments);

  Backend& backend() const { return *backend_; }
  std::span<const Segment> segments() const { return segments_; }
  /// Throws Error(bad_input) naming the tensor when there is none of that name.
  const Segment& segment(std::string_view name) const;
  int64_t size() const { return size_; }  // elements, padding included
  int64_t parameter_count() const;        // elements, without padding

  VectorView<float> values() const { return values_.vector<float>(size_); }
  VectorView<float> gradients() const { return gradients_.vector<float>(size_); }
  /// 1 = keep. Empty until `enable_mask`.
  VectorView<uint64_t> mask() const;
  bool masked() const { return mask_.bytes() != 0; }
  void enable_mask();  // all ones
  void disable_mask();

  MatrixView<float> matrix(const Segment& segment) const;  // [rows, cols] of values
  MatrixView<float> gradient_matrix(const Segment& segment) const;
  VectorView<float> vector(const Segment& segment) const;
  VectorView<float> gradient_vector(const Segment& segment) const;

  /// Whoever changes values says so; layers renew their packed weights when the number moved.
  uint64_t version() const { return version_; }
  void values_changed() { ++version_; }

  // Host copies, for files, reports and tests.
  std::vector<float> download(const Segment& segment) const;
  void upload(const Segment& segment, std::span<const float> values);
  /// Bits of one segment, 1 = keep, ⌈size/64⌉ words (all ones when nothing is masked).
  std::vector<uint64_t> download_mask(const Segment& segment) const;
  void upload_mask(const Segment& segment, std::span<const uint64_t> words);

 private:
  Backend* backend_;
  std::vector<Segment> segments_;
  int64_t size_ = 0;
  Buffer values_;
  Buffer gradients_;
  Buffer mask_;
  uint64_t version_ = 1;
};

}  // namespace coppice
