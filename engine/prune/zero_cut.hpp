#pragma once

#include <cstddef>
#include <cstdint>

namespace coppice {

/// Zeroes those of `count` elements of `width` bytes (1, 2, 4, 8), at any alignment on the host, whose bits
/// of `mask` are 0. `bit` is that of the first: element i's is bit (bit + i) % 64 of word (bit + i) / 64.
void zero_cut(int64_t width, std::byte* raw, int64_t count, const uint64_t* mask, int64_t bit);

}  // namespace coppice
