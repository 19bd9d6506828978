#include "bench/cudnn_lstm.hpp"

#include <cuda_runtime_api.h>
#include <cudnn.h>

#include <chrono>
#include <utility>
#include <vector>

#include "kernels/error.hpp"

namespace coppice::bench {
namespace {

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) failure("{}: {}", call, cudaGetErrorString(status));
}
void check(cudnnStatus_t status, const char* call) {
  if (status != CUDNN_STATUS_SUCCESS) failure("{}: {}", call, cudnnGetErrorString(status));
}
#define COPPICE_CHECK(...) check((__VA_ARGS__), #__VA_ARGS__)

/// Device memory full of one byte.
class Memory {
 public:
  explicit Memory(size_t bytes, int byte = 0) : bytes_(bytes) {
    COPPICE_CHECK(cudaMalloc(&data_, bytes + 1));  // + 1: never null
    COPPICE_CHECK(cudaMemset(data_, byte, bytes + 1));
  }
  ~Memory() { cudaFree(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

struct Algorithm {
  cudnnRNNAlgo_t number;
  const char* name;
};
constexpr Algorithm kAlgorithms[] = {
    {CUDNN_RNN_ALGO_STANDARD, "STANDARD"},
    {CUDNN_RNN_ALGO_PERSIST_STATIC, "PERSIST_STATIC"},
    {CUDNN_RNN_ALGO_PERSIST_DYNAMIC, "PERSIST_DYNAMIC"},
    {CUDNN_RNN_ALGO_PERSIST_STATIC_SMALL_H, "PERSIST_STATIC_SMALL_H"},
};

}  // namespace

struct CudnnLstm::State {
  State(int64_t steps, int64_t batch, int64_t inputs, int64_t hidden, Algorithm chosen,
        cudnnRNNInputMode_t input_mode, cudnnForwardMode_t forward_mode);

  Algorithm algorithm;
  cudnnForwardMode_t mode;
  cudnnHandle_t handle = nullptr;
  cudaStream_t stream = nullptr;
  cudnnDropoutDescriptor_t dropout = nullptr;
  cudnnRNNDescriptor_t rnn = nullptr;
  cudnnRNNDataDescriptor_t x_shape = nullptr, y_shape = nullptr;
  cudnnTensorDescriptor_t state_shape = nullptr;
  std::unique_ptr<Memory> x, dx, y, dy, weights, d_weights, work, reserve;

  void forward();

  ~State() {
    cudnnDestroyTensorDescriptor(state_shape);
    cudnnDestroyRNNDataDescriptor(y_shape);
    cudnnDestroyRNNDataDescriptor(x_shape);
    cudnnDestroyRNNDescriptor(rnn);
    cudnnDestroyDropoutDescriptor(dropout);
    cudnnDestroy(handle);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
};

CudnnLstm::State::State(int64_t steps, int64_t batch, int64_t inputs, int64_t hidden, Algorithm chosen,
                        cudnnRNNInputMode_t input_mode, cudnnForwardMode_t forward_mode)
    : algorithm(chosen), mode(forward_mode) {
  State& s = *this;
  const int T = static_cast<int>(steps), B = static_cast<int>(batch);
  const int I = static_cast<int>(inputs), H = static_cast<int>(hidden);
  COPPICE_CHECK(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking));
  COPPICE_CHECK(cudnnCreate(&s.handle));
  COPPICE_CHECK(cudnnSetStream(s.handle, s.stream));
  COPPICE_CHECK(cudnnCreateDropoutDescriptor(&s.dropout));
  COPPICE_CHECK(cudnnSetDropoutDescriptor(s.dropout, s.handle, 0.0f, nullptr, 0, 0));
  COPPICE_CHECK(cudnnCreateRNNDescriptor(&s.rnn));
  // FMA: without it cuDNN rounds to tf32 by default, which the other side does only when told to.
  COPPICE_CHECK(cudnnSetRNNDescriptor_v8(s.rnn, chosen.number, CUDNN_LSTM, CUDNN_RNN_DOUBLE_BIAS,
                                         CUDNN_UNIDIRECTIONAL, input_mode, CUDNN_DATA_FLOAT, CUDNN_DATA_FLOAT,
                                         CUDNN_FMA_MATH, I, H, H, 1, s.dropout,
                                         CUDNN_RNN_PADDED_IO_DISABLED));
  if (chosen.number == CUDNN_RNN_ALGO_PERSIST_DYNAMIC)
    COPPICE_CHECK(cudnnBuildRNNDynamic(s.handle, s.rnn, B));
  const std::vector<int> lengths(static_cast<size_t>(B), T);
  float padding = 0.0f;
  const auto describe = [&](cudnnRNNDataDescriptor_t& shape, int width) {
    COPPICE_CHECK(cudnnCreateRNNDataDescriptor(&shape));
    COPPICE_CHECK(cudnnSetRNNDataDescriptor(shape, CUDNN_DATA_FLOAT, CUDNN_RNN_DATA_LAYOUT_SEQ_MAJOR_PACKED,
                                            T, B, width, lengths.data(), &padding));
  };
  describe(s.x_shape, I);
  describe(s.y_shape, H);
  const int sizes[] = {1, B, H}, strides[] = {B * H, H, 1};
  COPPICE_CHECK(cudnnCreateTensorDescriptor(&s.state_shape));
  COPPICE_CHECK(cudnnSetTensorNdDescriptor(s.state_shape, CUDNN_DATA_FLOAT, 3, sizes, strides));

  size_t weight_bytes = 0, work_bytes = 0, reserve_bytes = 0;
  COPPICE_CHECK(cudnnGetRNNWeightSpaceSize(s.handle, s.rnn, &weight_bytes));
  COPPICE_CHECK(cudnnGetRNNTempSpaceSizes(s.handle, s.rnn, s.mode, s.x_shape, &work_bytes, &reserve_bytes));
  const auto floats = [&](int width) {
    return std::make_unique<Memory>(
        static_cast<size_t>(T) * static_cast<size_t>(B) * static_cast<size_t>(width) * sizeof(float),
        0x3c);  // small normal numbers
  };
  s.x = floats(I);
  s.dx = floats(I);
  s.y = floats(H);
  s.dy = floats(H);
  s.weights = std::make_unique<Memory>(weight_bytes, 0x3c);
  s.d_weights = std::make_unique<Memory>(weight_bytes);
  s.work = std::make_unique<Memory>(work_bytes);
  s.reserve = std::make_unique<Memory>(reserve_bytes);
}

CudnnLstm::CudnnLstm(std::unique_ptr<State> state) : state_(std::move(state)) {}
CudnnLstm::CudnnLstm(int64_t steps, int64_t batch, int64_t inputs, int64_t hidden)
    : CudnnLstm(std::make_unique<State>(steps, batch, inputs, hidden, kAlgorithms[0], CUDNN_LINEAR_INPUT,
                                        CUDNN_FWD_MODE_TRAINING)) {}
CudnnLstm::~CudnnLstm() = default;

std::unique_ptr<CudnnLstm> CudnnLstm::fastest_recurrence(int64_t steps, int64_t batch, int64_t hidden) {
  using Clock = std::chrono::steady_clock;
  constexpr int kRuns = 20;
  std::unique_ptr<CudnnLstm> best;
  auto best_time = Clock::duration::max();
  for (const Algorithm algorithm : kAlgorithms) {
    try {
      std::unique_ptr<CudnnLstm> lstm(new CudnnLstm(std::make_unique<State>(
          steps, batch, hidden, hidden, algorithm, CUDNN_SKIP_INPUT, CUDNN_FWD_MODE_INFERENCE)));
      Clock::time_point start;
      for (int run = -3; run < kRuns; ++run) {
        if (run == 0) {
          lstm->synchronize();
          start = Clock::now();
        }
        lstm->infer();
      }
      lstm->synchronize();
      const auto time = Clock::now() - start;
      if (time >= best_time) continue;
      best_time = time;
      best = std::move(lstm);
    } catch (const Error&) {  // not at these sizes
    }
  }
  if (best == nullptr) failure("cuDNN takes no LSTM of {} units and {} streams", hidden, batch);
  return best;
}

const char* CudnnLstm::algorithm() const {
  return state_->algorithm.name;
}

void CudnnLstm::infer() {
  state_->forward();
}

void CudnnLstm::State::forward() {
  State& s = *this;
  COPPICE_CHECK(cudnnRNNForward(s.handle, s.rnn, s.mode, nullptr, s.x_shape, s.x->data(), s.y_shape,
                                s.y->data(), s.state_shape, nullptr, nullptr, s.state_shape, nullptr, nullptr,
                                s.weights->bytes(), s.weights->data(), s.work->bytes(), s.work->data(),
                                s.reserve->bytes(), s.reserve->data()));
}

void CudnnLstm::train() {
  State& s = *state_;
  COPPICE_CHECK(cudaMemsetAsync(s.d_weights->data(), 0, s.d_weights->bytes(), s.stream));
  s.forward();
  COPPICE_CHECK(cudnnRNNBackwardData_v8(
      s.handle, s.rnn, nullptr, s.y_shape, s.y->data(), s.dy->data(), s.x_shape, s.dx->data(), s.state_shape,
      nullptr, nullptr, nullptr, s.state_shape, nullptr, nullptr, nullptr, s.weights->bytes(),
      s.weights->data(), s.work->bytes(), s.work->data(), s.reserve->bytes(), s.reserve->data()));
  COPPICE_CHECK(cudnnRNNBackwardWeights_v8(s.handle, s.rnn, CUDNN_WGRAD_MODE_ADD, nullptr, s.x_shape,
                                           s.x->data(), s.state_shape, nullptr, s.y_shape, s.y->data(),
                                           s.d_weights->bytes(), s.d_weights->data(), s.work->bytes(),
                                           s.work->data(), s.reserve->bytes(), s.reserve->data()));
}

void CudnnLstm::synchronize() {
  COPPICE_CHECK(cudaStreamSynchronize(state_->stream));
}

}  // namespace coppice::bench
