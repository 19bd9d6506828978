// SuiteSparse:GraphBLAS: a sparse matrix by a full one over plus-times.

extern "C" {
#include <GraphBLAS.h>
}

#include <memory>
#include <stdexcept>

#include "bench/baselines/protocol.hpp"

namespace coppice::bench {
namespace {

void check(GrB_Info info) {
  if (info != GrB_SUCCESS && info != GrB_NO_VALUE) {
    throw std::runtime_error("GraphBLAS: error " + std::to_string(info));
  }
}

struct State {
  GrB_Matrix w = nullptr, x = nullptr, y = nullptr;
  ~State() { GrB_Matrix_free(&w), GrB_Matrix_free(&x), GrB_Matrix_free(&y); }
};

GrB_Matrix full(int64_t rows, int64_t cols, const float* values) {
  GrB_Matrix matrix = nullptr;
  check(GrB_Matrix_new(&matrix, GrB_FP32, static_cast<GrB_Index>(rows), static_cast<GrB_Index>(cols)));
  std::vector<GrB_Index> row, col;
  std::vector<float> kept;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      row.push_back(static_cast<GrB_Index>(r)), col.push_back(static_cast<GrB_Index>(c));
      kept.push_back(values[r * cols + c]);
    }
  }
  check(GrB_Matrix_build_FP32(matrix, row.data(), col.data(), kept.data(), kept.size(), GrB_PLUS_FP32));
  check(GrB_Matrix_wait(matrix, GrB_MATERIALIZE));
  return matrix;
}

Prepared prepare(Problem& p) {
  check(GxB_Global_Option_set(GxB_GLOBAL_NTHREADS, p.threads));
  auto state = std::make_shared<State>();
  check(GrB_Matrix_new(&state->w, GrB_FP32, static_cast<GrB_Index>(p.rows), static_cast<GrB_Index>(p.cols)));
  std::vector<GrB_Index> row, col;
  std::vector<float> kept;
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t c = 0; c < p.cols; ++c) {
      const float value = p.w[static_cast<size_t>(r * p.cols + c)];
      if (value == 0.0f) continue;
      row.push_back(static_cast<GrB_Index>(r)), col.push_back(static_cast<GrB_Index>(c));
      kept.push_back(value);
    }
  }
  check(GrB_Matrix_build_FP32(state->w, row.data(), col.data(), kept.data(), kept.size(), GrB_PLUS_FP32));
  check(GrB_Matrix_wait(state->w, GrB_MATERIALIZE));
  const std::vector<float> x = transposed(p.x, p.batch, p.cols), y(static_cast<size_t>(p.rows * p.batch));
  state->x = full(p.cols, p.batch, x.data());
  state->y = full(p.rows, p.batch, y.data());
  const auto rows = static_cast<GrB_Index>(p.rows), batch = static_cast<GrB_Index>(p.batch);
  return {
      [state] {
        check(GrB_mxm(state->y, nullptr, nullptr, GrB_PLUS_TIMES_SEMIRING_FP32, state->w, state->x, nullptr));
        check(GrB_Matrix_wait(state->y, GrB_MATERIALIZE));
      },
      [state, rows, batch] {
        float first = 0, last = 0;
        check(GrB_Matrix_extractElement_FP32(&first, state->y, 0, 0));
        check(GrB_Matrix_extractElement_FP32(&last, state->y, rows - 1, batch - 1));
        return std::vector<double>{first, last};
      }};
}

}  // namespace
}  // namespace coppice::bench

int main() {
  GrB_init(GrB_NONBLOCKING);
  const std::string version = std::to_string(GxB_IMPLEMENTATION_MAJOR) + "." +
                              std::to_string(GxB_IMPLEMENTATION_MINOR) + "." +
                              std::to_string(GxB_IMPLEMENTATION_SUB);
  const int result = coppice::bench::serve("GraphBLAS", version, coppice::bench::prepare);
  GrB_finalize();
  return result;
}
