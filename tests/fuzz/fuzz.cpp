// The entry of a libFuzzer program; COPPICE_FUZZ_TARGET is a function of targets.hpp.

#include "tests/fuzz/targets.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  coppice::fuzz::COPPICE_FUZZ_TARGET(data, size);
  return 0;
}
