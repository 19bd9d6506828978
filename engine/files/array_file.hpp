#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "engine/files/weight_file.hpp"

namespace coppice {

/// One array of the caller's: row-major, contiguous, of any alignment. It must outlive the file.
struct NamedArray {
  FileTensor tensor;
  void* data = nullptr;  // null only where there are no elements
};

/// Arrays in memory, to be read as a file of weights is: nothing is copied.
class ArrayFile final : public WeightFile {
 public:
  /// `path` stands for the arrays in messages. Throws Error(bad_input) when two have one name.
  ArrayFile(std::string path, const std::vector<NamedArray>& arrays);

  std::string_view format() const override { return "arrays"; }
  std::byte* memory(size_t tensor) const override { return data_[tensor]; }

 private:
  void read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const override;

  std::vector<std::byte*> data_;
};

}  // namespace coppice
