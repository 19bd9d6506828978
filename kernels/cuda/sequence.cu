#include <cfloat>
#include <climits>
#include <cmath>
#include <memory>

#include "kernels/cuda/context.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/random.hpp"

// Ids, lengths and targets lie on the device, and looking at them there would make the host wait: the data
// layer has checked them. One that is out of range all the same touches no memory outside of the tensors:
// such an id gives NaN and adds nothing, such a target makes its loss NaN, a length counts as the nearest one
// in range.

namespace coppice::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kMostBlocks = int64_t{1} << 20;  // of a grid whose blocks loop

__device__ int64_t thread_of_grid() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}
__device__ int64_t threads_of_grid() {
  return int64_t{gridDim.x} * blockDim.x;
}
__device__ int64_t warp_of_grid() {
  return thread_of_grid() / kWarp;
}
__device__ int64_t warps_of_grid() {
  return threads_of_grid() / kWarp;
}
__device__ int lane() {
  return static_cast<int>(threadIdx.x) % kWarp;
}

// Rows that are copied: one warp each, neighbouring lanes neighbouring packs.

/// One warp: row[:] = from[:], or `otherwise` everywhere when there is no such row.
template <int W>
__device__ void copy_row(const float* from, float* row, int64_t cols, float otherwise) {
  for (int64_t c = int64_t{lane()} * W; c < cols; c += kWarp * W) {
    Pack<W> pack;
    if (from != nullptr) {
      pack = load_pack<W>(from + c);
    } else {
      for (float& value : pack.value) value = otherwise;
    }
    store_pack<W>(row + c, pack);
  }
}

template <int W>
__global__ void __launch_bounds__(kThreads)
    embed_rows(MatrixView<const float> table, const int32_t* ids, MatrixView<float> y) {
  for (int64_t r = warp_of_grid(); r < y.rows; r += warps_of_grid()) {
    const int64_t id = ids[r];
    const bool known = id >= 0 && id < table.rows;
    copy_row<W>(known ? table.data + id * table.stride : nullptr, y.data + r * y.stride, y.cols, nanf(""));
  }
}

/// The last valid step of stream b, or −1.
__device__ int64_t last_valid_step(const int32_t* lengths, int64_t b, int64_t steps) {
  const int64_t length = lengths != nullptr ? lengths[b] : steps;
  return (length < 0 ? 0 : length < steps ? length : steps) - 1;
}

template <int W>
__global__ void __launch_bounds__(kThreads)
    last_steps(MatrixView<const float> x, const int32_t* lengths, MatrixView<float> y) {
  for (int64_t b = warp_of_grid(); b < y.rows; b += warps_of_grid()) {
    const int64_t t = last_valid_step(lengths, b, x.rows / y.rows);
    copy_row<W>(t >= 0 ? x.data + (t * y.rows + b) * x.stride : nullptr, y.data + b * y.stride, y.cols, 0.0f);
  }
}

template <int W>
__global__ void __launch_bounds__(kThreads)
    last_steps_backward(MatrixView<const float> dy, const int32_t* lengths, MatrixView<float> dx) {
  for (int64_t r = warp_of_grid(); r < dx.rows; r += warps_of_grid()) {
    const int64_t t = r / dy.rows, b = r % dy.rows;
    const bool last = t == last_valid_step(lengths, b, dx.rows / dy.rows);
    copy_row<W>(last ? dy.data + b * dy.stride : nullptr, dx.data + r * dx.stride, dx.cols, 0.0f);
  }
}

// The gradient of an embedding: the block of the row that is the first of its id looks for the others and
// adds them all, in row order. Most rows are the first or the only one of their id, or end at once.

constexpr int32_t kNoRow = 0x7f7f'7f7f;  // what memset can fill in; above every row number

/// first[id] and last[id] become the first and the last row of the id. Integer minima and maxima: any order
/// of the atomics gives the same.
__global__ void __launch_bounds__(kThreads)
    find_first_and_last(const int32_t* ids, int64_t rows, int64_t vocabulary, int32_t* first, int32_t* last) {
  for (int64_t r = thread_of_grid(); r < rows; r += threads_of_grid()) {
    const int64_t id = ids[r];
    if (id < 0 || id >= vocabulary) continue;
    atomicMin(&first[id], static_cast<int32_t>(r));
    atomicMax(&last[id], static_cast<int32_t>(r));
  }
}

constexpr int kColumnsPerThread = 4;
constexpr int64_t kColumnsPerBlock = kThreads * kColumnsPerThread;

/// Adds `count` rows of dy, in order, into the thread's columns. Four rows at a time: their loads overlap,
/// and only the additions wait for each other.
__device__ void add_rows(MatrixView<const float> dy, const int32_t* rows, int count, int64_t first_column,
                         float (&sums)[kColumnsPerThread]) {
  constexpr int kAhead = 4;
  for (int i = 0; i < count; i += kAhead) {
    float values[kAhead][kColumnsPerThread] = {};
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (i + k >= count) break;
      const float* row = dy.data + rows[i + k] * dy.stride;
#pragma unroll
      for (int c = 0; c < kColumnsPerThread; ++c) {
        const int64_t column = first_column + c * kThreads;
        if (column < dy.cols) values[k][c] = row[column];
      }
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (i + k >= count) break;
#pragma unroll
      for (int c = 0; c < kColumnsPerThread; ++c) sums[c] += values[k][c];
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    add_embedding_rows(const int32_t* ids, MatrixView<const float> dy, MatrixView<float> d_table,
                       const int32_t* first, const int32_t* last) {
  COPPICE_SHARED(int32_t, found, [kThreads]);
  COPPICE_SHARED(int, found_by_warp, [kWarps]);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t first_column = int64_t{blockIdx.y} * kColumnsPerBlock + threadIdx.x;
  for (int64_t r = blockIdx.x; r < dy.rows; r += gridDim.x) {
    const int64_t id = ids[r];
    if (id < 0 || id >= d_table.rows || first[id] != r) continue;  // the same for the whole block
    float* target = d_table.data + id * d_table.stride;
    float sums[kColumnsPerThread];
#pragma unroll
    for (int c = 0; c < kColumnsPerThread; ++c) {
      const int64_t column = first_column + c * kThreads;
      sums[c] = column < dy.cols ? target[column] : 0.0f;
    }
    // One id a thread and tile; the rows that match are packed in order: by warp, then by lane.
    for (int64_t begin = r; begin <= last[id]; begin += kThreads) {
      const int64_t candidate = begin + threadIdx.x;
      const bool match = candidate < dy.rows && ids[candidate] == id;
      const unsigned votes = __ballot_sync(kFullMask, match);
      if (lane() == 0) found_by_warp[warp] = __popc(votes);
      __syncthreads();
      int before = __popc(votes & ((1u << lane()) - 1)), count = 0;
      for (int w = 0; w < kWarps; ++w) {
        before += w < warp ? found_by_warp[w] : 0;
        count += found_by_warp[w];
      }
      if (match) found[before] = static_cast<int32_t>(candidate);
      __syncthreads();  // before the list is read; the next tile's first barrier is what keeps it until then
      add_rows(dy, found, count, first_column, sums);
    }
#pragma unroll
    for (int c = 0; c < kColumnsPerThread; ++c) {
      const int64_t column = first_column + c * kThreads;
      if (column < dy.cols) target[column] = sums[c];
    }
  }
}

// Column sums in two stages: partial sums of chunks of rows, then the chunks in order. How the rows are cut
// depends on their number alone, so that every device gives the same bits.

constexpr int kRowLanes = 8;  // a block is 32 columns wide and 8 rows high
constexpr int64_t kLeastChunk = 128, kMostChunks = 64;

int64_t chunk_rows(int64_t rows) {
  const int64_t even = (rows + kMostChunks - 1) / kMostChunks;
  return even < kLeastChunk ? kLeastChunk : even;
}

/// partials [chunks, cols] = sums over the rows of each chunk; or, without, the only chunk is added to
/// `sums`.
__global__ void __launch_bounds__(kWarp* kRowLanes)
    sum_chunks(MatrixView<const float> x, int64_t chunk, float* partials, float* sums) {
  COPPICE_SHARED(float, by_lane, [kRowLanes][kWarp]);
  const int64_t column = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  const int64_t begin = blockIdx.y * chunk;
  const int64_t end = begin + chunk < x.rows ? begin + chunk : x.rows;
  float sum = 0.0f;
  if (column < x.cols) {
#pragma unroll 8
    for (int64_t r = begin + threadIdx.y; r < end; r += kRowLanes) sum += x.data[r * x.stride + column];
  }
  by_lane[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= x.cols) return;
  for (int k = 1; k < kRowLanes; ++k) sum += by_lane[k][threadIdx.x];
  if (partials != nullptr) {
    partials[blockIdx.y * x.cols + column] = sum;
  } else {
    sums[column] += sum;
  }
}

__global__ void __launch_bounds__(kThreads)
    add_chunks(const float* partials, int64_t chunks, int64_t cols, float* sums) {
  for (int64_t c = thread_of_grid(); c < cols; c += threads_of_grid()) {
    float sum = 0.0f;
#pragma unroll 8
    for (int64_t k = 0; k < chunks; ++k) sum += partials[k * cols + c];
    sums[c] += sum;
  }
}

// Dropout: a thread draws one block of the generator, for the four elements that have its numbers.

struct Dropout {
  RandomStream stream;
  uint32_t threshold;  // dropped when the draw's upper 24 bits are below
  float factor;

  __device__ float apply(float x, uint32_t bits) const { return (bits >> 8) < threshold ? 0.0f : x * factor; }
};

/// W is 4 when a block of draws never lies in two rows and rows allow loads of 16 bytes.
template <int W>
__global__ void __launch_bounds__(kThreads)
    drop(MatrixView<const float> x, Dropout dropout, MatrixView<float> y) {
  const int64_t elements = y.rows * y.cols, blocks = (elements + 3) / 4;
  for (int64_t block = thread_of_grid(); block < blocks; block += threads_of_grid()) {
    const RandomBlock draws = random_block(dropout.stream, static_cast<uint64_t>(block));
    int64_t r = y.rows == 1 ? 0 : block * 4 / y.cols;  // a division costs as much as half of the draw
    int64_t c = block * 4 - r * y.cols;
    if constexpr (W == 4) {
      Pack<4> pack = load_pack<4>(x.data + r * x.stride + c);
#pragma unroll
      for (int k = 0; k < 4; ++k) pack.value[k] = dropout.apply(pack.value[k], draws.word[k]);
      store_pack<4>(y.data + r * y.stride + c, pack);
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (block * 4 + k >= elements) break;
        y.data[r * y.stride + c] = dropout.apply(x.data[r * x.stride + c], draws.word[k]);
        if (++c == y.cols) {
          c = 0;
          ++r;
        }
      }
    }
  }
}

// Losses. A row's result goes to memory, and one block adds them in a fixed order.

struct RowResult {
  double loss;
  int32_t correct;
  int32_t counts;
};

/// totals [3] += the sums over the rows: every thread its own in order, then the threads pairwise.
__global__ void __launch_bounds__(kThreads)
    add_results(const RowResult* results, int64_t rows, double* totals) {
  COPPICE_SHARED(double, losses, [kThreads]);
  COPPICE_SHARED(int64_t, correct, [kThreads]);
  COPPICE_SHARED(int64_t, counts, [kThreads]);
  const unsigned me = threadIdx.x;
  double loss = 0.0;
  int64_t right = 0, counted = 0;
  for (int64_t r = me; r < rows; r += kThreads) {
    loss += results[r].loss;
    right += results[r].correct;
    counted += results[r].counts;
  }
  losses[me] = loss;
  correct[me] = right;
  counts[me] = counted;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (me >= half) continue;
    losses[me] += losses[me + half];
    correct[me] += correct[me + half];
    counts[me] += counts[me + half];
  }
  if (me != 0) return;
  totals[0] += losses[0];
  totals[1] += static_cast<double>(correct[0]);
  totals[2] += static_cast<double>(counts[0]);
}

/// The largest logit and the first column that holds it.
struct Largest {
  float value = -INFINITY;
  int column = INT_MAX;

  __device__ void include(float other, int at) {  // a NaN is never larger
    if (other > value || (other == value && at < column)) {
      value = other;
      column = at;
    }
  }
};

/// What the threads of a row do together: a warp's lanes, or a block of warps. All of them get the result.
template <int kGroup>
struct RowGroup {
  static constexpr int kGroupWarps = kGroup / kWarp;

  __device__ static Largest largest(Largest mine) {
    for (int step = kWarp / 2; step > 0; step /= 2) {
      const float value = __shfl_xor_sync(kFullMask, mine.value, step);
      const int column = __shfl_xor_sync(kFullMask, mine.column, step);
      mine.include(value, column);
    }
    if constexpr (kGroupWarps > 1) {
      COPPICE_SHARED(float, values, [kGroupWarps]);
      COPPICE_SHARED(int, columns, [kGroupWarps]);
      if (lane() == 0) {
        values[threadIdx.x / kWarp] = mine.value;
        columns[threadIdx.x / kWarp] = mine.column;
      }
      __syncthreads();
      for (int w = 0; w < kGroupWarps; ++w) mine.include(values[w], columns[w]);
    }
    return mine;
  }

  /// Partners add the same two numbers, so all lanes have the same bits.
  __device__ static double sum(double mine) {
    for (int step = kWarp / 2; step > 0; step /= 2) mine += __shfl_xor_sync(kFullMask, mine, step);
    if constexpr (kGroupWarps > 1) {
      COPPICE_SHARED(double, sums, [kGroupWarps]);
      if (lane() == 0) sums[threadIdx.x / kWarp] = mine;
      __syncthreads();
      mine = 0.0;
      for (int w = 0; w < kGroupWarps; ++w) mine += sums[w];
    } else {
      __syncwarp();  // no lane goes on to overwrite what another has not read: shuffles don't order memory
    }
    return mine;
  }
};

constexpr int kBlockGroup = 512;  // threads for a wide row
constexpr int kBlocksResident =
    3;  // on a multiprocessor, if the rows fit: one loads, others compute; four would spill
constexpr size_t kReductionBytes = 1024;  // what is left of shared memory for RowGroup's arrays
constexpr int64_t kWarpColumns = 1024;  // up to here one warp takes a row: it stays in the first-level cache

/// A row's softmax cross-entropy and gradient, by kGroup threads: the largest logit, the sum of exponentials,
/// the gradient. With kCached the row is read from memory once and waits in shared memory for the other two
/// passes; without, it comes from the cache again. `d` may be `logits`: each element is read and written by
/// one thread.
template <int kGroup, int W, bool kCached>
__global__ void __launch_bounds__(kGroup == kWarp ? kThreads : kGroup, kGroup == kWarp ? 1 : kBlocksResident)
    softmax_rows(MatrixView<const float> logits, const int32_t* targets, float scale, MatrixView<float> d,
                 RowResult* results) {
  float* cache = nullptr;
  if constexpr (kCached) {
    COPPICE_DYNAMIC_SHARED(float, row);
    cache = row;
  }
  const int cols = static_cast<int>(logits.cols);  // classes are counted in 32 bits
  const int start = static_cast<int>(threadIdx.x) * W;
  const int64_t r = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (r >= logits.rows) return;  // whole warps
  const float* x = logits.data + r * logits.stride;
  float* dx = d.data != nullptr ? d.data + r * d.stride : nullptr;
  const int target = targets[r];
  if (target < 0) {
    for (int c = start; dx != nullptr && c < cols; c += kGroup * W) store_pack<W>(dx + c, Pack<W>{});
    if (threadIdx.x == 0) results[r] = {};
    return;
  }
  const float wanted = target < cols ? x[target] : nanf("");

  Largest largest;
#pragma unroll 4
  for (int c = start; c < cols; c += kGroup * W) {
    const Pack<W> pack = load_pack<W>(x + c);
    if constexpr (kCached) store_pack<W>(cache + c, pack);
#pragma unroll
    for (int k = 0; k < W; ++k) largest.include(pack.value[k], c + k);
  }
  largest = RowGroup<kGroup>::largest(largest);

  // A thread adds few enough terms that float is exact to a few ulp; the threads are added in double. It
  // finds in shared memory what it put there itself.
  float sum = 0.0f;
  for (int c = start; c < cols; c += kGroup * W) {
    Pack<W> pack = load_pack<W>(kCached ? cache + c : x + c);
#pragma unroll
    for (int k = 0; k < W; ++k) {
      pack.value[k] = expf(pack.value[k] - largest.value);
      sum += pack.value[k];
    }
    if constexpr (kCached) store_pack<W>(cache + c, pack);
  }
  const double total = RowGroup<kGroup>::sum(sum);

  if (dx != nullptr) {
    const auto factor = static_cast<float>(scale / total);
    for (int c = start; c < cols; c += kGroup * W) {
      Pack<W> pack = load_pack<W>(kCached ? cache + c : x + c);
#pragma unroll
      for (int k = 0; k < W; ++k) {
        const float term = kCached ? pack.value[k] : expf(pack.value[k] - largest.value);
        pack.value[k] = term * factor - (c + k == target ? scale : 0.0f);
      }
      store_pack<W>(dx + c, pack);
    }
  }
  if (threadIdx.x == 0) {
    const double loss = log(total) + (static_cast<double>(largest.value) - static_cast<double>(wanted));
    results[r] = {loss, largest.column == target, 1};
  }
}

__global__ void __launch_bounds__(kThreads)
    sigmoid_rows(MatrixView<const float> logits, const int32_t* targets, float scale, MatrixView<float> d,
                 RowResult* results) {
  for (int64_t r = thread_of_grid(); r < logits.rows; r += threads_of_grid()) {
    const int32_t target = targets[r];
    double gradient = 0.0;
    RowResult result{};
    if (target >= 0) {
      const double x = target < 2 ? logits.data[r * logits.stride] : nan("");
      const double e = exp(-fabs(x));  // ln(1 + e^x) without overflow
      result = {log1p(e) + (x > 0.0 ? x : 0.0) - x * target, (x > 0.0) == (target == 1), 1};
      gradient = scale * ((x < 0.0 ? e : 1.0) / (1.0 + e) - target);
    }
    if (d.data != nullptr) d.data[r * d.stride] = static_cast<float>(gradient);
    results[r] = result;
  }
}

using SoftmaxKernel = void (*)(MatrixView<const float>, const int32_t*, float, MatrixView<float>, RowResult*);

template <int kGroup>
SoftmaxKernel softmax_kernel(bool packs, bool cached) {
  if constexpr (kGroup > kWarp) {
    if (cached) return packs ? softmax_rows<kGroup, 4, true> : softmax_rows<kGroup, 1, true>;
  }
  return packs ? softmax_rows<kGroup, 4, false> : softmax_rows<kGroup, 1, false>;
}

class CudaSequence final : public SequenceOps {
 public:
  explicit CudaSequence(CudaContext& context)
      : context_(context),
        places_(*context.memory, "the rows of each id"),
        partials_(*context.memory, "partial column sums"),
        results_(*context.memory, "the losses of rows") {
    const auto most = static_cast<int>(context.shared_bytes_per_block - kReductionBytes);
    cached_columns_ = most / static_cast<int>(sizeof(float));
    for (const bool packs : {false, true}) {
      COPPICE_CUDA(cudaFuncSetAttribute(softmax_kernel<kBlockGroup>(packs, true),
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, most));
    }
  }

 private:
  /// Warps that loop over rows.
  dim3 warps_for(int64_t rows) const { return blocks_for(rows, kWarps, kMostBlocks); }

  void embed_impl(MatrixView<const float> table, VectorView<const int32_t> ids,
                  MatrixView<float> y) override {
    context_.make_current();
    const bool packs = in_packs_of_four(table) && in_packs_of_four(y);
    launch(packs ? embed_rows<4> : embed_rows<1>, warps_for(y.rows), kThreads, 0, context_.stream, table,
           ids.data, y);
  }

  void embed_backward_impl(VectorView<const int32_t> ids, MatrixView<const float> dy,
                           MatrixView<float> d_table) override {
    context_.make_current();
    if (dy.rows >= kNoRow) bad_input("embed_backward: {} rows, expected fewer than {}", dy.rows, kNoRow);
    const int64_t vocabulary = d_table.rows;
    const size_t bytes = static_cast<size_t>(vocabulary) * sizeof(int32_t);
    int32_t* first = places_.reserve<int32_t>(2 * vocabulary);
    int32_t* last = first + vocabulary;
    COPPICE_CUDA(cudaMemsetAsync(first, 0x7f, bytes, context_.stream));  // kNoRow
    COPPICE_CUDA(cudaMemsetAsync(last, 0xff, bytes, context_.stream));   // −1
    launch(find_first_and_last, blocks_for(dy.rows, kThreads, kMostBlocks), kThreads, 0, context_.stream,
           ids.data, dy.rows, vocabulary, first, last);
    const dim3 grid(blocks_for(dy.rows, 1, kMostBlocks), blocks_for(dy.cols, kColumnsPerBlock, 65'535));
    launch(add_embedding_rows, grid, kThreads, 0, context_.stream, ids.data, dy, d_table, first, last);
  }

  void add_column_sums_impl(MatrixView<const float> x, VectorView<float> sums) override {
    context_.make_current();
    const int64_t chunk = chunk_rows(x.rows), chunks = (x.rows + chunk - 1) / chunk;
    float* partials = chunks > 1 ? partials_.reserve<float>(chunks * x.cols) : nullptr;
    const dim3 grid(blocks_for(x.cols, kWarp, INT_MAX), static_cast<unsigned>(chunks));
    launch(sum_chunks, grid, dim3(kWarp, kRowLanes), 0, context_.stream, x, chunk, partials, sums.data);
    if (partials == nullptr) return;
    launch(add_chunks, blocks_for(x.cols, kThreads, kMostBlocks), kThreads, 0, context_.stream, partials,
           chunks, x.cols, sums.data);
  }

  void dropout_impl(MatrixView<const float> x, float probability, RandomStream stream,
                    MatrixView<float> y) override {
    context_.make_current();
    if (x.stride == x.cols && y.stride == y.cols) {  // without gaps: one long row
      x = {x.data, 1, x.rows * x.cols, x.rows * x.cols, x.device};
      y = {y.data, 1, y.rows * y.cols, y.rows * y.cols, y.device};
    }
    // A uniform draw is k·2⁻²⁴ with k the upper 24 bits, so (draw < p) is (k < ⌈p·2²⁴⌉).
    const Dropout dropout{stream, static_cast<uint32_t>(std::ceil(static_cast<double>(probability) * 0x1p24)),
                          1.0f / (1.0f - probability)};
    const bool packs = in_packs_of_four(x) && in_packs_of_four(y);
    const int64_t blocks = (y.rows * y.cols + 3) / 4;
    launch(packs ? drop<4> : drop<1>, blocks_for(blocks, kThreads, context_.full_grid(32)), kThreads, 0,
           context_.stream, x, dropout, y);
  }

  void last_step_impl(MatrixView<const float> x, VectorView<const int32_t> lengths,
                      MatrixView<float> y) override {
    context_.make_current();
    const bool packs = in_packs_of_four(x) && in_packs_of_four(y);
    launch(packs ? last_steps<4> : last_steps<1>, warps_for(y.rows), kThreads, 0, context_.stream, x,
           lengths.empty() ? nullptr : lengths.data, y);
  }

  void last_step_backward_impl(MatrixView<const float> dy, VectorView<const int32_t> lengths,
                               MatrixView<float> dx) override {
    context_.make_current();
    const bool packs = in_packs_of_four(dy) && in_packs_of_four(dx);
    launch(packs ? last_steps_backward<4> : last_steps_backward<1>, warps_for(dx.rows), kThreads, 0,
           context_.stream, dy, lengths.empty() ? nullptr : lengths.data, dx);
  }

  void softmax_cross_entropy_impl(MatrixView<const float> logits, VectorView<const int32_t> targets,
                                  float scale, MatrixView<float> d_logits,
                                  VectorView<double> totals) override {
    context_.make_current();
    if (logits.cols > INT_MAX / 2) {
      bad_input("softmax_cross_entropy: {} classes, expected at most {}", logits.cols, INT_MAX / 2);
    }
    auto* results = results_.reserve<RowResult>(logits.rows);
    const bool packs = in_packs_of_four(logits) && (d_logits.data == nullptr || in_packs_of_four(d_logits));
    if (logits.cols <= kWarpColumns) {
      launch(softmax_kernel<kWarp>(packs, false), blocks_for(logits.rows, kWarps, INT_MAX),
             dim3(kWarp, kWarps), 0, context_.stream, logits, targets.data, scale, d_logits, results);
    } else {
      const bool cached = logits.cols <= cached_columns_;
      const size_t shared = cached ? static_cast<size_t>(logits.cols) * sizeof(float) : 0;
      launch(softmax_kernel<kBlockGroup>(packs, cached), blocks_for(logits.rows, 1, INT_MAX), kBlockGroup,
             shared, context_.stream, logits, targets.data, scale, d_logits, results);
    }
    add_totals(results, logits.rows, totals);
  }

  void sigmoid_cross_entropy_impl(MatrixView<const float> logits, VectorView<const int32_t> targets,
                                  float scale, MatrixView<float> d_logits,
                                  VectorView<double> totals) override {
    context_.make_current();
    auto* results = results_.reserve<RowResult>(logits.rows);
    launch(sigmoid_rows, blocks_for(logits.rows, kThreads, kMostBlocks), kThreads, 0, context_.stream, logits,
           targets.data, scale, d_logits, results);
    add_totals(results, logits.rows, totals);
  }

  void add_totals(const RowResult* results, int64_t rows, VectorView<double> totals) {
    launch(add_results, 1, kThreads, 0, context_.stream, results, rows, totals.data);
  }

  CudaContext& context_;
  Scratch places_, partials_, results_;
  int64_t cached_columns_;  // the longest row that waits in shared memory
};

}  // namespace

std::unique_ptr<SequenceOps> make_sequence(CudaContext& context) {
  return std::make_unique<CudaSequence>(context);
}

}  // namespace coppice::cuda
