#pragma once

#include <ctime>

namespace coppice::bench {

/// CPU time of this thread: what another job's turns on the processor don't count into.
inline double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}
inline double wall_seconds() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

/// `loops` rounds of sixteen fused multiply-adds on registers alone, the widest that the processor has;
/// returns the floating-point operations done. Assembly, because compilers spilled or folded every C++
/// version of it; the yardstick must be the machine's, not the compiler's.
inline double fma_loop(long loops) {
#if defined(__x86_64__)
#define COPPICE_FMA(reg) "vfmadd231ps %%" reg "mm14,%%" reg "mm15,%%" reg "mm"
#define COPPICE_FMA_LOOP(reg) \
  "1:\n" COPPICE_FMA(reg) "0\n" COPPICE_FMA(reg) "1\n" COPPICE_FMA(reg) "2\n" COPPICE_FMA(reg) "3\n"      \
      COPPICE_FMA(reg) "4\n" COPPICE_FMA(reg) "5\n" COPPICE_FMA(reg) "6\n" COPPICE_FMA(reg) "7\n"         \
      COPPICE_FMA(reg) "8\n" COPPICE_FMA(reg) "9\n" COPPICE_FMA(reg) "10\n" COPPICE_FMA(reg) "11\n"       \
      "dec %0\njnz 1b\nvzeroupper\n"
  if (__builtin_cpu_supports("avx512f")) {
    asm volatile("vpxorq %%zmm14,%%zmm14,%%zmm14\nvpxorq %%zmm15,%%zmm15,%%zmm15\n" COPPICE_FMA_LOOP("z")
                 : "+r"(loops)::"cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                   "xmm9", "xmm10", "xmm11", "xmm14", "xmm15");
    return 12 * 32.0;
  }
  if (__builtin_cpu_supports("fma")) {
    asm volatile("vxorps %%ymm14,%%ymm14,%%ymm14\nvxorps %%ymm15,%%ymm15,%%ymm15\n" COPPICE_FMA_LOOP("y")
                 : "+r"(loops)::"cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                   "xmm9", "xmm10", "xmm11", "xmm14", "xmm15");
    return 12 * 16.0;
  }
#undef COPPICE_FMA
#undef COPPICE_FMA_LOOP
#endif
  return 0;
}

/// Peak of one thread in this very moment, GFLOP/s (0 where the loop has no form for the processor).
inline double fma_peak(long loops = 100'000) {
  const double start = thread_seconds();
  const double operations = fma_loop(loops) * static_cast<double>(loops);
  return operations / (thread_seconds() - start) * 1e-9;
}

}  // namespace coppice::bench
