#pragma once

#include <cstdint>
#include <limits>

#include "kernels/cpu/layouts/compressed_rows.hpp"
#include "kernels/cpu/layouts/stored_values.hpp"
#include "kernels/cpu/memory.hpp"

namespace coppice::cpu {

/// Where the entries of a sparse form, in their own order, take their values over from when a dense W was
/// changed: a permutation, made at the first refresh, so that the later ones (one a training step) read
/// nonzeros and nothing else. 4 bytes an entry.
class EntrySources {
 public:
  /// for_each_entry(body) calls body(row, column, entry) for all but the padding, which stays as it is.
  template <class ForEachEntry>
  void take(const DenseValues& from, StoredValues& values, int threads, ForEachEntry for_each_entry) {
    if (!fits(from, values.size())) {
      sources_.assign(values.size(), kPadding);
      largest_ = 0;
      for_each_entry([&](int64_t row, int64_t col, size_t entry) {
        const int64_t place = row * from.row_step + col * from.col_step;
        largest_ = place > largest_ ? place : largest_;
        sources_[entry] = static_cast<uint32_t>(place);
      });
      row_step_ = from.row_step;
      col_step_ = from.col_step;
    }
    if (largest_ < kPadding) return gather(from.data, values, threads);
    for_each_entry([&](int64_t row, int64_t col, size_t entry) { values.set(entry, from.at(row, col)); });
  }

 private:
  static constexpr uint32_t kPadding = std::numeric_limits<uint32_t>::max();

  bool fits(const DenseValues& from, size_t entries) const {
    return sources_.size() == entries && row_step_ == from.row_step && col_step_ == from.col_step;
  }
  void gather(const float* from, StoredValues& values, int threads) const;

  LargeVector<uint32_t> sources_;
  int64_t row_step_ = 0, col_step_ = 0, largest_ = 0;
};

}  // namespace coppice::cpu
