#include "engine/c_api/tensors.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "engine/c_api/guard.hpp"

namespace coppice::c_api {
namespace {

// More would be a mistake of the caller's, and the strides of one block are walked for every run of elements.
constexpr size_t kMaxRank = 32;

static_assert(static_cast<int>(DType::f64) == COPPICE_F64 && static_cast<int>(DType::f32) == COPPICE_F32 &&
              static_cast<int>(DType::f16) == COPPICE_F16 && static_cast<int>(DType::bf16) == COPPICE_BF16 &&
              static_cast<int>(DType::i64) == COPPICE_I64 && static_cast<int>(DType::u8) == COPPICE_U8 &&
              static_cast<int>(DType::boolean) == COPPICE_BOOL);

std::vector<int64_t> checked_shape(const std::string& name, const char* what, const int64_t* shape,
                                   size_t rank) {
  if (rank > kMaxRank)
    bad_input("tensor \"{}\": {} of rank {}; expected at most {}", name, what, rank, kMaxRank);
  if (rank != 0 && shape == nullptr) bad_input("tensor \"{}\": {} is NULL", name, what);
  int64_t bytes = 8;
  for (size_t d = 0; d < rank; ++d) {
    if (shape[d] < 0) {
      bad_input("tensor \"{}\": extent {} of {} is {}; expected 0 or more", name, d, what, shape[d]);
    }
    // Extents of 0 hide no overflow of the others.
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(shape[d], 1), &bytes)) {
      bad_input("tensor \"{}\": {} has more elements than memory can hold", name, what);
    }
  }
  return {shape, shape + rank};
}

NamedArray checked_array(const std::string& name, const char* field, const coppice_array& array,
                         const std::string& entry, const std::vector<int64_t>& shape) {
  if (array.dtype != COPPICE_F64 && array.dtype != COPPICE_F32 && array.dtype != COPPICE_F16 &&
      array.dtype != COPPICE_BF16) {
    bad_input("tensor \"{}\": the dtype of {} is {}; expected F64, F32, F16 or BF16", name, field,
              static_cast<int>(array.dtype));
  }
  NamedArray checked;
  checked.tensor = {entry, static_cast<DType>(array.dtype), shape};
  checked.data = const_cast<void*>(array.data);
  if (array.strides != nullptr) checked.strides.assign(array.strides, array.strides + shape.size());
  return checked;
}

/// Bits of masks.safetensors: those past the end are 1.
std::vector<uint8_t> packed(const uint8_t* mask, int64_t size) {
  std::vector<uint8_t> bits(static_cast<size_t>(size / 8 + (size % 8 != 0)), 0xff);
  for (int64_t i = 0; i < size; ++i) {
    if (mask[i] == 0) bits[static_cast<size_t>(i / 8)] &= static_cast<uint8_t>(~(1u << (i % 8)));
  }
  return bits;
}

}  // namespace

CallersTensor check_tensor(const coppice_tensor* tensor) {
  const coppice_tensor given = adopted(tensor, "tensor");
  const std::string name = required(given.name, "a tensor's name");
  CallersTensor own;
  const std::vector<int64_t> shape = checked_shape(name, "shape", given.shape, given.rank);
  own.whole_name = name;
  own.whole_shape = shape;
  own.is_piece = given.whole_shape != nullptr;
  std::string entry = name;
  if (own.is_piece) {
    own.whole_shape = checked_shape(name, "whole_shape", given.whole_shape, given.whole_rank);
    own.first = given.first;
    entry =
        fmt::format("{}[{}:{}]", name, given.first, given.first + FileTensor{"", DType::f32, shape}.size());
  } else if (given.first != 0) {
    bad_input("tensor \"{}\": first is {}, but whole_shape is NULL", name, given.first);
  }
  own.weights = checked_array(name, "weights", given.weights, entry, shape);
  if (own.size() != 0 && own.weights.data == nullptr) bad_input("tensor \"{}\": weights are NULL", name);

  const auto statistic = [&](const char* field, const coppice_array& array, const std::string& suffix) {
    if (array.data != nullptr) {
      own.statistics.push_back(checked_array(name, field, array, entry + suffix, shape));
    }
  };
  statistic("gradients", given.gradients, "");
  statistic("absolute", given.absolute, ".absolute");
  statistic("squared", given.squared, ".squared");
  if (given.activations.data != nullptr) {
    const int64_t rows = shape.empty() ? 1 : shape[0];
    const int64_t inputs = rows == 0 ? 0 : own.size() / rows;
    own.activations.push_back(checked_array(name, "activations", given.activations, entry, {inputs}));
  }

  if (given.output != nullptr) {
    for (size_t d = 0; d < own.weights.strides.size(); ++d) {
      if (own.weights.strides[d] == 0 && shape[d] > 1) {
        bad_input("tensor \"{}\": a stride of 0 makes one weight of {}: it can't be cut", name, shape[d]);
      }
    }
    own.output = own.weights;
    own.output.data = given.output;
  }
  own.weights.constant = given.output != given.weights.data;
  own.mask = given.mask;
  own.on_device = given.on_device != 0;
  if (given.kept != nullptr) own.kept_bits = packed(given.kept, own.size());
  own.gates = given.gates == 0 ? 1 : given.gates;
  if (own.gates < 0) bad_input("tensor \"{}\": {} gates; expected 1 or more", name, own.gates);
  if (given.gate_names != nullptr) own.gate_names = given.gate_names;
  if (!own.gate_names.empty() && own.gate_names.size() != static_cast<size_t>(own.gates)) {
    bad_input("tensor \"{}\": \"{}\" names {} gates of {}", name, own.gate_names, own.gate_names.size(),
              own.gates);
  }
  return own;
}

std::unique_ptr<TensorSource> open_tensors(Backend& backend, std::vector<CallersTensor>& tensors, bool wanda,
                                           const std::vector<std::string>& keep_diagonal, bool as_pieces) {
  const auto on_device = [](const CallersTensor& tensor) { return tensor.on_device; };
  const auto count = std::count_if(tensors.begin(), tensors.end(), on_device);
  if (count == 0) return open_host_tensors(backend, tensors, wanda, keep_diagonal, as_pieces);
  if (static_cast<size_t>(count) != tensors.size()) {
    bad_input("{} of {} tensors are on a device; expected all or none", count, tensors.size());
  }
  if (wanda) bad_input("the criterion wanda is not to be had of tensors on a device");
  if (!keep_diagonal.empty()) bad_input("keep_diagonal is not to be had of tensors on a device");
  return open_device_tensors(backend, tensors, as_pieces);
}

}  // namespace coppice::c_api
