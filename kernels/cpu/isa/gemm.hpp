#pragma once

#include <cstdint>

namespace coppice::cpu {

/// One thread's share of a product C [rows, columns] (+)= A·B, B packed in panels (see GemmKernels::pack_*).
struct GemmBlock {
  const float* a = nullptr;  ///< A(r, k) = a[r * a_stride + k], or a[k * a_stride + r] when `a_by_depth`
  int64_t a_stride = 0;
  bool a_by_depth = false;
  const float* panels =
      nullptr;  ///< all of B's panels; or null: B is packed on the way, slice by slice, from
  const uint16_t* rounded_panels = nullptr;  ///< its panels of bfloat16, widened on the way, if given; or
  const float* b = nullptr;  ///< B(k, j) = b[k * b_stride + j], or b[j * b_stride + k] when `b_by_column`
  int64_t b_stride = 0;
  bool b_by_column = false;
  float* c = nullptr;  ///< C(r, j) = c[r * c_stride + j], j counted from B's first column
  int64_t c_stride = 0;
  const float* bias = nullptr;  ///< [all of B's columns], or null
  bool accumulate = false;      ///< start from C (+ bias) instead of 0 (+ bias)
  int64_t rows = 0;
  int64_t depth = 0;        ///< K > 0
  int64_t columns = 0;      ///< of all of B
  int64_t first_panel = 0;  ///< the share: panels [first_panel, last_panel)
  int64_t last_panel = 0;
};

/// The dense kernels of one instruction set. Single-threaded; raw pointers only.
///
/// Every element of C is one chain c = c + a(k)·b(k), k ascending, from its starting value, whatever the
/// number of rows, the tile it falls in or the split over threads: results depend on the instruction set and
/// on nothing else. (Chains of *different* elements run side by side, which is where the speed comes from.)
struct GemmKernels {
  /// Columns of a full panel. B's last ones may be narrower.
  int64_t panel_columns;
  int64_t (*panel_count)(int64_t columns);
  /// Floats that the panels of a B [depth, columns] take.
  int64_t (*packed_floats)(int64_t depth, int64_t columns);
  /// Floats of scratch that `multiply` wants for a share of `rows` rows; with `pack_b` B has no panels, or
  /// rounded ones and more than one row passes over them.
  int64_t (*scratch_floats)(int64_t rows, int64_t depth, bool pack_b);
  /// Packs panels [first, last) of B from its transpose: B(k, j) = source[j * stride + k].
  void (*pack_transposed)(const float* source, int64_t stride, int64_t depth, int64_t columns, int64_t first,
                          int64_t last, float* panels);
  /// The same from B(k, j) = source[k * stride + j].
  void (*pack)(const float* source, int64_t stride, int64_t depth, int64_t columns, int64_t first,
               int64_t last, float* panels);
  void (*multiply)(const GemmBlock& block, float* scratch);
};

namespace baseline {
const GemmKernels& gemm_kernels();
}
namespace avx2 {
const GemmKernels& gemm_kernels();
}
namespace avx512 {
const GemmKernels& gemm_kernels();
}

}  // namespace coppice::cpu
