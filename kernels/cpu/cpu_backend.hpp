#pragma once

#include <memory>

#include "kernels/backend.hpp"
#include "kernels/cpu/context.hpp"

namespace coppice::cpu {

/// The CPU as a device. Work is done when a call returns, so `synchronize` has nothing to wait for.
class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const BackendOptions& options);

  DeviceInfo info() const override;

  void* allocate(int64_t bytes, std::string_view what) override;
  void release(void* data, int64_t bytes) noexcept override;
  void upload(const void* host, void* device, int64_t bytes) override;
  void download(const void* device, void* host, int64_t bytes) override;
  void copy(const void* from, void* to, int64_t bytes) override;
  void copy(MatrixView<const float> from, MatrixView<float> to) override;
  void fill_zero(void* data, int64_t bytes) override;
  void synchronize() override {}

  RecurrenceOps& recurrence() override { return *recurrence_; }
  SequenceOps& sequence() override { return *sequence_; }
  OptimizerOps& optimizer() override { return *optimizer_; }
  SelectionOps& selection() override { return *selection_; }

  std::unique_ptr<Weight> make_weight(std::string_view layout, MatrixView<const float> values,
                                      DType type) override;
  std::vector<std::string_view> layouts() const override;
  std::string_view sparse_layout() const override { return "sell"; }
  bool gives_dense_bits(std::string_view layout) const override;
  bool stores(std::string_view layout, DType type) const override;

  const CpuContext& context() const { return context_; }

 private:
  CpuContext context_;
  std::unique_ptr<RecurrenceOps> recurrence_;
  std::unique_ptr<SequenceOps> sequence_;
  std::unique_ptr<OptimizerOps> optimizer_;
  std::unique_ptr<SelectionOps> selection_;
};

}  // namespace coppice::cpu
