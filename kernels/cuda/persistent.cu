#include "kernels/cuda/cells.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/persistent.hpp"

namespace coppice::cuda {
namespace {

constexpr int64_t kMostUnits = 16;   // of a block: one warp each
constexpr int64_t kMostStreams = 8;  // a warp holds gates × streams sums in registers
constexpr int64_t kLeastSteps = 4;   // fewer don't pay for fetching the weight

/// A row of shared memory: whole packs of four, so that lanes read 16 bytes; what is beyond its end is 0.
__host__ __device__ constexpr int64_t padded(int64_t hidden) {
  return (hidden + 3) / 4 * 4;
}

/// The sum over the warp of what belongs to stream `lane` % kStreams. Lanes hand over the half of the streams
/// that isn't theirs, then a quarter, …: 7 shuffles and 2 for eight streams, where one by one they would take
/// 40, and a multiprocessor does one shuffle of a warp a clock.
template <int kStreams>
__device__ float sum_for_lane(float (&sums)[kStreams], int lane) {
#pragma unroll
  for (int half = kStreams / 2; half > 0; half /= 2) {
    const bool upper = (lane & half) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float kept = upper ? sums[i + half] : sums[i], given = upper ? sums[i] : sums[i + half];
      sums[i] = kept + __shfl_xor_sync(kFullMask, given, half);
    }
  }
  float sum = sums[0];
#pragma unroll
  for (int step = kStreams; step < kWarp; step *= 2) sum += __shfl_xor_sync(kFullMask, sum, step);
  return sum;
}

/// One warp for each of the block's blockDim.x / kWarp units; its lanes share the depth of the products of
/// all the unit's gates with all kStreams states. Shared memory: the weight's rows [units, gates, padded],
/// then the states before the step [kStreams, padded].
template <class CellType, int kStreams>
__global__ void __launch_bounds__(kMostUnits* kWarp, 1)
    persistent_forward(const float* weight, int64_t weight_stride, ForwardStep s, ForwardDistance distance,
                       int64_t steps) {
  constexpr int kGates = static_cast<int>(CellType::kGates);
  COPPICE_DYNAMIC_SHARED(float, shared);
  const int64_t H = s.hidden, width = padded(H);
  const int units = static_cast<int>(blockDim.x) / kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t j = int64_t{blockIdx.x} * units + warp;  // the warp's unit; the last block may have too many
  float* const rows = shared + warp * kGates * width;    // the warp's own
  float* const states = shared + units * kGates * width;

  for (int gate = 0; gate < kGates; ++gate) {
    for (int64_t k = lane; k < width; k += kWarp) {
      rows[gate * width + k] = j < H && k < H ? weight[(gate * H + j) * weight_stride + k] : 0.0f;
    }
  }
  // Streams that aren't there, and the rows' ends, stay 0.
  for (int64_t i = threadIdx.x; i < kStreams * width; i += blockDim.x) states[i] = 0.0f;
  __syncthreads();  // before others put states where this thread put zeros

  // Lane b goes on with stream b of the unit after the product.
  const bool mine = lane < s.batch && j < H;
  for (int64_t k = 0;; ++k) {
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t i = threadIdx.x; i < H; i += blockDim.x) {
        states[b * width + i] = s.hidden_before[b * s.hidden_stride + i];
      }
    }
    float inputs[CellType::kSums] = {};  // on their way while the product is made
    if (mine) load_gates<CellType>(s, lane, j, inputs);
    __syncthreads();  // before a warp reads what the others fetched

    float sums[kGates][kStreams] = {};
    for (int64_t at = lane * 4; at < width; at += kWarp * 4) {
      Pack<4> w[kGates];
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) w[gate] = load_pack<4>(rows + gate * width + at);
#pragma unroll
      for (int b = 0; b < kStreams; ++b) {
        const Pack<4> h = load_pack<4>(states + b * width + at);
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[gate][b] += w[gate].value[e] * h.value[e];
        }
      }
    }
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      add_product<CellType>(inputs, gate, sum_for_lane(sums[gate], lane));
    }
    if (mine) step_unit<CellType>(s, lane, j, inputs);
    if (k + 1 == steps) return;
    advance(s, distance);
    COPPICE_GRID_BARRIER();  // every unit's new state is there before any block fetches it
  }
}

using PersistentKernel = void (*)(const float*, int64_t, ForwardStep, ForwardDistance, int64_t);

template <class CellType>
PersistentKernel for_streams(int64_t batch) {
  if (batch == 1) return persistent_forward<CellType, 1>;
  if (batch == 2) return persistent_forward<CellType, 2>;
  if (batch <= 4) return persistent_forward<CellType, 4>;
  return persistent_forward<CellType, 8>;
}

PersistentKernel find_kernel(Cell cell, int64_t batch) {
  return visit_cell(cell, [&]<class C>(C) { return for_streams<C>(batch); });
}

}  // namespace

bool run_persistently(const CudaContext& context, Cell cell, MatrixView<const float> weight,
                      const ForwardStep& first, const ForwardDistance& distance, int64_t steps) {
  if (!context.cooperative || first.batch > kMostStreams || steps < kLeastSteps) return false;
  const int64_t units = (first.hidden + context.multiprocessors - 1) / context.multiprocessors;
  if (units > kMostUnits) return false;
  const int64_t blocks = (first.hidden + units - 1) / units;
  const int64_t streams = first.batch <= 2 ? first.batch : first.batch <= 4 ? 4 : kMostStreams;
  const int64_t rows = units * gate_count(cell) + streams;
  const auto bytes = static_cast<size_t>(rows * padded(first.hidden)) * sizeof(float);
  if (bytes > context.shared_bytes_per_block) return false;
  const PersistentKernel kernel = find_kernel(cell, first.batch);
  COPPICE_CUDA(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  launch_cooperative(kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(units * kWarp), bytes,
                     context.stream, weight.data, weight.stride, first, distance, steps);
  return true;
}

}  // namespace coppice::cuda
