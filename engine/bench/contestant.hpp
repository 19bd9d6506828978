#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "engine/bench/problem.hpp"
#include "engine/bench/turns.hpp"
#include "kernels/backend.hpp"

namespace coppice::bench {

/// One that takes turns, of this library's own: weights in a layout on a device, and the work on them.
struct Contestant {
  std::string name;
  int64_t nonzeros = 0;     // of all matrices
  int64_t bytes = 0;        // that one call reads of them
  double operations = 0.0;  // of the nonzeros alone, in one call
  Turn turn;
};

/// The matrices of a cell in one layout; made once, used for every batch.
class CellWeights {
 public:
  /// `input` is not used by a product. Throws Error(bad_input) where a matrix is not of the layout's pattern.
  CellWeights(Backend& backend, std::string_view layout, DType values, const HostMatrix* input,
              const HostMatrix& recurrent);

  /// What a batch of streams does with them. The weights must outlive it.
  Contestant contestant(std::string name, Work work, Cell cell, int64_t batch, int64_t steps);

 private:
  std::unique_ptr<Weight> make(std::string_view layout, DType values, const HostMatrix& matrix);

  Backend& backend_;
  std::vector<Buffer> values_;  // of weights that refer to theirs
  std::unique_ptr<Weight> input_, recurrent_;
};

}  // namespace coppice::bench
