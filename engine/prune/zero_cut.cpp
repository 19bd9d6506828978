#include "engine/prune/zero_cut.hpp"

#include <algorithm>
#include <cstring>

namespace coppice {
namespace {

template <class Bits>
void zero_cut(std::byte* raw, int64_t count, const uint64_t* mask, int64_t bit) {
  // A register that every processor has: its elements' bits are told apart by a bit a lane.
  constexpr int kLanes = 16 / static_cast<int>(sizeof(Bits));
  typedef Bits Vector __attribute__((vector_size(16)));
  constexpr int kHalf = kLanes > 8 ? 8 : kLanes;  // a byte of the mask serves so many lanes
  Vector one;
  for (int lane = 0; lane < kLanes; ++lane) one[lane] = static_cast<Bits>(Bits{1} << (lane % kHalf));
  const auto at = [raw](int64_t i) { return raw + i * static_cast<int64_t>(sizeof(Bits)); };
  for (int64_t i = 0; i < count;) {
    const int64_t from = bit + i, stop = std::min(count, i + 64 - from % 64);
    const uint64_t word = mask[from / 64];
    if (stop - i == 64 && word != ~uint64_t{0}) {
      for (int j = 0; j < 64; j += kLanes) {
        Vector bits;
        for (int lane = 0; lane < kLanes; ++lane) {
          bits[lane] = static_cast<Bits>(static_cast<uint8_t>(word >> (j + lane / kHalf * kHalf)));
        }
        Vector values;  // safetensors promises no alignment
        std::memcpy(&values, at(i + j), sizeof(values));
        values &= reinterpret_cast<Vector>((bits & one) != 0);
        std::memcpy(at(i + j), &values, sizeof(values));
      }
    } else if (word != ~uint64_t{0}) {
      for (int64_t j = i; j < stop; ++j) {
        if ((word >> ((bit + j) % 64) & 1) == 0) std::memset(at(j), 0, sizeof(Bits));
      }
    }
    i = stop;
  }
}

}  // namespace

void zero_cut(int64_t width, std::byte* raw, int64_t count, const uint64_t* mask, int64_t bit) {
  switch (width) {
    case 1:
      return zero_cut<uint8_t>(raw, count, mask, bit);
    case 2:
      return zero_cut<uint16_t>(raw, count, mask, bit);
    case 4:
      return zero_cut<uint32_t>(raw, count, mask, bit);
    default:
      return zero_cut<uint64_t>(raw, count, mask, bit);
  }
}

}  // namespace coppice
