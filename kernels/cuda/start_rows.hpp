#pragma once

#include "kernels/cuda/context.hpp"

namespace coppice::cuda {

/// What a product adds to: y [n, out] = bias (or 0), or y += bias where `accumulate`; bias [out] or empty.
void start_rows(const CudaContext& context, VectorView<const float> bias, bool accumulate,
                MatrixView<float> y);

}  // namespace coppice::cuda
