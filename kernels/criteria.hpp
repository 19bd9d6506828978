#pragma once

#include <cstdint>
#include <string_view>

// The criteria: functors from (weight, statistic, position) to a score, higher = more important, lowest cut
// first. One list; both backends' kernels, the program's help and the tests are made from it. Scores are
// float32 (for float64 tensors float64), one rounding per operation: files that instantiate these compile
// without contraction (-ffp-contract=off, --fmad=false).

#if defined(__CUDACC__)
#define COPPICE_HOST_DEVICE __host__ __device__ __forceinline__
#else
// Always inline: a copy that the compiler emits from a file built for AVX-512 could be the one that the
// linker keeps for everybody.
#define COPPICE_HOST_DEVICE [[gnu::always_inline]] inline
#endif

namespace coppice {

/// The statistic of the gradient that a criterion reads, summed over the batches of a pass.
enum class Statistic : uint8_t {
  none,
  sum,       // Σg
  absolute,  // Σ|g|
  squared,   // Σg²
};

namespace criteria {

// Each functor has a name (recipes, reports), a formula (help), the statistic that it reads, and says whether
// its score is a magnitude, with the sign bit clear (its bits are then in order as they are), and whether it
// is made from the position (and not from whole vectors of weights at a time: T is float, double, or a
// backend's vector of them, for which `absolute` is found by its type).

/// |x| by its sign bit: no branch, and a NaN stays one.
COPPICE_HOST_DEVICE constexpr float absolute(float x) {
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, x) & 0x7fff'ffffu);
}
COPPICE_HOST_DEVICE constexpr double absolute(double x) {
  return __builtin_bit_cast(double, __builtin_bit_cast(uint64_t, x) & 0x7fff'ffff'ffff'ffffull);
}

/// |w| (Han et al. 2015).
struct Magnitude {
  static constexpr std::string_view name = "magnitude";
  static constexpr std::string_view formula = "|w|";
  static constexpr Statistic statistic = Statistic::none;
  static constexpr bool non_negative = true;
  static constexpr bool by_position = false;
  template <class T>
  COPPICE_HOST_DEVICE static constexpr T score(T w, T, uint64_t, uint64_t) {
    return absolute(w);
  }
};

/// |Σg|: what the article calls the weight's gradient, of the mean loss.
struct Gradient {
  static constexpr std::string_view name = "gradient";
  static constexpr std::string_view formula = "|sum g|";
  static constexpr Statistic statistic = Statistic::sum;
  static constexpr bool non_negative = true;
  static constexpr bool by_position = false;
  template <class T>
  COPPICE_HOST_DEVICE static constexpr T score(T, T s, uint64_t, uint64_t) {
    return absolute(s);
  }
};

/// Σ|g|.
struct GradientAbsolute {
  static constexpr std::string_view name = "gradient-absolute";
  static constexpr std::string_view formula = "sum |g|";
  static constexpr Statistic statistic = Statistic::absolute;
  static constexpr bool non_negative = true;
  static constexpr bool by_position = false;
  template <class T>
  COPPICE_HOST_DEVICE static constexpr T score(T, T s, uint64_t, uint64_t) {
    return absolute(s);
  }
};

/// Σg².
struct GradientSquared {
  static constexpr std::string_view name = "gradient-squared";
  static constexpr std::string_view formula = "sum g^2";
  static constexpr Statistic statistic = Statistic::squared;
  static constexpr bool non_negative = true;
  static constexpr bool by_position = false;
  template <class T>
  COPPICE_HOST_DEVICE static constexpr T score(T, T s, uint64_t, uint64_t) {
    return absolute(s);
  }
};

/// |w·Σg|: first-order change of the loss (Molchanov et al. 2017, SNIP: Lee et al. 2019).
struct Taylor {
  static constexpr std::string_view name = "taylor";
  static constexpr std::string_view formula = "|w * sum g|";
  static constexpr Statistic statistic = Statistic::sum;
  static constexpr bool non_negative = true;
  static constexpr bool by_position = false;
  template <class T>
  COPPICE_HOST_DEVICE static constexpr T score(T w, T s, uint64_t, uint64_t) {
    return absolute(w * s);
  }
};

/// |w|·Σ|g|.
struct TaylorAbsolute {
  static constexpr std::string_view name = "taylor-absolute";
  static constexpr std::string_view formula = "|w| * sum |g|";
  static constexpr Statistic statistic = Statistic::absolute;
  static constexpr bool non_negative = true;
  static constexpr bool by_position = false;
  template <class T>
  COPPICE_HOST_DEVICE static constexpr T score(T w, T s, uint64_t, uint64_t) {
    return absolute(w * s);
  }
};

/// (Σg²)·(w·w), whose sign is that of a sum that should not be negative but may come from a file: second
/// order with the empirical Fisher for the Hessian's diagonal (OBD: LeCun et al. 1990).
struct Fisher {
  static constexpr std::string_view name = "fisher";
  static constexpr std::string_view formula = "sum g^2 * w^2";
  static constexpr Statistic statistic = Statistic::squared;
  static constexpr bool non_negative = false;
  static constexpr bool by_position = false;
  template <class T>
  COPPICE_HOST_DEVICE static constexpr T score(T w, T s, uint64_t, uint64_t) {
    return s * (w * w);
  }
};

/// Uniform in [0, 1), from (seed, position) alone: the control that every other score must beat.
struct Random {
  static constexpr std::string_view name = "random";
  static constexpr std::string_view formula = "uniform(seed, position)";
  static constexpr Statistic statistic = Statistic::none;
  static constexpr bool non_negative = true;
  static constexpr bool by_position = true;
  template <class T>
  COPPICE_HOST_DEVICE static constexpr T score(T, T, uint64_t position, uint64_t seed) {
    uint64_t z = position + seed * 0x9e37'79b9'7f4a'7c15ull;  // SplitMix64's finaliser (Steele et al. 2014)
    z = (z ^ (z >> 30)) * 0xbf58'476d'1ce4'e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d0'49bb'1331'11ebull;
    z ^= z >> 31;
    return static_cast<T>(z >> 40) * static_cast<T>(0x1p-24);
  }
};

template <class... C>
struct List {};
using All =
    List<Magnitude, Gradient, GradientAbsolute, GradientSquared, Taylor, TaylorAbsolute, Fisher, Random>;

}  // namespace criteria

/// The same list as values, in the list's order.
enum class Criterion : uint8_t {
  magnitude,
  gradient,
  gradient_absolute,
  gradient_squared,
  taylor,
  taylor_absolute,
  fisher,
  random
};

/// Calls f with the functor of `criterion`, so that a kernel is instantiated for each.
template <class F>
[[gnu::always_inline]] inline constexpr decltype(auto) visit(Criterion criterion, F&& f) {
  switch (criterion) {
    case Criterion::magnitude:
      return f(criteria::Magnitude{});
    case Criterion::gradient:
      return f(criteria::Gradient{});
    case Criterion::gradient_absolute:
      return f(criteria::GradientAbsolute{});
    case Criterion::gradient_squared:
      return f(criteria::GradientSquared{});
    case Criterion::taylor:
      return f(criteria::Taylor{});
    case Criterion::taylor_absolute:
      return f(criteria::TaylorAbsolute{});
    case Criterion::fisher:
      return f(criteria::Fisher{});
    case Criterion::random:
      break;
  }
  return f(criteria::Random{});
}

inline constexpr Criterion kCriteria[] = {
    Criterion::magnitude,        Criterion::gradient, Criterion::gradient_absolute,
    Criterion::gradient_squared, Criterion::taylor,   Criterion::taylor_absolute,
    Criterion::fisher,           Criterion::random};

constexpr std::string_view to_string(Criterion criterion) {
  return visit(criterion, [](auto c) { return decltype(c)::name; });
}
constexpr std::string_view formula(Criterion criterion) {
  return visit(criterion, [](auto c) { return decltype(c)::formula; });
}
constexpr Statistic statistic_of(Criterion criterion) {
  return visit(criterion, [](auto c) { return decltype(c)::statistic; });
}

}  // namespace coppice
