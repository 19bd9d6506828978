#include "engine/files/array_file.hpp"

#include <cstring>

namespace coppice {

ArrayFile::ArrayFile(std::string path, const std::vector<NamedArray>& arrays) : WeightFile(std::move(path)) {
  std::vector<FileTensor> tensors;
  for (const NamedArray& array : arrays) {
    tensors.push_back(array.tensor);
    data_.push_back(static_cast<std::byte*>(array.data));
  }
  set_tensors(std::move(tensors));
}

void ArrayFile::read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const {
  const int64_t width = size_of(tensors()[tensor].dtype);
  std::memcpy(out, data_[tensor] + begin * width, static_cast<size_t>(count * width));
}

}  // namespace coppice
