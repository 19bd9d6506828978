#include "kernels/cpu/optimizer.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/dispatch.hpp"

namespace coppice::cpu {
namespace {

constexpr int64_t kChunk = 65'536;  // elements: 256 KiB of each array, whole words of mask

int64_t chunk_count(int64_t n) {
  return (n + kChunk - 1) / kChunk;
}

/// Calls body(chunk, begin, count) for every chunk of n elements.
template <class Body>
void for_each_chunk(int threads, int64_t n, Body body) {
  const int64_t chunks = chunk_count(n);
#pragma omp parallel for num_threads(threads_for(threads, n)) schedule(dynamic)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = chunk * kChunk;
    body(chunk, begin, std::min(kChunk, n - begin));
  }
}

template <class T>
T* at(VectorView<T> view, int64_t begin) {
  return view.empty() ? nullptr : view.data + begin;
}
const uint64_t* words_at(VectorView<const uint64_t> mask, int64_t begin) {
  return mask.empty() ? nullptr : mask.data + begin / 64;
}

}  // namespace

CpuOptimizer::CpuOptimizer(const CpuContext& context)
    : context_(context),
      kernels_(COPPICE_KERNELS(context.isa, optimizer_kernels)),
      statistics_(COPPICE_KERNELS(context.isa, statistics_kernels)) {}

void CpuOptimizer::gradient_norm_impl(VectorView<const float> gradients, VectorView<const uint64_t> mask,
                                      VectorView<double> norm) {
  partial_.resize(static_cast<size_t>(chunk_count(gradients.size)));
  for_each_chunk(context_.threads, gradients.size, [&](int64_t chunk, int64_t begin, int64_t count) {
    partial_[static_cast<size_t>(chunk)] =
        kernels_.sum_of_squares(gradients.data + begin, words_at(mask, begin), count);
  });
  double sum = 0.0;
  for (const double partial : partial_) sum += partial;
  norm.data[0] = std::sqrt(sum);
}

void CpuOptimizer::update_impl(const OptimizerSettings& settings, float clip, VectorView<const double> norm,
                               VectorView<float> values, VectorView<const float> gradients,
                               VectorView<const uint64_t> mask, VectorView<float> state0,
                               VectorView<float> state1) {
  UpdateNumbers numbers;
  numbers.settings = settings;
  if (!norm.empty()) {
    if (!std::isfinite(norm.data[0])) return;
    if (clip > 0.0f && norm.data[0] > clip) numbers.gradient_scale = static_cast<float>(clip / norm.data[0]);
  }
  const double step = static_cast<double>(settings.step);
  numbers.step_size = static_cast<float>(settings.rate / (1.0 - std::pow(double{settings.beta1}, step)));
  numbers.root_scale = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(double{settings.beta2}, step)));
  for_each_chunk(context_.threads, values.size, [&](int64_t, int64_t begin, int64_t count) {
    kernels_.update(numbers, values.data + begin, gradients.data + begin, words_at(mask, begin),
                    at(state0, begin), at(state1, begin), count);
  });
}

void CpuOptimizer::apply_mask_impl(VectorView<float> values, VectorView<const uint64_t> mask) {
  for_each_chunk(context_.threads, values.size, [&](int64_t, int64_t begin, int64_t count) {
    kernels_.apply_mask(values.data + begin, words_at(mask, begin), count);
  });
}

void CpuOptimizer::accumulate_statistics_impl(VectorView<const float> gradients, VectorView<float> sum,
                                              VectorView<float> absolute, VectorView<float> squared) {
  for_each_chunk(context_.threads, gradients.size, [&](int64_t, int64_t begin, int64_t count) {
    statistics_.accumulate(gradients.data + begin, at(sum, begin), at(absolute, begin), at(squared, begin),
                           count);
  });
}

std::unique_ptr<OptimizerOps> make_optimizer(const CpuContext& context) {
  return std::make_unique<CpuOptimizer>(context);
}

}  // namespace coppice::cpu
