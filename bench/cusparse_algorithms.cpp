// What cuSPARSE's algorithms cost beside each other, for the products of a pruned recurrent step: the layout
// "cusparse" takes those that promise the same bits in every run, and this is the price of that promise.
//   bench_cusparse_algorithms --benchmark_filter='H:1024'
// y [B, 4H] = x [B, H] · Wᵀ, W [4H, H] in compressed rows, 32-bit numbers; times from CUDA events, hot cache,
// medians. The counter "differs" is 1 when ten runs did not all give the same bits.

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/handles.hpp"
#include "kernels/cuda/status.hpp"
#include "kernels/random.hpp"

namespace coppice::bench {
namespace {

using cuda::Ender;
constexpr int kTurns = 11;
constexpr int kCallsPerTurn = 50;

/// An array in device memory with these values.
template <class T>
class Array {
 public:
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    COPPICE_CUDA(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  explicit Array(size_t count) {
    COPPICE_CUDA(cudaMalloc(reinterpret_cast<void**>(&data_), std::max<size_t>(count, 1) * sizeof(T)));
  }
  ~Array() { static_cast<void>(cudaFree(data_)); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
};

struct Case {
  int64_t hidden, batch;
  int zeros;  // percent
};

/// The recurrent weight of an LSTM with `zeros` percent of it cut at random.
struct HostRows {
  std::vector<int32_t> offsets{0}, indices;
  std::vector<float> values;

  explicit HostRows(const Case& c) {
    const RandomStream stream{17, static_cast<uint64_t>(c.hidden)};
    const float limit = static_cast<float>(c.zeros) / 100.0f;
    for (int64_t row = 0; row < 4 * c.hidden; ++row) {
      for (int64_t col = 0; col < c.hidden; ++col) {
        const RandomBlock draw = random_block(stream, static_cast<uint64_t>(row * c.hidden + col));
        if (to_uniform(draw.word[0]) < limit) continue;
        indices.push_back(static_cast<int32_t>(col));
        values.push_back(to_uniform(draw.word[1]) - 0.5f);
      }
      offsets.push_back(static_cast<int32_t>(indices.size()));
    }
  }
};

/// One product, prepared: `run` queues it.
class Product {
 public:
  Product(cudaStream_t stream, const Case& c, bool vector, int algorithm)
      : stream_(stream),
        rows_(c),
        offsets_(rows_.offsets),
        indices_(rows_.indices),
        values_(rows_.values),
        x_(std::vector<float>(static_cast<size_t>(c.batch * c.hidden), 0.25f)),
        y_(static_cast<size_t>(c.batch * 4 * c.hidden)),
        size_(static_cast<size_t>(c.batch * 4 * c.hidden)),
        vector_(vector),
        algorithm_(algorithm),
        handle_(cuda::make_sparse()) {
    COPPICE_CUDA(cusparseSetStream(handle_.get(), stream));
    cusparseSpMatDescr_t a = nullptr;
    COPPICE_CUDA(cusparseCreateCsr(&a, 4 * c.hidden, c.hidden, static_cast<int64_t>(rows_.values.size()),
                                   offsets_.data(), indices_.data(), values_.data(), CUSPARSE_INDEX_32I,
                                   CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, CUDA_R_32F));
    a_.reset(a);
    size_t bytes = 0;
    if (vector) {
      cusparseDnVecDescr_t from = nullptr, to = nullptr;
      COPPICE_CUDA(cusparseCreateDnVec(&from, c.hidden, x_.data(), CUDA_R_32F));
      from_vector_.reset(from);
      COPPICE_CUDA(cusparseCreateDnVec(&to, 4 * c.hidden, y_.data(), CUDA_R_32F));
      to_vector_.reset(to);
      COPPICE_CUDA(cusparseSpMV_bufferSize(handle_.get(), kPlain, &one_, a, from, &zero_, to, CUDA_R_32F,
                                           static_cast<cusparseSpMVAlg_t>(algorithm), &bytes));
    } else {  // row-major [B, n] is column-major [n, B]
      cusparseDnMatDescr_t from = nullptr, to = nullptr;
      COPPICE_CUDA(
          cusparseCreateDnMat(&from, c.hidden, c.batch, c.hidden, x_.data(), CUDA_R_32F, CUSPARSE_ORDER_COL));
      from_.reset(from);
      COPPICE_CUDA(cusparseCreateDnMat(&to, 4 * c.hidden, c.batch, 4 * c.hidden, y_.data(), CUDA_R_32F,
                                       CUSPARSE_ORDER_COL));
      to_.reset(to);
      COPPICE_CUDA(cusparseSpMM_bufferSize(handle_.get(), kPlain, kPlain, &one_, a, from, &zero_, to,
                                           CUDA_R_32F, static_cast<cusparseSpMMAlg_t>(algorithm), &bytes));
    }
    workspace_ = std::make_unique<Array<char>>(bytes);
    if (!vector) {
      COPPICE_CUDA(cusparseSpMM_preprocess(handle_.get(), kPlain, kPlain, &one_, a, from_.get(), &zero_,
                                           to_.get(), CUDA_R_32F, static_cast<cusparseSpMMAlg_t>(algorithm),
                                           workspace_->data()));
    }
  }

  void run() {
    if (vector_) {
      COPPICE_CUDA(cusparseSpMV(handle_.get(), kPlain, &one_, a_.get(), from_vector_.get(), &zero_,
                                to_vector_.get(), CUDA_R_32F, static_cast<cusparseSpMVAlg_t>(algorithm_),
                                workspace_->data()));
    } else {
      COPPICE_CUDA(cusparseSpMM(handle_.get(), kPlain, kPlain, &one_, a_.get(), from_.get(), &zero_,
                                to_.get(), CUDA_R_32F, static_cast<cusparseSpMMAlg_t>(algorithm_),
                                workspace_->data()));
    }
  }

  std::vector<float> result() {
    run();
    COPPICE_CUDA(cudaStreamSynchronize(stream_));
    std::vector<float> host(size_);
    COPPICE_CUDA(cudaMemcpy(host.data(), y_.data(), size_ * sizeof(float), cudaMemcpyDeviceToHost));
    return host;
  }

 private:
  static constexpr auto kPlain = CUSPARSE_OPERATION_NON_TRANSPOSE;
  const float one_ = 1.0f, zero_ = 0.0f;
  cudaStream_t stream_;
  HostRows rows_;
  Array<int32_t> offsets_, indices_;
  Array<float> values_, x_, y_;
  size_t size_;
  bool vector_;
  int algorithm_;
  cuda::Sparse handle_;
  std::unique_ptr<cusparseSpMatDescr, Ender<cusparseDestroySpMat>> a_;
  std::unique_ptr<cusparseDnMatDescr, Ender<cusparseDestroyDnMat>> from_, to_;
  std::unique_ptr<cusparseDnVecDescr, Ender<cusparseDestroyDnVec>> from_vector_, to_vector_;
  std::unique_ptr<Array<char>> workspace_;
};

void measure(benchmark::State& state, const Case& c, bool vector, int algorithm) {
  const cuda::Stream stream = cuda::make_stream();
  Product product(stream.get(), c, vector, algorithm);
  cudaEvent_t begin = nullptr, end = nullptr;
  COPPICE_CUDA(cudaEventCreate(&begin));
  COPPICE_CUDA(cudaEventCreate(&end));
  const std::vector<float> first = product.result();
  bool differs = false;
  for (int i = 0; i < 9; ++i) differs |= product.result() != first;
  std::vector<double> times;
  for (auto _ : state) {
    COPPICE_CUDA(cudaEventRecord(begin, stream.get()));
    for (int i = 0; i < kCallsPerTurn; ++i) product.run();
    COPPICE_CUDA(cudaEventRecord(end, stream.get()));
    COPPICE_CUDA(cudaEventSynchronize(end));
    float milliseconds = 0.0f;
    COPPICE_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    times.push_back(milliseconds * 1e-3 / kCallsPerTurn);
    state.SetIterationTime(times.back());
  }
  std::nth_element(times.begin(), times.begin() + kTurns / 2, times.end());
  state.counters["us"] = times[kTurns / 2] * 1e6;
  state.counters["differs"] = differs ? 1 : 0;
  COPPICE_CUDA(cudaEventDestroy(begin));
  COPPICE_CUDA(cudaEventDestroy(end));
}

void register_all() {
  const std::vector<std::pair<const char*, int>> many = {{"csr_alg1", CUSPARSE_SPMM_CSR_ALG1},
                                                         {"csr_alg2", CUSPARSE_SPMM_CSR_ALG2},
                                                         {"csr_alg3", CUSPARSE_SPMM_CSR_ALG3}};
  const std::vector<std::pair<const char*, int>> one = {{"csr_alg1", CUSPARSE_SPMV_CSR_ALG1},
                                                        {"csr_alg2", CUSPARSE_SPMV_CSR_ALG2}};
  for (const int64_t hidden : {1024, 2048, 4096}) {
    for (const int zeros : {80, 90, 95}) {
      for (const int64_t batch : {1, 4, 16, 64}) {
        for (const bool vector : {true, false}) {
          if (vector && batch > 1) continue;
          for (const auto& [name, algorithm] : vector ? one : many) {
            const Case c{hidden, batch, zeros};
            benchmark::RegisterBenchmark(
                fmt::format("{}/{}/H:{}/B:{}/zeros:{}", vector ? "spmv" : "spmm", name, hidden, batch, zeros)
                    .c_str(),
                [c, vector, algorithm = algorithm](benchmark::State& s) { measure(s, c, vector, algorithm); })
                ->UseManualTime()
                ->Iterations(kTurns)
                ->Unit(benchmark::kMicrosecond);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace coppice::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  try {
    coppice::bench::register_all();
    benchmark::RunSpecifiedBenchmarks();
  } catch (const coppice::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
