#pragma once

#include <cstdint>

#ifndef COPPICE_HOST_DEVICE
#if defined(__CUDACC__)
#define COPPICE_HOST_DEVICE __host__ __device__
#else
#define COPPICE_HOST_DEVICE
#endif
#endif

// Counter-based random numbers: draw i of a stream is a pure function of (key, counter, i). So
// initialisation, shuffles and dropout masks are the same bits on every device, for any number of threads,
// and after a resume, and nothing of them has to be stored. The generator is Philox-4x32-10 (Salmon, Moraes,
// Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011); the known answers below are
// Random123's.

namespace coppice {

/// A stream of random numbers named by (key, counter). Streams that differ in either are independent.
struct RandomStream {
  uint64_t key = 0;      // from the run's seed and the consumer (a layer, a tensor, an epoch's shuffle)
  uint64_t counter = 0;  // the optimizer step, the epoch: another sequence at every step
};

/// Four 32-bit words: one block of the generator.
struct RandomBlock {
  uint32_t word[4];
};

/// The block function: ten rounds over the 128-bit counter under the 64-bit key.
COPPICE_HOST_DEVICE constexpr RandomBlock philox4x32_10(RandomBlock counter, uint32_t key0, uint32_t key1) {
  uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xd251'1f53u} * c0;
    const uint64_t product1 = uint64_t{0xcd9e'8d57u} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c1 = static_cast<uint32_t>(product1);
    c3 = static_cast<uint32_t>(product0);
    key0 += 0x9e37'79b9u;  // Weyl sequence: the golden ratio, and √3 − 1
    key1 += 0xbb67'ae85u;
  }
  return {{c0, c1, c2, c3}};
}

/// The mapping, the same on every device. Block number b of stream (key, counter) is Philox of the 128-bit
/// counter
///   word 0, 1 = b (low, high),  word 2, 3 = counter (low, high),  under the key (low, high);
/// draw i of the stream is word i % 4 of block i / 4.
COPPICE_HOST_DEVICE constexpr RandomBlock random_block(RandomStream stream, uint64_t block) {
  return philox4x32_10({{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                         static_cast<uint32_t>(stream.counter), static_cast<uint32_t>(stream.counter >> 32)}},
                       static_cast<uint32_t>(stream.key), static_cast<uint32_t>(stream.key >> 32));
}

/// Draw `index` of the stream: 32 random bits.
COPPICE_HOST_DEVICE constexpr uint32_t random_bits(RandomStream stream, uint64_t index) {
  return random_block(stream, index / 4).word[index % 4];
}

/// 32 random bits → a float in [0, 1): the upper 24 bits times 2⁻²⁴, exact.
COPPICE_HOST_DEVICE constexpr float to_uniform(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}

/// Draw `index` as a float in [0, 1).
COPPICE_HOST_DEVICE constexpr float random_uniform(RandomStream stream, uint64_t index) {
  return to_uniform(random_bits(stream, index));
}

/// Draws 2·`index` and 2·`index` + 1 together as a double in [0, 1), of 53 bits.
COPPICE_HOST_DEVICE constexpr double random_uniform_double(RandomStream stream, uint64_t index) {
  const uint64_t high = random_bits(stream, 2 * index), low = random_bits(stream, 2 * index + 1);
  return static_cast<double>(((high << 32) | low) >> 11) * 0x1p-53;
}

/// An integer in [0, bound), 1 <= bound < 2³², from draws 2·`index` and 2·`index` + 1: ⌊x·bound / 2⁶⁴⌋ of the
/// 64-bit x they make. Its bias is below bound / 2⁶⁴.
COPPICE_HOST_DEVICE constexpr uint32_t random_below(RandomStream stream, uint64_t index, uint32_t bound) {
  const uint64_t high = random_bits(stream, 2 * index), low = random_bits(stream, 2 * index + 1);
  return static_cast<uint32_t>((high * bound + ((low * bound) >> 32)) >> 32);
}

/// Fisher–Yates over data[0, size), size < 2³²: step i (from size − 1 down to 1) swaps i with random_below(i,
/// i + 1).
template <class T>
constexpr void shuffle(T* data, int64_t size, RandomStream stream) {
  for (int64_t i = size - 1; i > 0; --i) {
    const int64_t j = random_below(stream, static_cast<uint64_t>(i), static_cast<uint32_t>(i + 1));
    const T moved = data[i];
    data[i] = data[j];
    data[j] = moved;
  }
}

/// A key for each consumer from one seed, so that layers and tensors draw from streams of their own:
/// SplitMix64's finaliser (Steele, Lea, Flood 2014) over seed and number.
COPPICE_HOST_DEVICE constexpr uint64_t derive_key(uint64_t seed, uint64_t number) {
  uint64_t z = seed + (number + 1) * 0x9e37'79b9'7f4a'7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58'476d'1ce4'e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d0'49bb'1331'11ebull;
  return z ^ (z >> 31);
}

// Random123's known answers (kat_vectors): counter and key all zeros, and the digits of π.
static_assert(philox4x32_10({{0, 0, 0, 0}}, 0, 0).word[0] == 0x6627'e8d5u);
static_assert(philox4x32_10({{0x243f'6a88u, 0x85a3'08d3u, 0x1319'8a2eu, 0x0370'7344u}}, 0xa409'3822u,
                            0x299f'31d0u)
                  .word[3] == 0x2412'6ea1u);

}  // namespace coppice
