#include "kernels/cpu/isa.hpp"

#include <cstdlib>
#include <string>

#include "kernels/error.hpp"

namespace coppice::cpu {
namespace {

/// Every feature that the compiler may use under the -march of this instruction set
/// (kernels/cpu/CMakeLists.txt).
bool supported([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 =
      __builtin_cpu_supports("avx") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c") &&
      __builtin_cpu_supports("lzcnt") && __builtin_cpu_supports("movbe") && __builtin_cpu_supports("popcnt");
  switch (isa) {
    case Isa::baseline:
      return true;
    case Isa::avx2:
      return v3;
    case Isa::avx512:
      if (emulated(isa)) return v3;
      return v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
  }
  return false;
#else
  return isa == Isa::baseline;
#endif
}

}  // namespace

Isa choose_isa() {
  const char* wanted = std::getenv("COPPICE_ISA");
  for (const Isa isa : {Isa::avx512, Isa::avx2, Isa::baseline}) {
    if (wanted == nullptr || *wanted == '\0') {
      if (supported(isa)) return isa;
    } else if (wanted == to_string(isa)) {
      if (supported(isa)) return isa;
      bad_input("COPPICE_ISA is {}, which this processor does not have", wanted);
    }
  }
  bad_input("COPPICE_ISA is \"{}\", expected baseline, avx2 or avx512", wanted);
}

bool emulated([[maybe_unused]] Isa isa) {
#if defined(COPPICE_EMULATE_AVX512)
  return isa == Isa::avx512;
#else
  return false;
#endif
}

std::string_view to_string(Isa isa) {
  switch (isa) {
    case Isa::baseline:
      return "baseline";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
  }
  return "?";
}

}  // namespace coppice::cpu
