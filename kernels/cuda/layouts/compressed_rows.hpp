#pragma once

#include <cstdint>

#include "kernels/cuda/context.hpp"
#include "kernels/cuda/memory.hpp"

namespace coppice::cuda {

/// How column numbers are stored: two bytes where they do, because they are half of what a product reads.
enum class IndexWidth { two_bytes, four_bytes };

/// A matrix [rows, cols] in compressed rows (CSR) in device memory: the nonzeros of row r, by ascending
/// column, are those numbered offsets[r] to offsets[r + 1] − 1.
struct CompressedRows {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t nonzeros = 0;
  IndexWidth width = IndexWidth::four_bytes;
  DeviceArray<int32_t> offsets;  // [rows + 1]
  DeviceArray<char> indices;     // [nonzeros] of uint16_t or int32_t
  DeviceArray<float> values;     // [nonzeros]

  int64_t bytes() const { return offsets.bytes() + indices.bytes() + values.bytes(); }
};

/// The nonzeros of a dense matrix; zeros of either sign are left out. Waits for the device. Throws
/// Error(bad_input) beyond 2^31 − 1 rows, columns or nonzeros.
CompressedRows compress(const CudaContext& context, MatrixView<const float> values, IndexWidth width);

/// The transpose in compressed rows of its own, and where its values come from: [nonzeros], so that value q
/// of the transpose is value permutation[q] of `a`. The values themselves are not copied yet. No atomics: the
/// same arrays in every run.
CompressedRows transpose(const CudaContext& context, const CompressedRows& a, IndexWidth width,
                         DeviceArray<int32_t>& permutation);

/// a.values = those of `values` at the places of `a`.
void gather(const CudaContext& context, MatrixView<const float> values, const CompressedRows& a);

/// values += those numbered like a's nonzeros, at the places of `a`.
void scatter_add(const CudaContext& context, const CompressedRows& a, const float* numbered,
                 MatrixView<float> values);

/// to[q] = from[permutation[q]].
void permute(const CudaContext& context, const DeviceArray<int32_t>& permutation, const float* from,
             float* to);

/// The narrowest width for columns 0 … cols − 1.
inline IndexWidth narrowest(int64_t cols) {
  return cols <= int64_t{1} << 16 ? IndexWidth::two_bytes : IndexWidth::four_bytes;
}

/// Calls body(const uint16_t*) or body(const int32_t*) with the column numbers.
template <class Body>
void with_indices(const CompressedRows& a, Body&& body) {
  if (a.width == IndexWidth::two_bytes) {
    body(reinterpret_cast<uint16_t*>(a.indices.data()));
  } else {
    body(reinterpret_cast<int32_t*>(a.indices.data()));
  }
}

}  // namespace coppice::cuda
