#include "engine/files/array_file.hpp"

#include <algorithm>
#include <cstring>

namespace coppice {
namespace {

/// Calls visit(pointer, count, stride) for runs of elements that lie in one innermost row, in order.
template <class Visit>
void for_rows(const NamedArray& array, int64_t begin, int64_t count, Visit visit) {
  const std::vector<int64_t>& shape = array.tensor.shape;
  const int64_t width = size_of(array.tensor.dtype);
  auto* const data = static_cast<std::byte*>(array.data);
  if (array.strides.empty() || shape.empty()) {
    if (count > 0) visit(data + begin * width, count, int64_t{1});
    return;
  }
  const size_t last = shape.size() - 1;
  std::vector<int64_t> index(shape.size());
  for (size_t d = shape.size(), rest = static_cast<size_t>(begin); d-- > 0;) {
    const size_t extent = static_cast<size_t>(shape[d]);
    index[d] = static_cast<int64_t>(rest % extent);
    rest /= extent;
  }
  while (count > 0) {
    int64_t offset = 0;
    for (size_t d = 0; d < shape.size(); ++d) offset += index[d] * array.strides[d];
    const int64_t here = std::min(count, shape[last] - index[last]);
    visit(data + offset * width, here, array.strides[last]);
    count -= here;
    index[last] = 0;
    for (size_t d = last; d-- > 0;) {
      if (++index[d] < shape[d]) break;
      index[d] = 0;
    }
  }
}

/// Copies elements of one width between strided memory and memory without gaps.
template <size_t kWidth>
void copy_strided(const std::byte* from, int64_t from_step, std::byte* to, int64_t to_step, int64_t count) {
  for (int64_t i = 0; i < count; ++i, from += from_step, to += to_step) std::memcpy(to, from, kWidth);
}

void copy_elements(int64_t width, const std::byte* from, int64_t from_stride, std::byte* to,
                   int64_t to_stride, int64_t count) {
  const int64_t from_step = from_stride * width, to_step = to_stride * width;
  if (from_stride == 1 && to_stride == 1) {
    std::memcpy(to, from, static_cast<size_t>(count * width));
  } else if (width == 1) {
    copy_strided<1>(from, from_step, to, to_step, count);
  } else if (width == 2) {
    copy_strided<2>(from, from_step, to, to_step, count);
  } else if (width == 4) {
    copy_strided<4>(from, from_step, to, to_step, count);
  } else {
    copy_strided<8>(from, from_step, to, to_step, count);
  }
}

}  // namespace

bool NamedArray::contiguous() const {
  if (strides.empty()) return true;
  int64_t expected = 1;
  for (size_t d = tensor.shape.size(); d-- > 0;) {
    if (tensor.shape[d] != 1 && strides[d] != expected) return tensor.size() == 0;
    expected *= tensor.shape[d];
  }
  return true;
}

void gather(const NamedArray& array, int64_t begin, int64_t count, void* out) {
  const int64_t width = size_of(array.tensor.dtype);
  auto* to = static_cast<std::byte*>(out);
  for_rows(array, begin, count, [&](const std::byte* from, int64_t here, int64_t stride) {
    copy_elements(width, from, stride, to, 1, here);
    to += here * width;
  });
}

void scatter(const NamedArray& array, int64_t begin, int64_t count, const void* in) {
  const int64_t width = size_of(array.tensor.dtype);
  const auto* from = static_cast<const std::byte*>(in);
  for_rows(array, begin, count, [&](std::byte* to, int64_t here, int64_t stride) {
    copy_elements(width, from, 1, to, stride, here);
    from += here * width;
  });
}

ArrayFile::ArrayFile(std::string path, std::vector<NamedArray> arrays)
    : WeightFile(std::move(path)), arrays_(std::move(arrays)) {
  std::vector<FileTensor> tensors;
  for (NamedArray& array : arrays_) {
    tensors.push_back(array.tensor);
    if (array.contiguous()) array.strides.clear();
  }
  set_tensors(std::move(tensors));
}

std::byte* ArrayFile::memory(size_t tensor) const {
  const NamedArray& array = arrays_[tensor];
  return array.strides.empty() && !array.constant ? static_cast<std::byte*>(array.data) : nullptr;
}

void ArrayFile::read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const {
  gather(arrays_[tensor], begin, count, out);
}

}  // namespace coppice
