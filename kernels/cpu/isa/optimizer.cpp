#include "kernels/cpu/isa/optimizer.hpp"

#include "kernels/cpu/isa/vector.hpp"

namespace coppice::cpu::COPPICE_ISA {
namespace {

constexpr uint64_t kKeepAll = ~uint64_t{0};

/// x where the mask bit of its lane is 1, else +0. `bits`: the lanes' bits from bit 0 on.
inline Floats keep(Floats x, uint64_t bits) {
#if defined(COPPICE_ISA_avx512)
  return _mm512_maskz_mov_ps(static_cast<__mmask16>(bits), x);
#else
  Ints lane_bit;
  for (int i = 0; i < kLanes; ++i) lane_bit[i] = 1 << i;
  return floats_of(bits_of(x) & (((Ints{} | static_cast<int32_t>(bits)) & lane_bit) == lane_bit));
#endif
}

/// Calls body(i, lanes, bits) for consecutive registers covering [0, n); a null mask keeps everything.
template <class Body>
inline void for_each_masked(int64_t n, const uint64_t* mask, Body body) {
  if (mask == nullptr) {
    for_each_register(n, [&](int64_t i, auto lanes) { body(i, lanes, kKeepAll); });
    return;
  }
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const uint64_t word = mask[i / 64];
    for (int k = 0; k < 64; k += kLanes) body(i + k, AllLanes{}, word >> k);
  }
  if (i < n) {
    const uint64_t word = mask[i / 64];
    for_each_register(n - i, [&](int64_t k, auto lanes) { body(i + k, lanes, word >> k); });
  }
}

// The rules: new value from (w, g) and the state, which they change. The caller masks all of them.
struct Sgd {
  static constexpr int kSlots = 0;
  float rate, decay;
  explicit Sgd(const UpdateNumbers& u) : rate(u.settings.rate), decay(u.settings.weight_decay) {}
  Floats operator()(Floats w, Floats g, Floats&, Floats&) const { return w - rate * (g + decay * w); }
};

template <bool nesterov>
struct Momentum {
  static constexpr int kSlots = 1;
  float rate, decay, momentum;
  explicit Momentum(const UpdateNumbers& u)
      : rate(u.settings.rate), decay(u.settings.weight_decay), momentum(u.settings.momentum) {}
  Floats operator()(Floats w, Floats g, Floats& velocity, Floats&) const {
    g += decay * w;
    velocity = momentum * velocity + g;
    return w - rate * (nesterov ? g + momentum * velocity : velocity);
  }
};

template <bool epsilon_inside_root>
struct RmsProp {
  static constexpr int kSlots = 1;
  float rate, decay, rho, epsilon;
  explicit RmsProp(const UpdateNumbers& u)
      : rate(u.settings.rate),
        decay(u.settings.weight_decay),
        rho(u.settings.decay_rate),
        epsilon(u.settings.epsilon) {}
  Floats operator()(Floats w, Floats g, Floats& square, Floats&) const {
    g += decay * w;
    square = rho * square + (1.0f - rho) * (g * g);
    const Floats divisor =
        epsilon_inside_root ? square_root(square + epsilon) : square_root(square) + epsilon;
    return w - rate * g / divisor;
  }
};

template <bool decoupled>
struct Adam {
  static constexpr int kSlots = 2;
  float rate, decay, beta1, beta2, epsilon, step_size, root_scale;
  explicit Adam(const UpdateNumbers& u)
      : rate(u.settings.rate),
        decay(u.settings.weight_decay),
        beta1(u.settings.beta1),
        beta2(u.settings.beta2),
        epsilon(u.settings.epsilon),
        step_size(u.step_size),
        root_scale(u.root_scale) {}
  Floats operator()(Floats w, Floats g, Floats& mean, Floats& square) const {
    if (decoupled) {
      w -= rate * decay * w;
    } else {
      g += decay * w;
    }
    mean = beta1 * mean + (1.0f - beta1) * g;
    square = beta2 * square + (1.0f - beta2) * (g * g);
    return w - step_size * mean / (square_root(square) * root_scale + epsilon);
  }
};

/// The arrays of a step over some elements.
struct Arrays {
  float* values;
  const float* gradients;
  float* state0;
  float* state1;
};

template <class Rule, class Lanes>
inline void step_register(const Rule& rule, float scale, const Arrays& a, int64_t i, Lanes lanes,
                          uint64_t bits) {
  Floats s0{}, s1{};
  if constexpr (Rule::kSlots > 0) s0 = load(a.state0 + i, lanes);
  if constexpr (Rule::kSlots > 1) s1 = load(a.state1 + i, lanes);
  const Floats w = rule(load(a.values + i, lanes), load(a.gradients + i, lanes) * scale, s0, s1);
  store(a.values + i, keep(w, bits), lanes);
  if constexpr (Rule::kSlots > 0) store(a.state0 + i, keep(s0, bits), lanes);
  if constexpr (Rule::kSlots > 1) store(a.state1 + i, keep(s1, bits), lanes);
}

template <class Rule>
void run(const UpdateNumbers& numbers, const Arrays& arrays, const uint64_t* mask, int64_t n) {
  const Rule rule(numbers);
  const float scale = numbers.gradient_scale;
  for_each_masked(n, mask, [=](int64_t i, auto lanes, uint64_t bits) {
    step_register(rule, scale, arrays, i, lanes, bits);
  });
}

/// Without momentum and decay a weight whose gradient is 0 stays as it is, so where a whole word's gradients
/// are, its weights are not even read: an embedding's gradient has rows for the batch's few tokens only, and
/// this pass is bound by memory.
void run_plain_sgd(const UpdateNumbers& numbers, const Arrays& arrays, const uint64_t* mask, int64_t n) {
  const Sgd rule(numbers);
  const float scale = numbers.gradient_scale;
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const uint64_t word = mask ? mask[i / 64] : kKeepAll;
    Ints any{};
    for (int k = 0; k < 64; k += kLanes) any |= bits_of(load(arrays.gradients + i + k, AllLanes{}));
    if (word == kKeepAll && !any_bit(any & 0x7fff'ffff)) continue;
    for (int k = 0; k < 64; k += kLanes) step_register(rule, scale, arrays, i + k, AllLanes{}, word >> k);
  }
  const Arrays rest = {arrays.values + i, arrays.gradients + i, nullptr, nullptr};
  run<Sgd>(numbers, rest, mask ? mask + i / 64 : nullptr, n - i);
}

void update(const UpdateNumbers& numbers, float* values, const float* gradients, const uint64_t* mask,
            float* state0, float* state1, int64_t n) {
  const OptimizerSettings& s = numbers.settings;
  const auto call = [&](auto run_rule) { run_rule(numbers, {values, gradients, state0, state1}, mask, n); };
  switch (s.kind) {
    case OptimizerKind::sgd:
      if (s.momentum == 0.0f) return s.weight_decay == 0.0f ? call(run_plain_sgd) : call(run<Sgd>);
      return s.nesterov ? call(run<Momentum<true>>) : call(run<Momentum<false>>);
    case OptimizerKind::rmsprop:
      return s.epsilon_inside_root ? call(run<RmsProp<true>>) : call(run<RmsProp<false>>);
    case OptimizerKind::adam:
      return call(run<Adam<false>>);
    case OptimizerKind::adamw:
      return call(run<Adam<true>>);
  }
}

/// sums += the squares of g's lanes, the lower and the upper half apart; exact products, since 2·24 bits fit
/// in 53.
inline void add_squares(Floats g, Doubles* sums) {
  HalfFloats half[2];
  __builtin_memcpy(half, &g, sizeof(g));
  const Doubles lower = widen(half[0]);
  const Doubles upper = widen(half[1]);
  sums[0] += lower * lower;
  sums[1] += upper * upper;
}

// Whole words of 64 elements at a time, so that which of the running sums an element goes to is known at
// compile time and they stay in registers.
double sum_of_squares(const float* gradients, const uint64_t* mask, int64_t n) {
  Doubles sums[4] = {};
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const uint64_t word = mask ? mask[i / 64] : kKeepAll;
#pragma GCC unroll 16
    for (int k = 0; k < 64; k += kLanes) {
      add_squares(keep(load(gradients + i + k, AllLanes{}), word >> k), sums + k / kLanes % 2 * 2);
    }
  }
  if (i < n) {
    const uint64_t word = mask ? mask[i / 64] : kKeepAll;
    for_each_register(n - i, [&](int64_t k, auto lanes) {
      add_squares(keep(load(gradients + i + k, lanes), word >> k), sums);
    });
  }
  return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

void apply_mask(float* values, const uint64_t* mask, int64_t n) {
  for_each_masked(n, mask, [=](int64_t i, auto lanes, uint64_t bits) {
    store(values + i, keep(load(values + i, lanes), bits), lanes);
  });
}

}  // namespace

const OptimizerKernels& optimizer_kernels() {
  static constexpr OptimizerKernels kernels = {sum_of_squares, update, apply_mask};
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
