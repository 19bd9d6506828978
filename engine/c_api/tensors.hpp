#pragma once

#include <coppice/coppice.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/c_api/options.hpp"
#include "engine/files/array_file.hpp"
#include "engine/prune/file_source.hpp"
#include "engine/prune/merged_selection.hpp"

namespace coppice::c_api {

/// A tensor of a caller's, checked.
struct CallersTensor {
  NamedArray weights;  // a piece goes by the name of its tensor and its elements
  NamedArray output;   // data null: none is wanted
  uint8_t* mask = nullptr;
  std::vector<uint8_t> kept_bits;         // of masks.safetensors; empty: nothing is cut already
  std::vector<NamedArray> statistics{};   // NAME, NAME.absolute, NAME.squared
  std::vector<NamedArray> activations{};  // NAME
  int64_t gates = 1;
  std::string gate_names;
  std::string whole_name;
  std::vector<int64_t> whole_shape;
  int64_t first = 0;
  bool is_piece = false;
  bool on_device = false;

  int64_t size() const { return weights.tensor.size(); }
};

/// Throws Error(bad_input) naming the tensor and its field.
CallersTensor check_tensor(const coppice_tensor* tensor);

/// Tensors of a caller's as weights to be pruned. They, and what they were made from, must outlive it.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual ParameterSource& source() = 0;
  /// `selected`: how many weights take part.
  virtual void watch(ProgressListener* /*listener*/, const StopToken* /*stop*/, int64_t /*selected*/) {}
  /// Cuts go to the outputs and masks from here on.
  virtual void write() = 0;
  /// Everything is cut: what took no part gets its output and mask as well.
  virtual void finish(const std::vector<bool>& selected) = 0;
};

/// `as_pieces`: for a MergedSelection; gates are then the union's business.
std::unique_ptr<TensorSource> open_tensors(Backend& backend, std::vector<CallersTensor>& tensors, bool wanda,
                                           const std::vector<std::string>& keep_diagonal, bool as_pieces);

/// In the host's memory: scored where they lie, or block by block.
std::unique_ptr<TensorSource> open_host_tensors(Backend& backend, std::vector<CallersTensor>& tensors,
                                                bool wanda, const std::vector<std::string>& keep_diagonal,
                                                bool as_pieces);

/// In the backend's.
std::unique_ptr<TensorSource> open_device_tensors(Backend& backend, std::vector<CallersTensor>& tensors,
                                                  bool as_pieces);

}  // namespace coppice::c_api
