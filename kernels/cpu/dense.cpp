#include "kernels/cpu/dense.hpp"

#include <algorithm>

namespace coppice::cpu {
namespace {

const GemmKernels& kernels_for(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::avx512:
      return avx512::gemm_kernels();
    case Isa::avx2:
      return avx2::gemm_kernels();
#endif
    default:
      return baseline::gemm_kernels();
  }
}

/// Below this many multiply-adds (or moved elements) a parallel region costs more than it saves.
constexpr int64_t kParallelWork = 50'000;

/// Whether the first product after a change of the weights packs slices of them on the way instead of all of
/// them beforehand. In training there is no second product, so that saves a trip to memory and back: worth it
/// where the weights don't fit the caches anyway, and where a thread has rows enough to pay for packing that
/// all repeat.
bool packs_on_the_way(int64_t weights, int64_t rows, int threads) {
  return weights >= 1'500'000 && rows >= int64_t{128} * threads;
}

/// Scratch of the calling thread, kept between calls: the time loop of a recurrence must not allocate.
float* thread_scratch(int64_t floats) {
  thread_local Scratch scratch;
  return scratch.floats(floats, "a product's working memory");
}

/// Floats of scratch for a share of so many rows.
int64_t scratch_floats(const GemmKernels& kernels, const GemmBlock& block, int64_t rows) {
  const int64_t floats = kernels.scratch_floats(rows, block.depth, block.panels == nullptr);
  if (block.rounded_panels == nullptr) return floats;
  return std::max(rows > 1 ? floats : 0, kernels.scratch_floats(1, block.depth, false));
}

/// How C is cut for `threads`: into row_parts x panel_parts shares, the cut whose largest share is cheapest.
struct Grid {
  int64_t row_parts = 1;
  int64_t panel_parts = 1;
};

Grid choose_grid(const GemmKernels& kernels, const GemmBlock& whole, int64_t panels, int64_t threads) {
  Grid best;
  int64_t best_cost = -1;
  for (int64_t row_parts = threads; row_parts >= 1; --row_parts) {
    const int64_t panel_parts = threads / row_parts;
    if (row_parts > whole.rows || panel_parts > panels) continue;
    const int64_t rows = (whole.rows + row_parts - 1) / row_parts;
    const int64_t columns = (panels + panel_parts - 1) / panel_parts * kernels.panel_columns;
    // A share packs its rows of A, eight multiply-adds' time an element, and reads its columns of B through
    // the caches or packs them as well.
    const int64_t cost = rows * columns + 8 * rows + (whole.panels == nullptr ? 14 : 6) * columns;
    if (best_cost < 0 || cost < best_cost) {
      best_cost = cost;
      best = {row_parts, panel_parts};
    }
  }
  return best;
}

void multiply_parallel(const GemmKernels& kernels, const GemmBlock& whole, int64_t threads) {
  const int64_t panels = kernels.panel_count(whole.columns);
  const bool alone = whole.rows * whole.depth * whole.columns < kParallelWork;
  const Grid grid = alone ? Grid{} : choose_grid(kernels, whole, panels, threads);
  const int64_t shares = grid.row_parts * grid.panel_parts;
  const int64_t share_rows = (whole.rows + grid.row_parts - 1) / grid.row_parts;
  // One allocation here rather than one in each thread: an exception can't leave a parallel region.
  const int64_t share_scratch = (scratch_floats(kernels, whole, share_rows) + 15) / 16 * 16;
  float* scratch = thread_scratch(share_scratch * shares);

  const auto run = [&](int64_t share) {
    const int64_t row_part = share / grid.panel_parts, panel_part = share % grid.panel_parts;
    const int64_t first_row = whole.rows * row_part / grid.row_parts;
    GemmBlock block = whole;
    block.rows = whole.rows * (row_part + 1) / grid.row_parts - first_row;
    block.a += whole.a_by_depth ? first_row : first_row * whole.a_stride;
    block.c += first_row * whole.c_stride;
    block.first_panel = panels * panel_part / grid.panel_parts;
    block.last_panel = panels * (panel_part + 1) / grid.panel_parts;
    kernels.multiply(block, scratch + share * share_scratch);
  };
  if (shares == 1) return run(0);
#pragma omp parallel for num_threads(static_cast <int>(shares)) schedule(static)
  for (int64_t share = 0; share < shares; ++share) run(share);
}

using Pack = void (*)(const float*, int64_t, int64_t, int64_t, int64_t, int64_t, float*);

/// Packs a B [depth, columns] whose elements lie in `source`.
void pack_parallel(const GemmKernels& kernels, Pack pack, const float* source, int64_t stride, int64_t depth,
                   int64_t columns, float* panels, int64_t threads) {
  const int64_t count = kernels.panel_count(columns);
  const int64_t parts = depth * columns < kParallelWork ? 1 : std::min(threads, count);
  if (parts <= 1) return pack(source, stride, depth, columns, 0, count, panels);
#pragma omp parallel for num_threads(static_cast <int>(parts)) schedule(static)
  for (int64_t part = 0; part < parts; ++part) {
    pack(source, stride, depth, columns, count * part / parts, count * (part + 1) / parts, panels);
  }
}

/// A product over zero terms: y = bias, 0 or unchanged.
void start_only(const GemmBlock& block) {
  for (int64_t r = 0; r < block.rows; ++r) {
    for (int64_t j = 0; j < block.columns; ++j) {
      float& c = block.c[r * block.c_stride + j];
      c = (block.accumulate ? c : 0.0f) + (block.bias != nullptr ? block.bias[j] : 0.0f);
    }
  }
}

}  // namespace

DenseWeight::DenseWeight(const CpuContext& context, MatrixView<const float> values, DType type)
    : CpuWeight(values.rows, values.cols, values.device, type),
      context_(context),
      kernels_(kernels_for(context.isa)),
      values_(values) {
  if (type == DType::bf16) pack_rounded();
}

void DenseWeight::refresh_impl(MatrixView<const float> values) {
  values_ = values;
  forward_ready_ = backward_ready_ = forward_used_ = backward_used_ = false;
  if (value_type() == DType::bf16) pack_rounded();
}

void DenseWeight::pack_rounded() {
  const int64_t step = kernels_.panel_columns, slack = kernels_.packed_floats(0, out());
  // Without what packed panels have at their end for kernels to read beyond.
  const auto size = [&](int64_t columns) { return kernels_.packed_floats(in(), columns) - slack; };
  rounded_.resize(static_cast<size_t>(size(out())));
  Scratch scratch;
  float* packed = scratch.floats(kernels_.packed_floats(in(), step), "a panel of a weight");
  Bfloat16* to = rounded_.data();
  for (int64_t column = 0; column < out(); column += step) {
    const int64_t columns = std::min(step, out() - column);
    kernels_.pack_transposed(values_.row(column), values_.stride, in(), columns, 0,
                             kernels_.panel_count(columns), packed);
    to = std::transform(packed, packed + size(columns), to,
                        [](float value) { return float_to_bfloat16(value); });
  }
  values_.data = nullptr;
}

void DenseWeight::use_forward(GemmBlock& block) const {
  if (value_type() == DType::bf16) {
    block.rounded_panels = rounded_.data();
  } else {
    block.panels = forward_.data();
  }
}

void DenseWeight::pack_forward() {
  if (forward_ready_ || value_type() == DType::bf16) return;
  float* panels = forward_.floats(kernels_.packed_floats(in(), out()), "a weight's packed copy");
  pack_parallel(kernels_, kernels_.pack_transposed, values_.data, values_.stride, in(), out(), panels,
                context_.threads);
  forward_ready_ = true;
}

void DenseWeight::pack_backward() {
  if (backward_ready_) return;
  float* panels = backward_.floats(kernels_.packed_floats(out(), in()), "a weight's packed transpose");
  pack_parallel(kernels_, kernels_.pack, values_.data, values_.stride, out(), in(), panels, context_.threads);
  backward_ready_ = true;
}

void DenseWeight::prepare_rows(bool transposed) {
  transposed ? pack_backward() : pack_forward();
}

void DenseWeight::multiply_impl(MatrixView<const float> x, VectorView<const float> bias, MatrixView<float> y,
                                bool accumulate) {
  GemmBlock block;
  block.a = x.data;
  block.a_stride = x.stride;
  block.c = y.data;
  block.c_stride = y.stride;
  block.bias = bias.empty() ? nullptr : bias.data;
  block.accumulate = accumulate;
  block.rows = x.rows;
  block.depth = in();
  block.columns = out();
  if (block.depth == 0) return start_only(block);
  if (value_type() == DType::f32 && !forward_ready_ && !forward_used_ &&
      packs_on_the_way(nonzeros(), block.rows, context_.threads)) {
    block.b = values_.data;
    block.b_stride = values_.stride;
    block.b_by_column = true;
  } else {
    pack_forward();
    use_forward(block);
  }
  forward_used_ = true;
  multiply_parallel(kernels_, block, context_.threads);
}

void DenseWeight::multiply_transposed_impl(MatrixView<const float> dy, MatrixView<float> dx,
                                           bool accumulate) {
  GemmBlock block;
  block.a = dy.data;
  block.a_stride = dy.stride;
  block.c = dx.data;
  block.c_stride = dx.stride;
  block.accumulate = accumulate;
  block.rows = dy.rows;
  block.depth = out();
  block.columns = in();
  if (block.depth == 0) return start_only(block);
  if (!backward_ready_ && !backward_used_ && packs_on_the_way(nonzeros(), block.rows, context_.threads)) {
    block.b = values_.data;
    block.b_stride = values_.stride;
  } else {
    pack_backward();
    block.panels = backward_.data();
  }
  backward_used_ = true;
  multiply_parallel(kernels_, block, context_.threads);
}

void DenseWeight::accumulate_gradient_impl(MatrixView<const float> dy, MatrixView<const float> x,
                                           MatrixView<float> dw) {
  thread_local Scratch packed_x;
  float* panels = packed_x.floats(kernels_.packed_floats(x.rows, in()), "a gradient's packed input");
  pack_parallel(kernels_, kernels_.pack, x.data, x.stride, x.rows, in(), panels, context_.threads);
  GemmBlock block;
  block.a = dy.data;
  block.a_stride = dy.stride;
  block.a_by_depth = true;
  block.panels = panels;
  block.c = dw.data;
  block.c_stride = dw.stride;
  block.accumulate = true;
  block.rows = out();
  block.depth = x.rows;
  block.columns = in();
  multiply_parallel(kernels_, block, context_.threads);
}

namespace {

/// A few rows by the calling thread alone.
void multiply_few(const GemmKernels& kernels, GemmBlock block, const float* a, int64_t a_stride, int64_t rows,
                  int64_t depth, int64_t columns, float* c, int64_t c_stride, bool accumulate) {
  block.a = a;
  block.a_stride = a_stride;
  block.c = c;
  block.c_stride = c_stride;
  block.accumulate = accumulate;
  block.rows = rows;
  block.depth = depth;
  block.columns = columns;
  if (depth == 0) return start_only(block);
  block.last_panel = kernels.panel_count(columns);
  kernels.multiply(block, thread_scratch(scratch_floats(kernels, block, rows)));
}

}  // namespace

void DenseWeight::multiply_rows(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                                bool accumulate) const {
  GemmBlock block;
  use_forward(block);
  multiply_few(kernels_, block, x, ldx, rows, in(), out(), y, ldy, accumulate);
}

void DenseWeight::multiply_transposed_rows(const float* dy, int64_t ldy, int64_t rows, float* dx, int64_t ldx,
                                           bool accumulate) const {
  GemmBlock block;
  block.panels = backward_.data();
  multiply_few(kernels_, block, dy, ldy, rows, out(), in(), dx, ldx, accumulate);
}

}  // namespace coppice::cpu
