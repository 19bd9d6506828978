#include "engine/bench/yardstick.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <vector>

#include "engine/bench/fma_peak.hpp"

namespace coppice::bench {
namespace {

constexpr long kLoops = 20'000;
constexpr int64_t kReadBytes = 32 << 20;    // of one measurement, in as many rounds as that takes
constexpr int64_t kMemoryBlock = 64 << 20;  // beyond this a block lies in no cache

/// Loads every byte once and uses none, in four streams, as kernels read weights: one stream alone waits for
/// the prefetcher. `bytes` is a multiple of 1024.
void read_block(const char* block, int64_t bytes) {
  const int64_t quarter = bytes / 4;
#if defined(__x86_64__)
#define COPPICE_LOADS(load, stream, step, reg) \
  load " (" stream ",%0),%%" reg "0\n" load " " step "(" stream ",%0),%%" reg "1\n"
#define COPPICE_READ_LOOP(load, half, whole, reg)                                                      \
  asm volatile("1:\n" COPPICE_LOADS(load, "%1", half, reg) COPPICE_LOADS(load, "%2", half, reg)        \
                   COPPICE_LOADS(load, "%3", half, reg)                                                \
                       COPPICE_LOADS(load, "%4", half, reg) "add $" whole ",%0\ncmp %5,%0\njb 1b\n"    \
               : "+r"(at)                                                                              \
               : "r"(block), "r"(block + quarter), "r"(block + 2 * quarter), "r"(block + 3 * quarter), \
                 "r"(quarter)                                                                          \
               : "cc", "memory", "xmm0", "xmm1")
  int64_t at = 0;
  if (__builtin_cpu_supports("avx512f")) {
    COPPICE_READ_LOOP("vmovaps", "64", "128", "zmm");
    asm volatile("vzeroupper");
  } else if (__builtin_cpu_supports("avx")) {
    COPPICE_READ_LOOP("vmovaps", "32", "64", "ymm");
    asm volatile("vzeroupper");
  } else {
    COPPICE_READ_LOOP("movaps", "16", "32", "xmm");
  }
#undef COPPICE_READ_LOOP
#undef COPPICE_LOADS
#else
  volatile char sink = 0;
  for (int64_t i = 0; i < quarter; i += 64) {
    for (int64_t stream = 0; stream < 4; ++stream) sink = block[stream * quarter + i];
  }
  (void)sink;
#endif
}

class Processor final : public Yardstick {
 public:
  explicit Processor(Backend& backend)
      : backend_(backend),
        threads_(std::max(1, backend.info().threads)),
        block_(backend, kMemoryBlock, "the block that is read") {
    backend.fill_zero(block_.data(), block_.bytes());
  }

  double flops() override {
    double operations = 0;
    const double start = now(backend_);
#pragma omp parallel for num_threads(threads_) schedule(static) reduction(+ : operations)
    for (int t = 0; t < threads_; ++t) operations += fma_loop(kLoops) * kLoops;
    return operations / (now(backend_) - start);
  }

  double bandwidth(int64_t bytes) override {
    const int64_t share = std::clamp<int64_t>(bytes / threads_, 1024, kMemoryBlock / threads_) / 1024 * 1024;
    const int64_t rounds = std::max<int64_t>(1, kReadBytes / threads_ / share);
    const char* block = static_cast<const char*>(block_.data());
    warm_up(backend_, [&] { read(block, share, 1); });  // into the caches
    const double start = now(backend_);
    read(block, share, rounds);
    return static_cast<double>(share * threads_ * rounds) / (now(backend_) - start);
  }

 private:
  void read(const char* block, int64_t share, int64_t rounds) const {
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int t = 0; t < threads_; ++t) {
      for (int64_t r = 0; r < rounds; ++r) read_block(block + t * share, share);
    }
  }

  Backend& backend_;
  int threads_;
  Buffer block_;
};

/// A GPU's, by its own libraries: a large dense product, and a copy that reads and writes.
class Accelerator final : public Yardstick {
 public:
  explicit Accelerator(Backend& backend) : backend_(backend) {
    for (Buffer& matrix : matrices_) {
      matrix = Buffer(backend, kSide * kSide * 4, "a matrix of the yardstick");
      backend.fill_zero(matrix.data(), matrix.bytes());
    }
    weight_ = backend.dense_weight(matrices_[0].matrix<const float>(kSide, kSide));
  }

  double flops() override {
    const auto x = matrices_[1].matrix<float>(kSide, kSide), y = matrices_[2].matrix<float>(kSide, kSide);
    return 2.0 * kSide * kSide * kSide / seconds([&] { weight_->multiply(x, {}, y); });
  }
  double bandwidth(int64_t bytes) override {
    bytes = std::clamp<int64_t>(bytes, 1 << 20, matrices_[1].bytes());
    return 2.0 * static_cast<double>(bytes) /
           seconds([&] { backend_.copy(matrices_[1].data(), matrices_[2].data(), bytes); });
  }

 private:
  static constexpr int64_t kSide = 4096;
  template <class Work>
  double seconds(Work work) {
    work();
    backend_.synchronize();
    const double start = now(backend_);
    work();
    backend_.synchronize();
    return now(backend_) - start;
  }

  Backend& backend_;
  Buffer matrices_[3];
  std::unique_ptr<Weight> weight_;
};

}  // namespace

std::unique_ptr<Yardstick> make_yardstick(Backend& backend) {
  if (backend.device().type == Device::Type::cpu) return std::make_unique<Processor>(backend);
  return std::make_unique<Accelerator>(backend);
}

double now(const Backend& backend) {
  return backend.info().threads == 1 ? thread_seconds() : wall_seconds();
}

int64_t preemptions() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

}  // namespace coppice::bench
