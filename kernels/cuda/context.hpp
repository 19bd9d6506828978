#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusparse.h>

#include <memory>
#include <string_view>

#include "kernels/backend.hpp"
#include "kernels/cuda/memory.hpp"
#include "kernels/optimizer.hpp"
#include "kernels/recurrence.hpp"
#include "kernels/selection.hpp"
#include "kernels/sequence.hpp"
#include "kernels/weight.hpp"

namespace coppice::cuda {

/// What every family of operations is told when the backend opens; the backend owns it and outlives them.
/// Everything is queued on one stream. Nothing here may be called with another device current: the backend's
/// entry points see to that.
struct CudaContext {
  Device device;  // cuda:index
  cudaStream_t stream = nullptr;
  cublasHandle_t blas = nullptr;      // on `stream`, with a workspace of its own, so that it can be captured
  cusparseHandle_t sparse = nullptr;  // on `stream`, scalars on the host
  DeviceMemory* memory = nullptr;     // the caching allocator
  Scratch* transposed_rows =
      nullptr;  // of the sparse products: graphs may hold it, so it keeps what it outgrows
  MatmulPrecision matmul = MatmulPrecision::fp32;  // of the dense products
  int multiprocessors = 1;
  size_t shared_bytes_per_block = 48 << 10;  // the opt-in maximum
  bool cooperative = false;                  // cooperative launches are supported

  /// A grid that fills the device once with blocks that loop: `per_multiprocessor` blocks on each.
  int64_t full_grid(int per_multiprocessor = 4) const {
    return int64_t{multiprocessors} * per_multiprocessor;
  }

  /// Which device is current belongs to each thread of the host.
  void make_current() const {
    int current = -1;
    COPPICE_CUDA(cudaGetDevice(&current));
    if (current != device.index) COPPICE_CUDA(cudaSetDevice(device.index));
  }
};

// The families, each defined beside its kernels.
std::unique_ptr<RecurrenceOps> make_recurrence(CudaContext& context);
std::unique_ptr<SequenceOps> make_sequence(CudaContext& context);
std::unique_ptr<OptimizerOps> make_optimizer(CudaContext& context);
std::unique_ptr<SelectionOps> make_selection(CudaContext& context);

}  // namespace coppice::cuda
