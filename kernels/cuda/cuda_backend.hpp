#pragma once

#include <memory>

#include "kernels/backend.hpp"
#include "kernels/cuda/context.hpp"
#include "kernels/cuda/handles.hpp"
#include "kernels/cuda/memory.hpp"

namespace coppice::cuda {

/// A GPU as a device. Everything is queued on one stream; `synchronize`, `download` and the selection (whose
/// contract returns counts) wait for it.
class CudaBackend final : public Backend {
 public:
  /// The caller has seen that there is a device `index`.
  CudaBackend(int index, const BackendOptions& options);
  ~CudaBackend() override;

  DeviceInfo info() const override;

  void* allocate(int64_t bytes, std::string_view what) override;
  void release(void* data, int64_t bytes) noexcept override;
  void upload(const void* host, void* device, int64_t bytes) override;
  void download(const void* device, void* host, int64_t bytes) override;
  void copy(const void* from, void* to, int64_t bytes) override;
  void copy(MatrixView<const float> from, MatrixView<float> to) override;
  void fill_zero(void* data, int64_t bytes) override;
  void synchronize() override;

  // Whoever asks for operations calls one next, from this thread: its device is made current here.
  RecurrenceOps& recurrence() override { return current(*recurrence_); }
  SequenceOps& sequence() override { return current(*sequence_); }
  OptimizerOps& optimizer() override { return current(*optimizer_); }
  SelectionOps& selection() override { return current(*selection_); }

  std::unique_ptr<Weight> make_weight(std::string_view layout, MatrixView<const float> values,
                                      DType type) override;
  std::vector<std::string_view> layouts() const override;
  std::string_view sparse_layout() const override { return "csr"; }

 private:
  template <class Ops>
  Ops& current(Ops& operations) const {
    context_.make_current();
    return operations;
  }

  // In this order they are made, and in the reverse one destroyed.
  CudaContext context_;
  Stream stream_;
  std::unique_ptr<DeviceMemory> memory_;
  std::unique_ptr<UploadRing> uploads_;
  Scratch transposed_rows_;
  DeviceArray<char> blas_workspace_;
  Blas blas_;
  Sparse sparse_;
  std::unique_ptr<RecurrenceOps> recurrence_;
  std::unique_ptr<SequenceOps> sequence_;
  std::unique_ptr<OptimizerOps> optimizer_;
  std::unique_ptr<SelectionOps> selection_;
};

}  // namespace coppice::cuda
