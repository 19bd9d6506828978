#include "kernels/cpu/isa/optimizer.hpp"
#include "kernels/cpu/isa/vector.hpp"

namespace coppice::cpu::COPPICE_ISA {
namespace {

// Compiled without contraction: g·g is rounded before it is added, here as on every other backend, because
// scores and so masks are made of these sums.
void accumulate(const float* gradients, float* sum, float* absolute, float* squared, int64_t n) {
  for_each_register(n, [=](int64_t i, auto lanes) {
    const Floats g = load(gradients + i, lanes);
    if (sum) store(sum + i, load(sum + i, lanes) + g, lanes);
    if (absolute) {
      const Floats size = floats_of(bits_of(g) & 0x7fff'ffff);
      store(absolute + i, load(absolute + i, lanes) + size, lanes);
    }
    if (squared) store(squared + i, load(squared + i, lanes) + g * g, lanes);
  });
}

}  // namespace

const StatisticsKernels& statistics_kernels() {
  static constexpr StatisticsKernels kernels = {accumulate};
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
