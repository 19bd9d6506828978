#include "kernels/cpu/isa/csr.hpp"

// Compiled once per instruction set. Everything but the table at the end is local to the file.
namespace coppice::cpu::COPPICE_ISA {
namespace {

#if defined(COPPICE_ISA_avx512)
constexpr int kLanes = 16;
#elif defined(COPPICE_ISA_avx2)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
// Rows of A whose results are collected before they are written, transposed, to y.
constexpr int kBlock = 16;

typedef float Vec __attribute__((vector_size(kLanes * 4)));

inline Vec load(const float* p) {
  return *reinterpret_cast<const Vec*>(p);
}
inline void store(float* p, Vec v) {
  *reinterpret_cast<Vec*>(p) = v;
}
/// One rounding where the instruction set has it, as the vector code gets by contraction: spelled out because
/// the compiler contracts scalar loops only sometimes, and both must give the same bits.
inline float multiply_add(float a, float b, float c) {
#if defined(__FP_FAST_FMAF)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
inline int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}

void transpose_tile(const float* x, int64_t stride, int64_t rows, int64_t cols, int64_t width, float* to) {
  constexpr int64_t kColumns = 64;  // so that the lines written to are still in L1 at the next row
  for (int64_t c0 = 0; c0 < cols; c0 += kColumns) {
    const int64_t c1 = min(c0 + kColumns, cols);
    for (int64_t b = 0; b < width; ++b) {
      for (int64_t c = c0; c < c1; ++c) to[c * width + b] = b < rows ? x[b * stride + c] : 0.0f;
    }
  }
}

template <int V>
void multiply_vectors(const CsrArrays& a, int64_t first, int64_t last, const float* x_tile, int64_t batch,
                      const float* bias, bool accumulate, float* y, int64_t y_stride) {
  constexpr int kWidth = V * kLanes;
  alignas(64) float block[kBlock][kWidth];
  for (int64_t r0 = first; r0 < last; r0 += kBlock) {
    const int64_t r1 = min(r0 + kBlock, last);
    for (int64_t r = r0; r < r1; ++r) {
      Vec sum[4][V] = {};
      int64_t p = a.row_offsets[r];
      const int64_t end = a.row_offsets[r + 1];
      const auto step = [&](int chain, int64_t q) {
        const float* x = x_tile + a.col_indices[q] * int64_t{kWidth};
        for (int v = 0; v < V; ++v) sum[chain][v] += a.values[q] * load(x + v * kLanes);
      };
      for (; p + 4 <= end; p += 4) {
        step(0, p);
        step(1, p + 1);
        step(2, p + 2);
        step(3, p + 3);
      }
      if (p < end) step(0, p);
      if (p + 1 < end) step(1, p + 1);
      if (p + 2 < end) step(2, p + 2);
      for (int v = 0; v < V; ++v) {
        store(&block[r - r0][v * kLanes], (sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v]));
      }
    }
    for (int64_t b = 0; b < batch; ++b) {
      float* to = y + b * y_stride;
      for (int64_t r = r0; r < r1; ++r) {
        float value = block[r - r0][b];
        if (bias != nullptr) value += bias[r];
        to[r] = accumulate ? to[r] + value : value;
      }
    }
  }
}

void multiply_tile(const CsrArrays& a, int64_t first, int64_t last, const float* x_tile, int64_t width,
                   int64_t batch, const float* bias, bool accumulate, float* y, int64_t y_stride) {
  width == kLanes ? multiply_vectors<1>(a, first, last, x_tile, batch, bias, accumulate, y, y_stride)
                  : multiply_vectors<2>(a, first, last, x_tile, batch, bias, accumulate, y, y_stride);
}

void multiply_row(const CsrArrays& a, int64_t first, int64_t last, const float* x, const float* bias,
                  bool accumulate, float* y) {
  for (int64_t r = first; r < last; ++r) {
    float sum[4] = {};
    int64_t p = a.row_offsets[r];
    const int64_t end = a.row_offsets[r + 1];
    for (; p + 4 <= end; p += 4) {
      for (int i = 0; i < 4; ++i) sum[i] = multiply_add(a.values[p + i], x[a.col_indices[p + i]], sum[i]);
    }
    for (int i = 0; p < end; ++p, ++i) sum[i] = multiply_add(a.values[p], x[a.col_indices[p]], sum[i]);
    float value = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    if (bias != nullptr) value += bias[r];
    y[r] = accumulate ? y[r] + value : value;
  }
}

}  // namespace

const CsrKernels& csr_kernels() {
  static constexpr CsrKernels kernels{kLanes, transpose_tile, multiply_tile, multiply_row};
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
