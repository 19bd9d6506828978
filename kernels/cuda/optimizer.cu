#include <cmath>

#include "kernels/criteria.hpp"
#include "kernels/cuda/context.hpp"
#include "kernels/cuda/quad.cuh"
#include "kernels/optimizer.hpp"

// One launch over all parameters, a quad of them a thread, and bound by memory: 12 bytes a parameter for
// plain SGD up to 28 for Adam. Compiled without contraction: the statistics are what scores are made of.

namespace coppice::cuda {
namespace {

constexpr int kThreads = 256;

/// A step's numbers, as the rules want them.
struct StepNumbers {
  float rate, weight_decay, momentum, decay_rate, beta1, beta2, epsilon;
  float step_size;   // adam: rate / (1 − β₁ᵗ)
  float root_scale;  // adam: 1 / √(1 − β₂ᵗ)
};

StepNumbers numbers_of(const OptimizerSettings& s) {
  const double step = static_cast<double>(s.step);
  return {s.rate,
          s.weight_decay,
          s.momentum,
          s.decay_rate,
          s.beta1,
          s.beta2,
          s.epsilon,
          static_cast<float>(s.rate / (1.0 - std::pow(double{s.beta1}, step))),
          static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(double{s.beta2}, step)))};
}

// The rules: the new weight from (w, g) and the state, which they change. The caller masks all of them.
// kIdle: without a gradient the weight stays as it is.

template <bool decays>
struct Sgd {
  static constexpr int kSlots = 0;
  static constexpr bool kIdle = !decays;
  __device__ static float step(const StepNumbers& n, float w, float g, float&, float&) {
    return w - n.rate * (g + n.weight_decay * w);
  }
};

template <bool nesterov>
struct Momentum {
  static constexpr int kSlots = 1;
  static constexpr bool kIdle = false;
  __device__ static float step(const StepNumbers& n, float w, float g, float& velocity, float&) {
    g += n.weight_decay * w;
    velocity = n.momentum * velocity + g;
    return w - n.rate * (nesterov ? g + n.momentum * velocity : velocity);
  }
};

template <bool epsilon_inside_root>
struct RmsProp {
  static constexpr int kSlots = 1;
  static constexpr bool kIdle = false;
  __device__ static float step(const StepNumbers& n, float w, float g, float& square, float&) {
    g += n.weight_decay * w;
    square = n.decay_rate * square + (1.0f - n.decay_rate) * (g * g);
    const float divisor = epsilon_inside_root ? sqrtf(square + n.epsilon) : sqrtf(square) + n.epsilon;
    return w - n.rate * g / divisor;
  }
};

template <bool decoupled>
struct Adam {
  static constexpr int kSlots = 2;
  static constexpr bool kIdle = false;
  __device__ static float step(const StepNumbers& n, float w, float g, float& mean, float& square) {
    if (decoupled) {
      w -= n.rate * n.weight_decay * w;
    } else {
      g += n.weight_decay * w;
    }
    mean = n.beta1 * mean + (1.0f - n.beta1) * g;
    square = n.beta2 * square + (1.0f - n.beta2) * (g * g);
    return w - n.step_size * mean / (sqrtf(square) * n.root_scale + n.epsilon);
  }
};

/// The elements that a thread takes at a time, and how they are accessed.
struct QuadAt {
  int64_t index;
  unsigned inside;  // bit k: element index + k exists
  bool whole;       // and all four may be accessed at once

  __device__ Quad<float> load(const float* data) const {
    return whole ? load_quad(data + index) : load_some(data + index, inside);
  }
  __device__ void store(float* data, const Quad<float>& quad) const {
    if (whole) {
      store_quad(data + index, quad);
    } else {
      store_some(data + index, quad, inside);
    }
  }
  /// The quad's mask bits; sixteen neighbouring threads read the same word.
  __device__ unsigned kept(const uint64_t* mask) const {
    return mask == nullptr ? inside : inside & static_cast<unsigned>(mask[index / 64] >> (index % 64));
  }
};

/// Calls visit(quad) for the quads among elements [begin, end) that are this thread's, of `threads` that
/// share them. `begin` is a multiple of four.
template <class Visit>
__device__ inline void for_quads(int64_t begin, int64_t end, int64_t thread, int64_t threads, bool aligned,
                                 Visit visit) {
  for (int64_t index = begin + kQuad * thread; index < end; index += kQuad * threads) {
    QuadAt quad{index, quad_inside(index, end), false};
    quad.whole = aligned && quad.inside == kWholeQuad;
    visit(quad);
  }
}
/// The same over n elements and the whole grid.
template <class Visit>
__device__ inline void for_all_quads(int64_t n, bool aligned, Visit visit) {
  for_quads(0, n, int64_t{blockIdx.x} * blockDim.x + threadIdx.x, int64_t{gridDim.x} * blockDim.x, aligned,
            visit);
}

/// The arrays of a step; states that the rule has none of are null.
struct Arrays {
  float* values;
  const float* gradients;
  float* state0;
  float* state1;
  const uint64_t* mask;
  int64_t size;
  bool aligned;
};

__device__ inline bool is_finite(double x) {
  return criteria::absolute(x) < __builtin_huge_val();
}

/// The gradient's norm comes from the device, where gradient_norm left it: the host need not wait for it.
template <class Rule>
__global__ void __launch_bounds__(kThreads)
    update_kernel(StepNumbers numbers, float clip, const double* norm, Arrays a) {
  float scale = 1.0f;
  if (norm != nullptr) {
    const double length = *norm;
    if (!is_finite(length)) return;
    if (clip > 0.0f && length > clip) scale = static_cast<float>(clip / length);
  }
  for_all_quads(a.size, a.aligned, [&](const QuadAt& at) {
    const Quad<float> g = at.load(a.gradients);
    const unsigned keep = at.kept(a.mask);
    if constexpr (Rule::kIdle) {
      // An embedding's gradient has rows for the batch's few tokens only; of the others not even the weights
      // are read.
      const bool idle = g.at[0] == 0.0f && g.at[1] == 0.0f && g.at[2] == 0.0f && g.at[3] == 0.0f;
      if (idle && keep == at.inside) return;
    }
    Quad<float> w = at.load(a.values), s0, s1;
    if constexpr (Rule::kSlots > 0) s0 = at.load(a.state0);
    if constexpr (Rule::kSlots > 1) s1 = at.load(a.state1);
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      float first = Rule::kSlots > 0 ? s0.at[k] : 0.0f, second = Rule::kSlots > 1 ? s1.at[k] : 0.0f;
      const float value = Rule::step(numbers, w.at[k], g.at[k] * scale, first, second);
      const bool kept = (keep >> k & 1) != 0;
      w.at[k] = kept ? value : 0.0f;
      s0.at[k] = kept ? first : 0.0f;
      s1.at[k] = kept ? second : 0.0f;
    }
    at.store(a.values, w);
    if constexpr (Rule::kSlots > 0) at.store(a.state0, s0);
    if constexpr (Rule::kSlots > 1) at.store(a.state1, s1);
  });
}

/// Only what is cut is written, and nothing but the mask is read.
__global__ void __launch_bounds__(kThreads)
    apply_mask_kernel(float* values, const uint64_t* mask, int64_t n, bool aligned) {
  for_all_quads(n, aligned, [&](const QuadAt& at) {
    const unsigned keep = at.kept(mask);
    if (at.whole && keep == 0) {
      store_quad(values + at.index, Quad<float>{});
    } else {
      store_some(values + at.index, Quad<float>{}, at.inside & ~keep);
    }
  });
}

/// sum[i] += term(g[i]), where the sum is wanted.
template <class Term>
__device__ inline void add_terms(float* sum, const QuadAt& at, const Quad<float>& g, Term term) {
  if (sum == nullptr) return;
  Quad<float> total = at.load(sum);
#pragma unroll
  for (int k = 0; k < kQuad; ++k) total.at[k] += term(g.at[k]);
  at.store(sum, total);
}

__global__ void __launch_bounds__(kThreads)
    statistics_kernel(const float* gradients, float* sum, float* absolute, float* squared, int64_t n,
                      bool aligned) {
  for_all_quads(n, aligned, [&](const QuadAt& at) {
    const Quad<float> g = at.load(gradients);
    add_terms(sum, at, g, [](float x) { return x; });
    add_terms(absolute, at, g, [](float x) { return criteria::absolute(x); });
    add_terms(squared, at, g, [](float x) { return x * x; });
  });
}

// The norm. Which elements a partial sum is made of, and in which order, follows from their number alone:
// never from the device or from how threads are scheduled.

constexpr int64_t kPartials = 1024;  // at most
constexpr int64_t kSweep = kThreads * kQuad;

/// The sum over a block's threads, which all of them call, in a fixed order; for thread 0.
__device__ inline double block_sum(double value) {
  COPPICE_SHARED(double, sums, [kThreads / kWarp]);
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kFullMask, value, step);
  if (lane_index() == 0) sums[warp_index()] = value;
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x == 0) {
    for (int warp = 0; warp < kThreads / kWarp; ++warp) total += sums[warp];
  }
  return total;
}

/// Block b: Σ g² over kept elements of [b · chunk, (b + 1) · chunk). The squares are exact in double.
__global__ void __launch_bounds__(kThreads)
    partial_norms_kernel(const float* gradients, const uint64_t* mask, int64_t n, int64_t chunk, bool aligned,
                         double* partials) {
  const int64_t begin = blockIdx.x * chunk, end = begin + chunk < n ? begin + chunk : n;
  double sums[kQuad] = {};
  for_quads(begin, end, threadIdx.x, kThreads, aligned, [&](const QuadAt& at) {
    const Quad<float> g = at.load(gradients);
    const unsigned keep = at.kept(mask);
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      const double x = (keep >> k & 1) != 0 ? static_cast<double>(g.at[k]) : 0.0;
      sums[k] += x * x;
    }
  });
  const double sum = block_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) norm_kernel(const double* partials, int64_t count, double* norm) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partials[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *norm = sqrt(sum);
}

template <class T>
T* data_of(VectorView<T> view) {
  return view.empty() ? nullptr : view.data;
}

class CudaOptimizer final : public OptimizerOps {
 public:
  explicit CudaOptimizer(CudaContext& context)
      : context_(context), partials_(*context.memory, "the gradient norm's partial sums") {
    partials_.reserve<double>(kPartials);  // now: later the stream may be captured
  }

 private:
  void gradient_norm_impl(VectorView<const float> gradients, VectorView<const uint64_t> mask,
                          VectorView<double> norm) override {
    context_.make_current();
    const int64_t n = gradients.size, most = kPartials * kSweep;
    const int64_t chunk = (n + most - 1) / most * kSweep;
    const int64_t count = n == 0 ? 0 : (n + chunk - 1) / chunk;
    double* partials = partials_.reserve<double>(kPartials);
    launch(partial_norms_kernel, static_cast<unsigned>(count), kThreads, 0, context_.stream, gradients.data,
           data_of(mask), n, chunk, aligned_to_quad(gradients.data), partials);
    launch(norm_kernel, 1, kThreads, 0, context_.stream, partials, count, norm.data);
  }

  /// The step's numbers are arguments of the launch, which nothing is quicker than and which need no copy
  /// that would have to be waited for before they are changed. A captured graph would repeat this step's for
  /// ever, and there is no way to tell it the next one's; so a capture is refused.
  void update_impl(const OptimizerSettings& settings, float clip, VectorView<const double> norm,
                   VectorView<float> values, VectorView<const float> gradients,
                   VectorView<const uint64_t> mask, VectorView<float> state0,
                   VectorView<float> state1) override {
    context_.make_current();
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    COPPICE_CUDA(cudaStreamIsCapturing(context_.stream, &capture));
    if (capture != cudaStreamCaptureStatusNone) {
      failure("an optimizer's step can't be captured: a replay would repeat its rate and step number");
    }
    const Arrays arrays = {values.data,
                           gradients.data,
                           data_of(state0),
                           data_of(state1),
                           data_of(mask),
                           values.size,
                           aligned_to_quad(values.data) && aligned_to_quad(gradients.data) &&
                               aligned_to_quad(data_of(state0)) && aligned_to_quad(data_of(state1))};
    const auto run = [&]<class Rule>(Rule) {
      launch(update_kernel<Rule>, blocks_over(values.size), kThreads, 0, context_.stream,
             numbers_of(settings), clip, data_of(norm), arrays);
    };
    switch (settings.kind) {
      case OptimizerKind::sgd:
        if (settings.momentum == 0.0f) {
          return settings.weight_decay == 0.0f ? run(Sgd<false>{}) : run(Sgd<true>{});
        }
        return settings.nesterov ? run(Momentum<true>{}) : run(Momentum<false>{});
      case OptimizerKind::rmsprop:
        return settings.epsilon_inside_root ? run(RmsProp<true>{}) : run(RmsProp<false>{});
      case OptimizerKind::adam:
        return run(Adam<false>{});
      case OptimizerKind::adamw:
        return run(Adam<true>{});
    }
  }

  void apply_mask_impl(VectorView<float> values, VectorView<const uint64_t> mask) override {
    context_.make_current();
    launch(apply_mask_kernel, blocks_over(values.size), kThreads, 0, context_.stream, values.data, mask.data,
           values.size, aligned_to_quad(values.data));
  }

  void accumulate_statistics_impl(VectorView<const float> gradients, VectorView<float> sum,
                                  VectorView<float> absolute, VectorView<float> squared) override {
    context_.make_current();
    const bool aligned = aligned_to_quad(gradients.data) && aligned_to_quad(data_of(sum)) &&
                         aligned_to_quad(data_of(absolute)) && aligned_to_quad(data_of(squared));
    launch(statistics_kernel, blocks_over(gradients.size), kThreads, 0, context_.stream, gradients.data,
           data_of(sum), data_of(absolute), data_of(squared), gradients.size, aligned);
  }

  /// As many blocks as run at once, or fewer.
  unsigned blocks_over(int64_t elements) const {
    return blocks_for((elements + kQuad - 1) / kQuad, kThreads, context_.full_grid(8));
  }

  CudaContext& context_;
  Scratch partials_;
};

}  // namespace

std::unique_ptr<OptimizerOps> make_optimizer(CudaContext& context) {
  return std::make_unique<CudaOptimizer>(context);
}

}  // namespace coppice::cuda
