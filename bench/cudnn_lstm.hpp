#pragma once

#include <cstdint>
#include <memory>

namespace coppice::bench {

/// A training step of one LSTM layer by cuDNN, in plain float32: forward, both backward passes. The yardstick of
/// what dense training on this card can be. x, y and gradients [T·B, ·], time-major, all steps valid.
class CudnnLstm {
 public:
  CudnnLstm(int64_t steps, int64_t batch, int64_t inputs, int64_t hidden);
  ~CudnnLstm();

  void train();
  void synchronize();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace coppice::bench
