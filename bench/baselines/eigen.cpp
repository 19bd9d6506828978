// Eigen, dense or (with the argument "sparse") compressed rows, compiled for the machine that it is built on.

#include <Eigen/Core>
#include <Eigen/SparseCore>
#include <string_view>

#include "bench/baselines/protocol.hpp"

namespace coppice::bench {
namespace {

using Dense = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Sparse = Eigen::SparseMatrix<float, Eigen::RowMajor, int>;

/// A stream is a column of x, and x is row-major: what Eigen's products like best.
struct State {
  Dense w, x, y;
  Sparse sparse;
};

std::function<std::vector<double>()> probe(std::shared_ptr<State> state) {
  return [state] {
    return std::vector<double>{state->y(0, 0), state->y(state->y.rows() - 1, state->y.cols() - 1)};
  };
}

std::shared_ptr<State> make_state(Problem& p) {
  Eigen::setNbThreads(p.threads);
  auto state = std::make_shared<State>();
  state->x = Eigen::Map<const Dense>(p.x.data(), p.batch, p.cols).transpose();
  state->y = Dense::Zero(p.rows, p.batch);
  return state;
}

Prepared prepare_dense(Problem& p) {
  const auto state = make_state(p);
  state->w = Eigen::Map<const Dense>(p.w.data(), p.rows, p.cols);
  if (p.batch == 1) {
    return {[state] { state->y.col(0).noalias() = state->w * state->x.col(0); }, probe(state)};
  }
  return {[state] { state->y.noalias() = state->w * state->x; }, probe(state)};
}

Prepared prepare_sparse(Problem& p) {
  const auto state = make_state(p);
  state->sparse = Eigen::Map<const Dense>(p.w.data(), p.rows, p.cols).sparseView();
  state->sparse.makeCompressed();
  if (p.batch == 1) {
    return {[state] { state->y.col(0).noalias() = state->sparse * state->x.col(0); }, probe(state)};
  }
  return {[state] { state->y.noalias() = state->sparse * state->x; }, probe(state)};
}

}  // namespace
}  // namespace coppice::bench

int main(int argc, char** argv) {
  const bool sparse = argc > 1 && std::string_view(argv[1]) == "sparse";
  const std::string version = std::to_string(EIGEN_WORLD_VERSION) + "." +
                              std::to_string(EIGEN_MAJOR_VERSION) + "." + std::to_string(EIGEN_MINOR_VERSION);
  return coppice::bench::serve("Eigen", version,
                               sparse ? coppice::bench::prepare_sparse : coppice::bench::prepare_dense);
}
