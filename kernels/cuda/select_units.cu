#include "kernels/cuda/select_tiles.cuh"

// Scores of rows and columns. A unit's elements are added (or multiplied) in index order, each with a
// rounding of its own, because that is what makes the result the same everywhere: a chain that nothing can be
// done in parallel about. What can be is all else: 32 units to a thread block, whose threads fetch a tile of
// their scores in whole lines of memory while one warp, a lane a unit, folds the tile before. With few long
// units the chain of additions is the limit; with many units memory is.

namespace coppice::cuda {
namespace {

constexpr int kUnitsTogether = kWarp;
constexpr int kSteps = 64;                                    // elements of each unit in a tile
constexpr int kFetched = kUnitsTogether * kSteps / kThreads;  // by a thread
constexpr int kWarps = kThreads / kWarp;

/// Element `step` of unit `unit` is element origin + unit · unit_stride + step · step_stride of the block,
/// where that lies in it.
struct Units {
  int64_t count;
  int64_t steps;
  int64_t origin;
  int64_t unit_stride;
  int64_t step_stride;
  UnitScore* scores;
};

/// What std::frexp returns, by bits; zeros and what is not finite stay, with exponent 0.
__device__ inline double split(double x, int64_t& exponent) {
  constexpr uint64_t kExponent = 0x7ff0'0000'0000'0000u;
  uint64_t bits = __builtin_bit_cast(uint64_t, x);
  exponent = 0;
  if ((bits & kExponent) == kExponent || (bits & ~Number<double>::kTop) == 0) return x;
  if ((bits & kExponent) == 0) {  // denormal
    bits = __builtin_bit_cast(uint64_t, x * 0x1p54);
    exponent = -54;
  }
  exponent += static_cast<int64_t>((bits & kExponent) >> 52) - 1022;
  return __builtin_bit_cast(double, (bits & ~kExponent) | uint64_t{1022} << 52);
}

/// coppice::multiply on the device, the same bits.
__device__ inline void multiply_by(UnitScore& unit, double factor) {
  int64_t factor_exponent = 0, exponent = 0;
  const double mantissa = split(factor, factor_exponent);
  unit.mantissa = split(unit.mantissa * mantissa, exponent);
  const bool finite = criteria::absolute(unit.mantissa) < __builtin_huge_val();
  unit.exponent = unit.mantissa == 0.0 || !finite ? 0 : unit.exponent + exponent + factor_exponent;
}

/// Calls fold(score) for those of a unit's scores that take part. NaN marks the others; where an element's
/// score is NaN the result means nothing.
template <class T, class Fold>
__device__ inline void fold_scores(const T* scores, int count, UnitScore& unit, Fold fold) {
#pragma unroll 8
  for (int i = 0; i < count; ++i) {
    const double score = static_cast<double>(scores[i]);
    if (score != score) continue;
    fold(score);
    ++unit.kept;
  }
}

template <class T>
__device__ void fold_tile(Reduce reduce, const T* scores, int count, UnitScore& unit) {
  double& value = unit.mantissa;
  switch (reduce) {
    case Reduce::sum:
    case Reduce::mean:
      return fold_scores(scores, count, unit, [&](double score) { value += score; });
    case Reduce::max:
      return fold_scores(scores, count, unit, [&](double score) { value = value < score ? score : value; });
    case Reduce::l2:
      return fold_scores(scores, count, unit, [&](double score) { value += score * score; });
    case Reduce::product:
      return fold_scores(scores, count, unit, [&](double score) { multiply_by(unit, score); });
  }
}

template <class C, class T>
__global__ void __launch_bounds__(kThreads, 3)
    accumulate_kernel(Elements<T> e, Units units, Reduce reduce, Totals* totals) {
  // One element more than steps: 32 lanes that read down their units, or write across them, hit as many
  // banks.
  COPPICE_SHARED(T, scores, [kUnitsTogether][kSteps + 1]);
  const int lane = lane_index(), warp = warp_index();
  // Lanes fetch neighbours in memory: along a unit where it is a row, across the units where it is a column.
  const bool along = units.step_stride == 1;
  const auto unit_of = [&](int j) { return along ? warp + kWarps * (j / (kSteps / kWarp)) : lane; };
  const auto step_of = [&](int j) {
    return along ? lane + kWarp * (j % (kSteps / kWarp)) : warp + kWarps * j;
  };
  for (int64_t first_unit = int64_t{blockIdx.x} * kUnitsTogether; first_unit < units.count;
       first_unit += int64_t{gridDim.x} * kUnitsTogether) {
    T weights[kFetched], statistic[kFetched];
    unsigned takes_part = 0, inside = 0;
    const auto index_of = [&](int64_t begin, int j) {
      return units.origin + (first_unit + unit_of(j)) * units.unit_stride +
             (begin + step_of(j)) * units.step_stride;
    };
    const auto fetch = [&](int64_t begin) {
      inside = 0;
#pragma unroll
      for (int j = 0; j < kFetched; ++j) {
        const int64_t index = index_of(begin, j);
        if (first_unit + unit_of(j) >= units.count || begin + step_of(j) >= units.steps || index < 0 ||
            index >= e.count)
          continue;
        inside |= 1u << j;
        weights[j] = e.weights[index];
        if constexpr (kReadsStatistic<C>) statistic[j] = e.statistic[index];
      }
      takes_part = inside;
      if (e.kept == nullptr) return;
#pragma unroll
      for (int j = 0; j < kFetched; ++j) {
        if ((inside >> j & 1) == 0) continue;
        const int64_t bit = e.lead + index_of(begin, j);
        if ((e.kept[bit / 64] >> (bit % 64) & 1) == 0) takes_part &= ~(1u << j);
      }
    };
    UnitScore unit;
    const int64_t own_unit = first_unit + lane;
    const bool folds = warp == 0 && own_unit < units.count;
    if (folds) unit = units.scores[own_unit];
    fetch(0);
    for (int64_t begin = 0; begin < units.steps; begin += kSteps) {
#pragma unroll
      for (int j = 0; j < kFetched; ++j) {
        T score = __builtin_bit_cast(T, kNoKey<T>);  // a NaN
        if ((takes_part >> j & 1) != 0) {
          const int64_t index = index_of(begin, j);
          const T s = kReadsStatistic<C> ? statistic[j] : T(0);
          const Bits<T> key =
              key_of_score<C, T>(weights[j], s, e.position + static_cast<uint64_t>(index), e.seed);
          if (key > kLastKey<T>) report_nan(totals, index);
          score = value_of_key(key);
        }
        scores[unit_of(j)][step_of(j)] = score;
      }
      __syncthreads();  // the tile is complete
      if (begin + kSteps < units.steps) fetch(begin + kSteps);
      const int64_t left = units.steps - begin;
      if (folds) fold_tile(reduce, scores[lane], static_cast<int>(left < kSteps ? left : kSteps), unit);
      __syncthreads();  // the tile is folded, and may be overwritten
    }
    if (folds) units.scores[own_unit] = unit;
  }
}

}  // namespace

void queue_accumulate(const CudaContext& context, const Scoring& scoring, const ScoreBlock& block,
                      Reduce reduce, UnitAxis axis, int64_t cols, int64_t first, UnitScore* scores,
                      Totals* totals) {
  const int64_t first_row = first / cols, rows = (first + block.count - 1) / cols - first_row + 1;
  const int64_t origin = first_row * cols - first;
  const Units units = axis == UnitAxis::row ? Units{rows, cols, origin, cols, 1, scores}
                                            : Units{cols, rows, origin, 1, cols, scores};
  with_scores(scoring, block, [&]<class C, class T>(C, const Elements<T>& e) {
    const unsigned blocks = blocks_for(units.count, kUnitsTogether, context.full_grid(8));
    launch(accumulate_kernel<C, T>, blocks, kThreads, 0, context.stream, e, units, reduce, totals);
  });
}

}  // namespace coppice::cuda
