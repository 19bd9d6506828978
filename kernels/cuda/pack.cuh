#pragma once

#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/tensor.hpp"

namespace coppice::cuda {

/// W neighbouring floats that a thread moves at once: 16 bytes when W is 4.
template <int W>
struct alignas(W * sizeof(float)) Pack {
  float value[W];
};

template <int W>
__device__ Pack<W> load_pack(const float* at) {
  return *reinterpret_cast<const Pack<W>*>(at);
}
template <int W>
__device__ void store_pack(float* at, const Pack<W>& pack) {
  *reinterpret_cast<Pack<W>*>(at) = pack;
}

/// Whether every row of the matrix is whole packs of four at addresses that such a load accepts.
template <class T>
bool in_packs_of_four(const MatrixView<T>& matrix) {
  return matrix.cols % 4 == 0 && (matrix.stride % 4 == 0 || matrix.rows == 1) &&
         reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0;
}

}  // namespace coppice::cuda
