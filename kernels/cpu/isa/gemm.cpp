#include "kernels/cpu/isa/gemm.hpp"

// Compiled once per instruction set. Everything but the table at the end is local to the file.
namespace coppice::cpu::COPPICE_ISA {
namespace {

// Tile: kRows rows x 2 vectors of accumulators, the most that leaves registers for two vectors of B and one
// broadcast element of A (32 registers with AVX-512, else 16).
#if defined(COPPICE_ISA_avx512)
constexpr int kLanes = 16;
constexpr int kRows = 14;
#elif defined(COPPICE_ISA_avx2)
constexpr int kLanes = 8;
constexpr int kRows = 6;
#else
constexpr int kLanes = 4;
constexpr int kRows = 6;
#endif
constexpr int kPanel = 2 * kLanes;

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef float VecU __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline Vec load(const float* p) {
  return *reinterpret_cast<const VecU*>(p);
}
inline void store(float* p, Vec v) {
  *reinterpret_cast<VecU*>(p) = v;
}
inline int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Depth of a block: a panel's slice of it (32 KiB with AVX-512) streams from L2 past the A tile (14 KiB).
constexpr int64_t kDepth = 256;
// Columns of B that stay in L2 while all row tiles pass over them.
constexpr int64_t kColumns = 512;

/// How a panel starts: B's columns come in panels of kPanel; a rest of at most kLanes takes a half panel.
int64_t panel_offset(int64_t panel, int64_t depth) {
  return panel * kPanel * depth;
}
int64_t panel_count(int64_t columns) {
  return (columns + kPanel - 1) / kPanel;
}
int64_t panel_width(int64_t panel, int64_t columns) {
  return min(kPanel, columns - panel * kPanel);
}
int64_t packed_width(int64_t width) {
  return width > kLanes ? kPanel : kLanes;
}

struct TileStart {
  const float* bias;  // of the tile's first column, or null
  bool from_c;
};

/// C [R, V vectors] (+)= A [depth][R] · B [depth][V vectors].
template <int R, int V>
void tile(int64_t depth, const float* __restrict a, const float* __restrict b, float* __restrict c,
          int64_t c_stride, TileStart start) {
  Vec sum[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) sum[r][v] = start.from_c ? load(c + r * c_stride + v * kLanes) : Vec{};
  }
  if (start.bias != nullptr) {
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) sum[r][v] += load(start.bias + v * kLanes);
    }
  }
  for (int64_t k = 0; k < depth; ++k, a += R, b += V * kLanes) {
    Vec w[V];
    for (int v = 0; v < V; ++v) w[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const float x = a[r];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] += x * w[v];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) store(c + r * c_stride + v * kLanes, sum[r][v]);
  }
}

using Tile = void (*)(int64_t, const float*, const float*, float*, int64_t, TileStart);

struct TileTable {
  Tile entry[kRows][2];

  template <int R>
  constexpr void fill() {
    entry[R - 1][0] = tile<R, 1>;
    entry[R - 1][1] = tile<R, 2>;
    if constexpr (R > 1) fill<R - 1>();
  }
  constexpr TileTable() { fill<kRows>(); }
};
// constexpr: an initialiser that runs at start would run on processors without these instructions.
constexpr TileTable tiles;

/// One tile at the right edge of C, `width` of the packed columns being real: computed beside C, then copied.
void edge_tile(int64_t rows, int64_t width, int64_t depth, const float* a, const float* b, float* c,
               int64_t c_stride, TileStart start) {
  const int64_t packed = packed_width(width);
  alignas(64) float buffer[kRows * kPanel];
  alignas(64) float bias[kPanel] = {};
  if (start.from_c) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < packed; ++j) buffer[r * packed + j] = j < width ? c[r * c_stride + j] : 0.0f;
    }
  }
  if (start.bias != nullptr) {
    for (int64_t j = 0; j < width; ++j) bias[j] = start.bias[j];
    start.bias = bias;
  }
  tiles.entry[rows - 1][packed / kLanes - 1](depth, a, b, buffer, packed, start);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < width; ++j) c[r * c_stride + j] = buffer[r * packed + j];
  }
}

/// Rows of a tile: all tiles of a share are within one row of each other, so that none is thin.
struct RowSplit {
  int64_t tiles, base, larger;
  explicit RowSplit(int64_t rows)
      : tiles((rows + kRows - 1) / kRows), base(rows / tiles), larger(rows % tiles) {}
  int64_t begin(int64_t t) const { return t * base + min(t, larger); }
  int64_t size(int64_t t) const { return base + (t < larger ? 1 : 0); }
};

/// A's rows of every tile, [tile][depth][rows of the tile], so that the kernel reads them from one stream.
void pack_a(const GemmBlock& block, const RowSplit& split, int64_t k0, int64_t depth, float* packed) {
  for (int64_t t = 0; t < split.tiles; ++t) {
    const int64_t rows = split.size(t);
    float* to = packed + split.begin(t) * depth;
    if (block.a_by_depth) {
      const float* from = block.a + k0 * block.a_stride + split.begin(t);
      for (int64_t k = 0; k < depth; ++k) {
        for (int64_t r = 0; r < rows; ++r) to[k * rows + r] = from[k * block.a_stride + r];
      }
    } else {
      for (int64_t r = 0; r < rows; ++r) {
        const float* from = block.a + (split.begin(t) + r) * block.a_stride + k0;
        for (int64_t k = 0; k < depth; ++k) to[k * rows + r] = from[k];
      }
    }
  }
}

int64_t packed_floats(int64_t depth, int64_t columns) {
  if (columns == 0) return 0;
  const int64_t last = panel_count(columns) - 1;
  return panel_offset(last, depth) + packed_width(panel_width(last, columns)) * depth;
}

int64_t scratch_floats(int64_t rows, int64_t depth) {
  return rows * min(depth, kDepth) + kLanes;
}

void pack_transposed(const float* source, int64_t stride, int64_t depth, int64_t columns, int64_t first,
                     int64_t last, float* panels) {
  for (int64_t p = first; p < last; ++p) {
    const int64_t width = panel_width(p, columns), packed = packed_width(width);
    float* to = panels + panel_offset(p, depth);
    for (int64_t j = 0; j < packed; ++j) {
      const float* from = source + (p * kPanel + j) * stride;
      for (int64_t k = 0; k < depth; ++k) to[k * packed + j] = j < width ? from[k] : 0.0f;
    }
  }
}

void pack(const float* source, int64_t stride, int64_t depth, int64_t columns, int64_t first, int64_t last,
          float* panels) {
  for (int64_t p = first; p < last; ++p) {
    const int64_t width = panel_width(p, columns), packed = packed_width(width);
    float* to = panels + panel_offset(p, depth);
    for (int64_t k = 0; k < depth; ++k) {
      const float* from = source + k * stride + p * kPanel;
      for (int64_t j = 0; j < packed; ++j) to[k * packed + j] = j < width ? from[j] : 0.0f;
    }
  }
}

void multiply(const GemmBlock& block, float* scratch) {
  if (block.rows == 0 || block.first_panel == block.last_panel) return;
  const RowSplit split(block.rows);
  for (int64_t k0 = 0; k0 < block.depth; k0 += kDepth) {
    const int64_t depth = min(kDepth, block.depth - k0);
    pack_a(block, split, k0, depth, scratch);
    for (int64_t p0 = block.first_panel; p0 < block.last_panel; p0 += kColumns / kPanel) {
      const int64_t p1 = min(p0 + kColumns / kPanel, block.last_panel);
      for (int64_t t = 0; t < split.tiles; ++t) {
        const int64_t rows = split.size(t);
        const float* a = scratch + split.begin(t) * depth;
        for (int64_t p = p0; p < p1; ++p) {
          const int64_t width = panel_width(p, block.columns), packed = packed_width(width);
          const float* b = block.panels + panel_offset(p, block.depth) + k0 * packed;
          float* c = block.c + split.begin(t) * block.c_stride + p * kPanel;
          const TileStart start{k0 == 0 && block.bias != nullptr ? block.bias + p * kPanel : nullptr,
                                k0 > 0 || block.accumulate};
          if (width == packed) {
            tiles.entry[rows - 1][packed / kLanes - 1](depth, a, b, c, block.c_stride, start);
          } else {
            edge_tile(rows, width, depth, a, b, c, block.c_stride, start);
          }
        }
      }
    }
  }
}

}  // namespace

const GemmKernels& gemm_kernels() {
  static constexpr GemmKernels kernels{kPanel,          packed_floats, scratch_floats,
                                       pack_transposed, pack,          multiply};
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
