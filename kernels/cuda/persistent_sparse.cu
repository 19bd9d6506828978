#include <algorithm>

#include "kernels/cuda/cells.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/persistent.hpp"
#include "kernels/cuda/resident_rows.cuh"

// The whole time loop over a sparse weight as one kernel, forwards and backwards. Each block keeps the
// nonzeros of its own units; a step costs the fetching of the vectors that they are multiplied by, and one
// barrier of the grid.

namespace coppice::cuda {
namespace {

constexpr int kMostWarps = 16;
constexpr int64_t kMostStreams = 32;
constexpr int64_t kLeastSteps = 4;  // fewer don't pay for fetching the weight
// By how much a step may be slower than the products of a graph of steps: what its three launches cost, 1.3
// us each.
constexpr float kSavedClocks = 7000;
// What the second-level cache delivers to each of a hundred multiprocessors that all read.
constexpr float kBytesPerClock = 20;
// Accesses of shared memory for 128 bytes of x, by 8 lanes that read 16 bytes (32 that read 4) of columns
// that chance put together: as many as meet at the fullest place. A product that reads x through the
// first-level cache takes 1.5.
constexpr float conflicts(int streams) {
  return streams == 1 ? 3.5f : streams == 4 ? 2.6f : streams == 8 ? 2.1f : streams == 16 ? 1.5f : 1.0f;
}
constexpr float kConflictsInCache = 1.5f;

/// How many clocks a multiprocessor spends more in a step than in the product of a graph. It fetches x as a
/// whole, where a product fetches what the nonzeros ask for, most of it once.
float extra_clocks(const SpreadCsr& csr, int64_t batch, int streams) {
  const auto nonzeros = static_cast<float>(csr.rows.nonzeros) / static_cast<float>(csr.blocks.blocks);
  const float unwanted = std::max(0.0f, static_cast<float>(csr.rows.cols) - nonzeros) * sizeof(float);
  const float slower = nonzeros * (conflicts(streams) - kConflictsInCache) / kWarp;
  return static_cast<float>(batch) * (unwanted / kBytesPerClock + slower);
}

/// Calls body(unit, b) for what this thread does after a product: always the same units and streams, so that
/// what it wrote itself at an earlier step needs no barrier. Neighbouring threads have neighbouring units.
template <class Body>
__device__ void for_each_cell(int units, int count, Body&& body) {
  for (int i = static_cast<int>(threadIdx.x); i < units * count; i += static_cast<int>(blockDim.x)) {
    const int b = i / units;
    body(i - b * units, b);
  }
}

__device__ int streams_of_tile(int64_t batch, int64_t tile, int streams) {
  return static_cast<int>(batch - tile < streams ? batch - tile : streams);
}

template <class CellType, int kStreams>
__global__ void __launch_bounds__(kMostWarps* kWarp, 1)
    sparse_forward(ResidentRows rows, ForwardStep s, ForwardDistance distance, int64_t steps) {
  constexpr int kGates = static_cast<int>(CellType::kGates);
  COPPICE_DYNAMIC_SHARED(float, shared);
  ResidentProduct<kStreams, kGates> product(shared, rows);
  for (int64_t k = 0;; ++k) {
    for (int64_t tile = 0; tile < s.batch; tile += kStreams) {
      const int count = streams_of_tile(s.batch, tile, kStreams);
      float sums[CellType::kSums] = {};  // on its way while the product is made
      const int thread = static_cast<int>(threadIdx.x);
      if (thread < product.units() * count) {
        const int b = thread / product.units();
        load_gates<CellType>(s, tile + b, product.first_unit() + thread - b * product.units(), sums);
      }
      product.multiply(s.hidden_before + tile * s.hidden_stride, s.hidden_stride, count, rows.width);
      __syncthreads();  // before a thread reads others' sums
      bool have = true;
      for_each_cell(product.units(), count, [&](int unit, int b) {
        const int64_t j = product.first_unit() + unit;
        if (!have) load_gates<CellType>(s, tile + b, j, sums);
        have = false;
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
          add_product<CellType>(sums, gate, product.sum(unit, gate, b));
        }
        step_unit<CellType>(s, tile + b, j, sums);
      });
    }
    if (k + 1 == steps) return;
    advance(s, distance);
    COPPICE_GRID_BARRIER();  // every unit's new state is there before any block fetches it
  }
}

/// `rows`: of Wᵀ, one a unit. The product of the last step is left out unless `first_state_wanted`.
template <class CellType, int kStreams>
__global__ void __launch_bounds__(kMostWarps* kWarp, 1)
    sparse_backward(ResidentRows rows, BackwardStep s, BackwardDistance distance, int64_t steps,
                    bool first_state_wanted) {
  COPPICE_DYNAMIC_SHARED(float, shared);
  ResidentProduct<kStreams, 1> product(shared, rows);
  for (int64_t k = 0;; ++k) {
    for (int64_t tile = 0; tile < s.batch; tile += kStreams) {
      for_each_cell(product.units(), streams_of_tile(s.batch, tile, kStreams), [&](int unit, int b) {
        step_unit_back<CellType>(s, tile + b, product.first_unit() + unit);
      });
    }
    if (k + 1 == steps && !first_state_wanted) return;
    COPPICE_GRID_BARRIER();  // every gate's gradient is there before any block fetches it
    for (int64_t tile = 0; tile < s.batch; tile += kStreams) {
      const int count = streams_of_tile(s.batch, tile, kStreams);
      const bool gru = CellType::kCell == Cell::gru;
      const float* const d_product = gru ? s.d_recurrent : s.d_gates;
      const int64_t stride = gru ? s.d_recurrent_stride : s.d_gates_stride;
      product.multiply(d_product + tile * stride, stride, count, rows.width);
      __syncthreads();  // before a thread reads others' sums
      for_each_cell(product.units(), count, [&](int unit, int b) {
        float& to = s.d_hidden[(tile + b) * s.d_hidden_stride + product.first_unit() + unit];
        to = product.sum(unit, 0, b) + (s.adds_product ? to : 0.0f);
      });
    }
    if (k + 1 == steps) return;
    advance(s, distance);
  }
}

/// How a kernel is launched; kernel null: it can't be, or doesn't pay.
template <class Kernel>
struct Plan {
  Kernel kernel = nullptr;
  size_t bytes = 0;
  int warps = 1;
};

/// Finds the kernel that takes the most streams at a time, up to all of them, of those that fit.
/// find(integral_constant<int, streams>) is a kernel.
template <int kGates, class Find>
auto plan(const CudaContext& context, const SpreadCsr& csr, int64_t batch, Find&& find) {
  Plan<decltype(find(std::integral_constant<int, 1>{}))> result;
  const ResidentRows rows = resident_rows(csr);
  const auto consider = [&]<int kStreams>(std::integral_constant<int, kStreams> streams) {
    using Product = ResidentProduct<kStreams, kGates>;
    const bool halves = kStreams >= 2 * batch && kStreams > 4;  // a smaller one takes them all as well
    if (result.kernel != nullptr || halves || (batch == 1) != (kStreams == 1)) return;
    if (extra_clocks(csr, batch, kStreams) > kSavedClocks || !Product::can_number(rows) ||
        Product::bytes(rows) > context.shared_bytes_per_block)
      return;
    result.kernel = find(streams);
    result.bytes = Product::bytes(rows);
    // As many as have something to do in a row's product, in a cell or in fetching four packs each.
    const auto shares = [](int64_t count, int64_t share) { return (count + share - 1) / share; };
    const int64_t cells = rows.most_units * std::min<int64_t>(kStreams, batch);
    const int64_t most = std::max({shares(rows.most_units * kGates, Product::kRows), shares(cells, kWarp),
                                   shares(int64_t{rows.width} * Product::kPacks, 4 * kWarp)});
    result.warps = static_cast<int>(std::min<int64_t>(most, kMostWarps));
  };
  consider(std::integral_constant<int, 32>{});
  consider(std::integral_constant<int, 16>{});
  consider(std::integral_constant<int, 8>{});
  consider(std::integral_constant<int, 4>{});
  consider(std::integral_constant<int, 1>{});
  return result;
}

bool may_pay(const CudaContext& context, int64_t batch, int64_t hidden, int64_t steps,
             const CsrWeight& weight) {
  return context.cooperative && batch > 0 && batch <= kMostStreams && hidden > 0 && steps >= kLeastSteps &&
         narrowest(weight.out()) == IndexWidth::two_bytes;
}

template <class Kernel, class... Arguments>
bool run(const CudaContext& context, const SpreadCsr& csr, const Plan<Kernel>& plan,
         Arguments&&... arguments) {
  if (plan.kernel == nullptr) return false;
  COPPICE_CUDA(cudaFuncSetAttribute(plan.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(plan.bytes)));
  launch_cooperative(plan.kernel, static_cast<unsigned>(csr.blocks.blocks),
                     static_cast<unsigned>(plan.warps * kWarp), plan.bytes, context.stream,
                     resident_rows(csr), std::forward<Arguments>(arguments)...);
  return true;
}

}  // namespace

bool run_persistently(const CudaContext& context, Cell cell, CsrWeight& weight, const ForwardStep& first,
                      const ForwardDistance& distance, int64_t steps) {
  if (!may_pay(context, first.batch, first.hidden, steps, weight)) return false;
  const SpreadCsr csr = weight.spread();
  return visit_cell(cell, [&]<class C>(C) {
    const auto find = []<int kStreams>(std::integral_constant<int, kStreams>) {
      return &sparse_forward<C, kStreams>;
    };
    return run(context, csr, plan<static_cast<int>(C::kGates)>(context, csr, first.batch, find), first,
               distance, steps);
  });
}

bool run_persistently(const CudaContext& context, Cell cell, CsrWeight& weight, const BackwardStep& last,
                      const BackwardDistance& distance, int64_t steps, bool first_state_wanted) {
  if (!may_pay(context, last.batch, last.hidden, steps, weight)) return false;
  const SpreadCsr csr = weight.spread_transposed();
  return visit_cell(cell, [&]<class C>(C) {
    const auto find = []<int kStreams>(std::integral_constant<int, kStreams>) {
      return &sparse_backward<C, kStreams>;
    };
    return run(context, csr, plan<1>(context, csr, last.batch, find), last, distance, steps,
               first_state_wanted);
  });
}

}  // namespace coppice::cuda
