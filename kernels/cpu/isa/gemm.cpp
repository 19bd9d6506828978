#include "kernels/cpu/isa/gemm.hpp"

#include "kernels/cpu/isa/transpose.hpp"

// Compiled once per instruction set. Everything but the table at the end is local to the file.
namespace coppice::cpu::COPPICE_ISA {
namespace {

// A tile of C: kRows rows x 2 vectors of accumulators, the most that leaves registers for two vectors of B
// and one broadcast element of A (32 registers with AVX-512, else 16).
#if defined(COPPICE_ISA_avx512)
constexpr int kRows = 14;
#elif defined(COPPICE_ISA_avx2)
constexpr int kRows = 6;
#else
constexpr int kRows = 6;
#endif
constexpr int kPanel = 2 * kLanes;
// The narrowest panel. SSE's registers have no half worth using.
constexpr int kHalf = kLanes > 4 ? kLanes / 2 : kLanes;

// Blocks: of the depth, so that a panel's slice (32 KiB with AVX-512) and an A tile (16 KiB) stream from L2
// side by side; of B's columns, so that a slice of them (256 KiB) stays in L2 while all tiles of a row block
// pass over it; of A's rows, so that what is packed of them (256 KiB) stays there too, with room for the next
// slices on their way.
constexpr int64_t kDepthBlock = 256;
constexpr int64_t kPanelBlock = 256 / kPanel;
constexpr int64_t kRowBlock = 16 * kRows;
// Up to so many rows, B is the bigger operand by far and passes through the caches once: panel by panel, all
// tiles.
constexpr int64_t kFewRows = 3 * kRows;

using Vec = Floats;
typedef float VecU __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef float HalfVec __attribute__((vector_size(kHalf * 4)));
typedef float HalfVecU __attribute__((vector_size(kHalf * 4), aligned(4), may_alias));

struct Whole {
  static constexpr int kWidth = kLanes;
  typedef Vec Type;
  static Vec load(const float* p) { return *reinterpret_cast<const VecU*>(p); }
  static Vec load(const uint16_t* p) { return load_stored(p); }
  static void store(float* p, Vec v) { *reinterpret_cast<VecU*>(p) = v; }
};
struct Half {
  static constexpr int kWidth = kHalf;
  typedef HalfVec Type;
  static HalfVec load(const float* p) { return *reinterpret_cast<const HalfVecU*>(p); }
  static HalfVec load(const uint16_t* p) {
    typedef uint16_t Narrow __attribute__((vector_size(kHalf * 2)));
    typedef uint32_t Wide __attribute__((vector_size(kHalf * 4)));
    return reinterpret_cast<HalfVec>(__builtin_convertvector(load_as<Narrow>(p), Wide) << 16);
  }
  static void store(float* p, HalfVec v) { *reinterpret_cast<HalfVecU*>(p) = v; }
};
inline Vec load(const float* p) {
  return Whole::load(p);
}
inline void store(float* p, Vec v) {
  Whole::store(p, v);
}

inline int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}

/// The depth in even blocks of at most kDepthBlock.
inline int64_t depth_block(int64_t depth) {
  const int64_t blocks = (depth + kDepthBlock - 1) / kDepthBlock;
  return (depth + blocks - 1) / blocks;
}

/// B's columns in panels, [depth][panel's columns]: of kPanel, and at the end what wastes least: one of
/// kPanel, of kLanes or of kHalf, or one of kLanes and one of kHalf. (With 200 columns, a common width, whole
/// vectors alone would waste one lane in twenty-six, with 50 one in four.)
struct Panels {
  int64_t full, rest;
  bool two_for_rest;
  explicit Panels(int64_t columns)
      : full(columns / kPanel),
        rest(columns % kPanel),
        two_for_rest(kHalf < kLanes && rest > kLanes && rest <= kLanes + kHalf) {}
  int64_t count() const { return full + (rest == 0 ? 0 : two_for_rest ? 2 : 1); }
  /// Its first column, in B and in what is packed: only the last panel holds padding.
  int64_t begin(int64_t p) const { return p <= full ? p * kPanel : full * kPanel + kLanes; }
  int64_t width(int64_t p) const {
    return p < full ? kPanel : p > full ? rest - kLanes : two_for_rest ? kLanes : rest;
  }
  /// Columns that it takes when packed.
  int64_t packed(int64_t p) const { return packed_width(width(p)); }
  static int64_t packed_width(int64_t width) {
    return width > kLanes ? kPanel : width > kHalf ? kLanes : kHalf;
  }
};

/// C [R rows, P panels of V vectors] (+)= A [depth][a_step >= R] · B [depth][V vectors] in each of the
/// panels, whose elements are stored as float or as bfloat16.
template <class Stored>
struct TileWork {
  int64_t depth;
  const float* a;
  int64_t a_step;
  const Stored* b;
  int64_t b_panel;  // from one of the P panels to the next
  float* c;
  int64_t c_stride;
  const float* bias;  // of the tile's first column, or null
  bool from_c;
  const Stored* next_b;  // brought into the cache meanwhile, this many elements for each k
  int64_t next_b_step;
  const float* next_c;  // the next tile of C: its loads would otherwise wait for memory
};

template <class T, int R, int V, int P, class Stored>
void tile(const TileWork<Stored>& work) {
  typedef typename T::Type Vector;
  constexpr int kWidth = T::kWidth;
  constexpr int kColumns = V * P;
  Vector sum[R][kColumns];
  const int64_t c_stride = work.c_stride;
  if (work.from_c) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kColumns; ++v) sum[r][v] = T::load(work.c + r * c_stride + v * kWidth);
    }
  } else {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kColumns; ++v) sum[r][v] = Vector{};
    }
  }
  if (work.bias != nullptr) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kColumns; ++v) sum[r][v] += T::load(work.bias + v * kWidth);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kColumns; ++v) __builtin_prefetch(work.next_c + r * c_stride + v * kWidth);
  }
  const float* a = work.a;
  const int64_t a_step = work.a_step;
  const Stored* b = work.b;
  const Stored* next_b = work.next_b;
  for (int64_t k = 0; k < work.depth; ++k) {
    Vector w[kColumns];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) w[p * V + v] = T::load(b + p * work.b_panel + v * kWidth);
    }
    // A single row reads every line once, in several streams: the processor's own prefetchers do better
    // there.
    if (P == 1) {
      __builtin_prefetch(next_b);
      if (kLanes == 16 && V == 2) __builtin_prefetch(next_b + kLanes);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const float x = a[r];
#pragma GCC unroll 8
      for (int v = 0; v < kColumns; ++v) sum[r][v] += x * w[v];
    }
    a += a_step;
    b += V * kWidth;
    next_b += work.next_b_step;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kColumns; ++v) T::store(work.c + r * c_stride + v * kWidth, sum[r][v]);
  }
}

template <class Stored>
using Tile = void (*)(const TileWork<Stored>&);

/// Panels that one to three rows take at a time: eight chains or more, enough to hide an FMA's latency.
constexpr int64_t wide_panels(int64_t rows) {
  return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
}

/// Tiles of up to kMost rows.
template <class Stored, int kMost>
struct TileTable {
  using Entry = Tile<Stored>;
  Entry half[kMost], one[kMost], two[kMost];  // [rows - 1]: panels of kHalf, kLanes, kPanel columns
  Entry wide[kMost < 3 ? kMost : 3];

  template <int R>
  constexpr void fill() {
    half[R - 1] = tile<Half, R, 1, 1, Stored>;
    one[R - 1] = tile<Whole, R, 1, 1, Stored>;
    two[R - 1] = tile<Whole, R, 2, 1, Stored>;
    if constexpr (R <= 3) wide[R - 1] = tile<Whole, R, 2, wide_panels(R), Stored>;
    if constexpr (R > 1) fill<R - 1>();
  }
  constexpr TileTable() { fill<kMost>(); }
};
// constexpr: an initialiser that runs at start would run on processors without these instructions.
constexpr TileTable<float, kRows> float_tiles;
// One row reads every element once. For more of them a slice is widened first, and is floats from then on.
constexpr TileTable<uint16_t, 1> rounded_tiles;

inline const TileTable<float, kRows>& tiles_of(const float*) {
  return float_tiles;
}
inline const TileTable<uint16_t, 1>& tiles_of(const uint16_t*) {
  return rounded_tiles;
}

/// One tile, `width` of whose packed columns are real; at C's right edge it is computed beside C, then
/// copied.
template <class Stored>
void run_tile(int64_t rows, int64_t width, TileWork<Stored>& work) {
  const int64_t packed = Panels::packed_width(width);
  const auto& tiles = tiles_of(work.b);
  const Tile<Stored> tile = (packed == kPanel   ? tiles.two
                             : packed == kLanes ? tiles.one
                                                : tiles.half)[rows - 1];
  if (width == packed) return tile(work);

  alignas(64) float buffer[kRows * kPanel];
  alignas(64) float bias[kPanel] = {};
  float* const c = work.c;
  const int64_t c_stride = work.c_stride;
  if (work.from_c) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < packed; ++j) buffer[r * packed + j] = j < width ? c[r * c_stride + j] : 0.0f;
    }
  }
  if (work.bias != nullptr) {
    for (int64_t j = 0; j < width; ++j) bias[j] = work.bias[j];
    work.bias = bias;
  }
  work.c = buffer;
  work.c_stride = packed;
  tile(work);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < width; ++j) c[r * c_stride + j] = buffer[r * packed + j];
  }
}

/// What a tile's rows take in packed A for each depth: a power of two, so that they are copied by whole
/// aligned vectors and the kernel reads one line of the cache a step.
constexpr int64_t kStep = (kRows + kLanes - 1) / kLanes * kLanes;

/// Rows of the tiles: all within one of each other, so that none is thin.
struct RowSplit {
  int64_t tiles, base, larger, step;
  explicit RowSplit(int64_t rows)
      : tiles((rows + kRows - 1) / kRows), base(rows / tiles), larger(rows % tiles) {
    step = kStep;
    while (step / 2 >= base + (larger > 0 ? 1 : 0)) step /= 2;
  }
  int64_t begin(int64_t t) const { return t * base + min(t, larger); }
  int64_t size(int64_t t) const { return base + (t < larger ? 1 : 0); }
  /// Packed A of all tiles, [tile][depth][step].
  int64_t floats(int64_t depth) const { return tiles * depth * step; }
  int64_t offset(int64_t t, int64_t depth) const { return t * depth * step; }
};

// Depths that are packed of all tiles or panels before the next ones: a matrix is read in so many streams.
constexpr int64_t kDepthsAtOnce = 8;

/// Fewer than kPanel elements, where whole vectors would read or write past the end.
inline void copy_narrow(const float* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kHalf <= count; i += kHalf) Half::store(to + i, Half::load(from + i));
  for (; i < count; ++i) to[i] = from[i];
}

/// Whether tiles read A where it lies. By depth, a tile's rows lie side by side, so each depth is one or two
/// lines of the cache: packing gains nothing, unless the tile uses only a part of the line (fewer rows than
/// with AVX-512) or the stride throws all the lines into few sets of the cache.
inline bool reads_in_place(const GemmBlock& block) {
  return block.a_by_depth && kLanes == 16 && block.a_stride % 32 != 0;
}

/// A's rows of every tile for depths [k0, k0 + depth), one stream for the kernel. Rows lie as far apart as
/// they please in A itself: at strides of a power of two they would fight for one set of the cache.
void pack_a(const GemmBlock& block, int64_t first_row, const RowSplit& split, int64_t k0, int64_t depth,
            float* packed) {
  if (split.step == 1) {
    const float* from = block.a + first_row * (block.a_by_depth ? 1 : block.a_stride);
    const int64_t stride = block.a_by_depth ? block.a_stride : 1;
    for (int64_t k = 0; k < depth; ++k) packed[k] = from[(k0 + k) * stride];
    return;
  }
  if (!block.a_by_depth) {
    for (int64_t t = 0; t < split.tiles; ++t) {
      const float* from = block.a + (first_row + split.begin(t)) * block.a_stride + k0;
      for (int64_t r = 0; r < split.size(t); r += kLanes) {
        transpose_rows(from + r * block.a_stride, block.a_stride, split.size(t) - r, depth,
                       packed + split.offset(t, depth) + r, split.step);
      }
    }
    return;
  }
  // One tile over the whole depth would touch a new page at every step.
  for (int64_t k1 = 0; k1 < depth; k1 += kDepthsAtOnce) {
    const int64_t steps = min(kDepthsAtOnce, depth - k1);
    for (int64_t t = 0; t < split.tiles; ++t) {
      const float* from = block.a + (k0 + k1) * block.a_stride + first_row + split.begin(t);
      float* to = packed + split.offset(t, depth) + k1 * split.step;
      if (split.step == kStep && first_row + split.begin(t) + kStep <= block.rows) {
        for (int64_t k = 0; k < steps; ++k, from += block.a_stride, to += kStep) {
#pragma GCC unroll 2
          for (int64_t v = 0; v < kStep; v += kLanes) store(to + v, load(from + v));
        }
      } else {
        for (int64_t k = 0; k < steps; ++k, from += block.a_stride, to += split.step) {
          copy_narrow(from, split.size(t), to);
        }
      }
    }
  }
}

int64_t panel_count(int64_t columns) {
  return Panels(columns).count();
}

int64_t packed_floats(int64_t depth, int64_t columns) {
  const Panels panels(columns);
  if (panels.count() == 0) return 0;
  const int64_t last = panels.count() - 1;
  return (panels.begin(last) + panels.packed(last)) * depth + kLanes;
}

int64_t scratch_floats(int64_t rows, int64_t depth, bool pack_b) {
  const int64_t block = depth_block(depth);
  if (pack_b) return RowSplit(rows).floats(block) + kLanes + kPanelBlock * kPanel * block;
  return (rows <= kFewRows ? RowSplit(rows).floats(depth) : RowSplit(min(rows, kRowBlock)).floats(block)) +
         kLanes;
}

/// One panel of B for `depth` steps; `from` is its first element.
void pack_panel_transposed(const float* from, int64_t stride, int64_t depth, int64_t width, float* to) {
  const int64_t packed = Panels::packed_width(width);
  for (int64_t j = 0; j < packed; j += kLanes) {
    transpose_rows(from + j * stride, stride, width - j, depth, to + j, packed);
  }
}

/// The rows of B [depth, columns] -> slices of panels [first, last), which lie at `to_panels`, `panel_depth`
/// deep each.
void pack_rows(const float* source, int64_t stride, int64_t depth, int64_t columns, int64_t first,
               int64_t last, float* to_panels, int64_t panel_depth) {
  const Panels panels(columns);
  for (int64_t k1 = 0; k1 < depth; k1 += kDepthsAtOnce) {
    const int64_t steps = min(kDepthsAtOnce, depth - k1);
    for (int64_t p = first; p < last; ++p) {
      const int64_t width = panels.width(p), packed = panels.packed(p);
      const float* from = source + k1 * stride + panels.begin(p);
      float* to = to_panels + (panels.begin(p) - panels.begin(first)) * panel_depth + k1 * packed;
      for (int64_t k = 0; k < steps; ++k, from += stride, to += packed) {
        for (int64_t j = 0; j < width; j += 16) __builtin_prefetch(from + 2 * kDepthsAtOnce * stride + j);
        if (width == kPanel) {
          store(to, load(from));
          store(to + kLanes, load(from + kLanes));
        } else {
          copy_narrow(from, width, to);
          for (int64_t j = width; j < packed; ++j) to[j] = 0.0f;
        }
      }
    }
  }
}

void pack_transposed(const float* source, int64_t stride, int64_t depth, int64_t columns, int64_t first,
                     int64_t last, float* to) {
  const Panels panels(columns);
  for (int64_t p = first; p < last; ++p) {
    pack_panel_transposed(source + panels.begin(p) * stride, stride, depth, panels.width(p),
                          to + panels.begin(p) * depth);
  }
}

void pack(const float* source, int64_t stride, int64_t depth, int64_t columns, int64_t first, int64_t last,
          float* to) {
  pack_rows(source, stride, depth, columns, first, last, to + Panels(columns).begin(first) * depth, depth);
}

/// Brings a part of a matrix into L2, a few lines at a time between the tiles: packing it later then does not
/// wait for memory, which has nothing else to do while tiles multiply.
struct Fetch {
  const float* row = nullptr;
  int64_t stride = 0, rows = 0, cols = 0;
  int64_t col = 0;

  static Fetch of_a(const GemmBlock& block, int64_t first_row, int64_t rows, int64_t k0, int64_t depth) {
    return block.a_by_depth ? Fetch{block.a + k0 * block.a_stride + first_row, block.a_stride, depth, rows}
                            : Fetch{block.a + first_row * block.a_stride + k0, block.a_stride, rows, depth};
  }
  static Fetch of_b(const GemmBlock& block, int64_t column, int64_t columns, int64_t k0, int64_t depth) {
    return block.b_by_column ? Fetch{block.b + column * block.b_stride + k0, block.b_stride, columns, depth}
                             : Fetch{block.b + k0 * block.b_stride + column, block.b_stride, depth, columns};
  }
  int64_t lines() const { return rows * (cols / 16 + 1); }
  void next(int64_t lines) {
    for (; lines > 0 && rows > 0; --lines) {
      __builtin_prefetch(row + (col < cols ? col : cols - 1), 0, 2);
      col += 16;
      if (col >= cols + 16) {  // one more than the row's length holds: it may begin within a line
        col = 0;
        row += stride;
        --rows;
      }
    }
  }
};

/// What all tiles of a share have in common.
template <class Stored>
inline TileWork<Stored> tile_work(const GemmBlock& block, int64_t column, int64_t row, int64_t k0,
                                  int64_t depth, const float* a, int64_t a_step, const Stored* b) {
  TileWork<Stored> work;
  work.depth = depth;
  work.a = a;
  work.a_step = a_step;
  work.b = b;
  work.b_panel = kPanel * block.depth;
  work.c = block.c + row * block.c_stride + column;
  work.c_stride = block.c_stride;
  work.bias = k0 == 0 && block.bias != nullptr ? block.bias + column : nullptr;
  work.from_c = k0 > 0 || block.accumulate;
  work.next_b = work.b;
  work.next_b_step = 0;
  work.next_c = work.c;
  return work;
}

/// Few rows: panel by panel, all of A packed beforehand. While one slice of a panel is multiplied the next
/// one is brought in, a share of it by every tile.
template <class Stored>
void multiply_few(const GemmBlock& block, const Stored* b, float* scratch) {
  const RowSplit split(block.rows);
  const int64_t depth_step = depth_block(block.depth);
  for (int64_t k0 = 0; k0 < block.depth; k0 += depth_step) {
    pack_a(block, 0, split, k0, min(depth_step, block.depth - k0), scratch + split.floats(k0));
  }
  const Panels panels(block.columns);
  const int64_t step = wide_panels(block.rows);
  for (int64_t p = block.first_panel; p < block.last_panel;) {
    const bool wide = step > 1 && p + step <= min(block.last_panel, panels.full);
    const int64_t width = panels.width(p), packed = panels.packed(p);
    for (int64_t k0 = 0; k0 < block.depth; k0 += depth_step) {
      const int64_t depth = min(depth_step, block.depth - k0);
      for (int64_t t = 0; t < split.tiles; ++t) {
        TileWork<Stored> work = tile_work(block, panels.begin(p), split.begin(t), k0, depth,
                                          scratch + split.floats(k0) + split.offset(t, depth), split.step,
                                          b + panels.begin(p) * block.depth + k0 * packed);
        if (wide) {
          tiles_of(b).wide[block.rows - 1](work);
          continue;
        }
        work.next_b_step = packed / split.tiles;
        work.next_b = work.b + packed * depth + t * depth * work.next_b_step;
        run_tile(split.size(t), width, work);
      }
    }
    p += wide ? step : 1;
  }
}

/// All tiles of some rows, packed at `a` unless they are read in place, against panels [p0, p1), which begin
/// at `b` and hold `b_depth` depths from `b_depth_begin` on.
void multiply_tiles(const GemmBlock& block, int64_t row, const RowSplit& split, int64_t k0, int64_t depth,
                    const float* a, int64_t p0, int64_t p1, const float* b, int64_t b_depth,
                    int64_t b_depth_begin, Fetch& fetch, int64_t fetch_lines) {
  const Panels panels(block.columns);
  const auto slice = [&](int64_t p) {
    return b + (panels.begin(p) - panels.begin(p0)) * b_depth + (k0 - b_depth_begin) * panels.packed(p);
  };
  const bool in_place = reads_in_place(block);
  const int64_t a_step = in_place ? block.a_stride : split.step;
  for (int64_t t = 0; t < split.tiles; ++t) {
    const float* tile_a =
        in_place ? block.a + k0 * block.a_stride + row + split.begin(t) : a + split.offset(t, depth);
    for (int64_t p = p0; p < p1; ++p) {
      const int64_t width = panels.width(p);
      TileWork<float> work =
          tile_work(block, panels.begin(p), row + split.begin(t), k0, depth, tile_a, a_step, slice(p));
      if (p + 1 < p1) {
        work.next_b = slice(p + 1);
        work.next_b_step = panels.packed(p);
        work.next_c += panels.begin(p + 1) - panels.begin(p);
      } else {
        work.next_c += split.size(t) * block.c_stride - (panels.begin(p) - panels.begin(p0));
      }
      fetch.next(fetch_lines);
      run_tile(split.size(t), width, work);
    }
  }
}

/// Many rows, B in panels.
void multiply_many(const GemmBlock& block, float* scratch) {
  const int64_t depth_step = depth_block(block.depth);
  const int64_t columns = (block.last_panel - block.first_panel) * kPanel;
  const int64_t depth_blocks = (block.depth + depth_step - 1) / depth_step;
  const int64_t row_blocks = (block.rows + kRowBlock - 1) / kRowBlock;
  // What is read again from beyond L2: C for every block of the depth, or B for every block of the rows.
  const bool depth_outside =
      2 * block.rows * columns * (depth_blocks - 1) <= block.depth * columns * (row_blocks - 1);
  for (int64_t i = 0; i < depth_blocks * row_blocks; ++i) {
    const auto bounds = [&](int64_t step) {
      struct Bounds {
        int64_t row, rows, k0, depth;
      };
      const int64_t row = kRowBlock * (depth_outside ? step % row_blocks : step / depth_blocks);
      const int64_t k0 = depth_step * (depth_outside ? step / row_blocks : step % depth_blocks);
      return Bounds{row, min(kRowBlock, block.rows - row), k0, min(depth_step, block.depth - k0)};
    };
    const auto [row, rows, k0, depth] = bounds(i);
    const RowSplit split(rows);
    if (!reads_in_place(block)) pack_a(block, row, split, k0, depth, scratch);
    Fetch fetch;
    if (i + 1 < depth_blocks * row_blocks) {
      const auto next = bounds(i + 1);
      fetch = Fetch::of_a(block, next.row, next.rows, next.k0, next.depth);
    }
    const int64_t fetch_lines = fetch.lines() / (split.tiles * (block.last_panel - block.first_panel)) + 1;
    for (int64_t p0 = block.first_panel; p0 < block.last_panel; p0 += kPanelBlock) {
      const int64_t p1 = min(p0 + kPanelBlock, block.last_panel);
      const float* b = block.panels + Panels(block.columns).begin(p0) * block.depth;
      multiply_tiles(block, row, split, k0, depth, scratch, p0, p1, b, block.depth, 0, fetch, fetch_lines);
    }
  }
}

/// Rows of A that are packed at a time when B is packed on the way: all, lest they be packed again for every
/// slice of B's columns; but a block that L2 holds, beside C's rows, where one slice is all of B's columns.
inline int64_t packing_rows(int64_t rows, int64_t panels) {
  return panels <= kPanelBlock ? min(rows, kRowBlock) : rows;
}

/// Panels [p0, p1) of B for depths [k0, k0 + depth), from where it lies.
void pack_slice(const GemmBlock& block, int64_t k0, int64_t depth, int64_t p0, int64_t p1, float* to) {
  const Panels panels(block.columns);
  if (block.rounded_panels == nullptr && !block.b_by_column) {
    pack_rows(block.b + k0 * block.b_stride, block.b_stride, depth, block.columns, p0, p1, to, depth);
    return;
  }
  for (int64_t p = p0; p < p1; ++p) {
    float* panel = to + (panels.begin(p) - panels.begin(p0)) * depth;
    if (block.rounded_panels == nullptr) {
      pack_panel_transposed(block.b + panels.begin(p) * block.b_stride + k0, block.b_stride, depth,
                            panels.width(p), panel);
      continue;
    }
    const int64_t packed = panels.packed(p);
    const uint16_t* from = block.rounded_panels + panels.begin(p) * block.depth + k0 * packed;
    for (int64_t i = 0; i < depth * packed; i += kHalf) Half::store(panel + i, Half::load(from + i));
  }
}

/// Many rows, B as it lies or rounded: a slice is packed, then all rows pass over it. For weights that
/// changed since they were last used it saves writing the panels to memory and reading them back.
void multiply_packing(const GemmBlock& block, float* scratch) {
  const int64_t depth_step = depth_block(block.depth);
  const int64_t row_step = packing_rows(block.rows, block.last_panel - block.first_panel);
  const Panels panels(block.columns);
  float* const b = scratch + RowSplit(row_step).floats(depth_step) + kLanes;
  for (int64_t k0 = 0; k0 < block.depth; k0 += depth_step) {
    const int64_t depth = min(depth_step, block.depth - k0);
    for (int64_t p0 = block.first_panel; p0 < block.last_panel; p0 += kPanelBlock) {
      const int64_t p1 = min(p0 + kPanelBlock, block.last_panel);
      pack_slice(block, k0, depth, p0, p1, b);
      for (int64_t row = 0; row < block.rows; row += row_step) {
        const int64_t rows = min(row_step, block.rows - row);
        const RowSplit split(rows);
        if (row_step < block.rows || p0 == block.first_panel) pack_a(block, row, split, k0, depth, scratch);
        Fetch fetch;
        if (row + rows < block.rows) {
          fetch = Fetch::of_a(block, row + rows, min(row_step, block.rows - row - rows), k0, depth);
        } else if (block.rounded_panels == nullptr && p1 < block.last_panel) {
          const int64_t columns = min(kPanelBlock * kPanel, block.columns - panels.begin(p1));
          fetch = Fetch::of_b(block, panels.begin(p1), columns, k0, depth);
        } else if (k0 + depth < block.depth) {
          fetch = Fetch::of_a(block, 0, row_step, k0 + depth, min(depth_step, block.depth - k0 - depth));
        }
        multiply_tiles(block, row, split, k0, depth, scratch, p0, p1, b, depth, k0, fetch,
                       fetch.lines() / (split.tiles * (p1 - p0)) + 1);
      }
    }
  }
}

void multiply(const GemmBlock& block, float* scratch) {
  if (block.rows == 0 || block.first_panel == block.last_panel) return;
  if (block.rounded_panels != nullptr && block.rows == 1) {
    return multiply_few(block, block.rounded_panels, scratch);
  }
  if (block.panels == nullptr) return multiply_packing(block, scratch);
  block.rows <= kFewRows ? multiply_few(block, block.panels, scratch) : multiply_many(block, scratch);
}

}  // namespace

const GemmKernels& gemm_kernels() {
  static constexpr GemmKernels kernels{kPanel,          panel_count, packed_floats, scratch_floats,
                                       pack_transposed, pack,        multiply};
  return kernels;
}

}  // namespace coppice::cpu::COPPICE_ISA
