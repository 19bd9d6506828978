#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusparse.h>

#include <memory>

#include "kernels/cuda/status.hpp"

// The vendor's objects, each ended by its owner.

namespace coppice::cuda {

template <auto End>
struct Ender {
  template <class T>
  void operator()(T* handle) const noexcept {
    End(handle);
  }
};

using Stream = std::unique_ptr<CUstream_st, Ender<cudaStreamDestroy>>;
using Event = std::unique_ptr<CUevent_st, Ender<cudaEventDestroy>>;
using Blas = std::unique_ptr<cublasContext, Ender<cublasDestroy_v2>>;
using Sparse = std::unique_ptr<cusparseContext, Ender<cusparseDestroy>>;

/// The one stream: it doesn't wait for the legacy default stream, nor does that wait for it.
inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  COPPICE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return Stream(stream);
}

/// For ordering, not for timing, which would cost a write by the device.
inline Event make_event() {
  cudaEvent_t event = nullptr;
  COPPICE_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return Event(event);
}

inline Blas make_blas() {
  cublasHandle_t handle = nullptr;
  COPPICE_CUDA(cublasCreate_v2(&handle));
  return Blas(handle);
}

inline Sparse make_sparse() {
  cusparseHandle_t handle = nullptr;
  COPPICE_CUDA(cusparseCreate(&handle));
  return Sparse(handle);
}

}  // namespace coppice::cuda
