#include "engine/files/number_formats.hpp"

#include <bit>
#include <cstring>

namespace coppice {
namespace {

static_assert(std::endian::native == std::endian::little,
              "weight files are little-endian and read as they lie");

template <class From, class To, class Convert>
void convert_each(const void* from, int64_t count, To* to, Convert convert) {
  const char* bytes = static_cast<const char*>(from);
  for (int64_t i = 0; i < count; ++i) {
    From value;  // safetensors promises no alignment
    std::memcpy(&value, bytes + i * static_cast<int64_t>(sizeof(From)), sizeof(From));
    to[i] = static_cast<To>(convert(value));
  }
}

template <class To>
void convert(DType type, const void* from, int64_t count, To* to) {
  const auto same = [](auto value) { return value; };
  switch (type) {
    case DType::f64:
      return convert_each<double>(from, count, to, same);
    case DType::f32:
      return convert_each<float>(from, count, to, same);
    case DType::f16:
      return convert_each<uint16_t>(from, count, to, half_to_float);
    case DType::bf16:
      return convert_each<uint16_t>(from, count, to, bfloat16_to_float);
    case DType::i64:
      return convert_each<int64_t>(from, count, to, same);
    case DType::i32:
      return convert_each<int32_t>(from, count, to, same);
    case DType::i16:
      return convert_each<int16_t>(from, count, to, same);
    case DType::i8:
      return convert_each<int8_t>(from, count, to, same);
    case DType::u64:
      return convert_each<uint64_t>(from, count, to, same);
    case DType::u32:
      return convert_each<uint32_t>(from, count, to, same);
    case DType::u16:
      return convert_each<uint16_t>(from, count, to, same);
    case DType::u8:
      return convert_each<uint8_t>(from, count, to, same);
    case DType::boolean:
      return convert_each<uint8_t>(from, count, to, [](uint8_t value) { return value != 0; });
  }
}

}  // namespace

void convert_to_f32(DType type, const void* from, int64_t count, float* to) {
  if (type == DType::f32) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));  // NaN payloads too
    return;
  }
  convert(type, from, count, to);
}

void convert_to_f64(DType type, const void* from, int64_t count, double* to) {
  if (type == DType::f64) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(double));
    return;
  }
  convert(type, from, count, to);
}

}  // namespace coppice
