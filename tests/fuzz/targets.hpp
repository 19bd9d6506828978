#pragma once

#include <cstddef>
#include <cstdint>

// What the readers make of any bytes: an answer or Error(bad_input), never a crash, an endless loop or memory
// for bytes that are not there. Each is the entry of a libFuzzer program (COPPICE_FUZZ) and is replayed over
// the committed corpus by the test suite.

namespace coppice::fuzz {

void safetensors(const uint8_t* data, size_t size);  ///< a .safetensors file
void shards(const uint8_t* data, size_t size);       ///< an index, beside a shard that is whole
void npz(const uint8_t* data, size_t size);          ///< an .npz or .npy file
void sparse(const uint8_t* data, size_t size);       ///< a file that says it is in the sparse encoding

struct Target {
  const char* name;  // of its corpus
  void (*run)(const uint8_t* data, size_t size);
};
inline constexpr Target kTargets[] = {
    {"safetensors", safetensors}, {"shards", shards}, {"npz", npz}, {"sparse", sparse}};

}  // namespace coppice::fuzz
