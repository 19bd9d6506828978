#pragma once

#include <string_view>

namespace coppice::cpu {

/// The instruction sets for which isa/ is compiled. One is chosen when the backend opens: the widest that
/// this processor has, or the one that the environment variable COPPICE_ISA names (baseline, avx2, avx512),
/// so that tests can run every path. Naming one that the processor lacks is an error.
enum class Isa { baseline, avx2, avx512 };

Isa choose_isa();
std::string_view to_string(Isa isa);
/// Whether a processor without this instruction set runs its kernels all the same, slowly: avx512 in a build
/// with COPPICE_EMULATE_AVX512, which is for tests.
bool emulated(Isa isa);

}  // namespace coppice::cpu
