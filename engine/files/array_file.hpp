#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "engine/files/weight_file.hpp"

namespace coppice {

/// One array of the caller's, of any alignment. It must outlive the file.
struct NamedArray {
  FileTensor tensor;
  void* data = nullptr;            // element [0, 0, …]; null only where there are no elements
  std::vector<int64_t> strides{};  // [rank], in elements, negative ones too; empty: row-major without gaps
  bool constant = false;           // nobody may cut it where it lies

  /// Its elements lie after one another, as `strides` may say in other words.
  bool contiguous() const;
};

/// Elements [begin, begin + count) in row-major order, from an array and into it.
void gather(const NamedArray& array, int64_t begin, int64_t count, void* out);
void scatter(const NamedArray& array, int64_t begin, int64_t count, const void* in);

/// Arrays in memory, to be read as a file of weights is: nothing is copied.
class ArrayFile final : public WeightFile {
 public:
  /// `path` stands for the arrays in messages. Throws Error(bad_input) when two have one name.
  ArrayFile(std::string path, std::vector<NamedArray> arrays);

  std::string_view format() const override { return "arrays"; }
  std::byte* memory(size_t tensor) const override;

 private:
  void read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const override;

  std::vector<NamedArray> arrays_;
};

}  // namespace coppice
