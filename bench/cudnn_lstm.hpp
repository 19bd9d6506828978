#pragma once

#include <cstdint>
#include <memory>

namespace coppice::bench {

/// One LSTM layer by cuDNN, in plain float32: the yardstick of what a dense one can be on this card. x, y and
/// gradients [T·B, ·], time-major, all steps valid.
class CudnnLstm {
 public:
  /// For training steps, by cuDNN's standard algorithm.
  CudnnLstm(int64_t steps, int64_t batch, int64_t inputs, int64_t hidden);
  /// The recurrence alone (the input goes to the gates as it is), by the fastest of cuDNN's algorithms,
  /// persistent ones included, that take these sizes.
  static std::unique_ptr<CudnnLstm> fastest_recurrence(int64_t steps, int64_t batch, int64_t hidden);
  ~CudnnLstm();

  /// Forward and both backward passes.
  void train();
  /// Forward without what a backward pass would need.
  void infer();
  void synchronize();
  /// The algorithm's name, as cuDNN has it.
  const char* algorithm() const;

 private:
  struct State;
  explicit CudnnLstm(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace coppice::bench
