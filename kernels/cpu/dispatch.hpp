#pragma once

#include "kernels/cpu/isa.hpp"

// The table of kernels for an instruction set: COPPICE_KERNELS(isa, cell_kernels) is avx2::cell_kernels() and
// so on. A macro, because the tables live in namespaces of the same functions, and only some of them exist on
// a machine that is not x86.
#if defined(__x86_64__)
#define COPPICE_KERNELS(isa, table)                       \
  ((isa) == ::coppice::cpu::Isa::avx512 ? avx512::table() \
   : (isa) == ::coppice::cpu::Isa::avx2 ? avx2::table()   \
                                        : baseline::table())
#else
#define COPPICE_KERNELS(isa, table) (static_cast<void>(isa), baseline::table())
#endif

namespace coppice::cpu {

/// Threads for `work` elementary operations: 1 below the point where opening a parallel region costs more
/// than it saves (a few microseconds on an idle machine, milliseconds on a busy one).
constexpr int threads_for(int threads, int64_t work) {
  return work < 100'000 ? 1 : threads;
}

}  // namespace coppice::cpu
