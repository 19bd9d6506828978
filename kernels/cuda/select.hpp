#pragma once

#include <optional>
#include <vector>

#include "kernels/cuda/context.hpp"
#include "kernels/cuda/select_kernels.hpp"
#include "kernels/cuda/transfer.hpp"

namespace coppice::cuda {

/// Selection as passes over device memory (select_kernels.hpp). A pass is one launch whose counts come back
/// in one small copy; candidates, samples and bins follow in a second one. Only integers are added across
/// threads, so results don't depend on how those are scheduled.
class CudaSelection final : public SelectionOps {
 public:
  explicit CudaSelection(CudaContext& context);

  void sample(const Scoring& scoring, const ScoreBlock& block, std::span<const int64_t> starts,
              std::vector<Key>& keys) override;
  BlockCount bracket(const Scoring& scoring, const ScoreBlock& block, Key low, Key high, uint64_t capacity,
                     std::vector<Place>& candidates) override;
  BlockCount histogram(const Scoring& scoring, const ScoreBlock& block, const KeyWindow& window,
                       uint64_t* bins) override;
  uint64_t find_equal(const Scoring& scoring, const ScoreBlock& block, Key key, uint64_t index) override;
  BlockCount keys(const Scoring& scoring, const ScoreBlock& block, void* keys) override;
  uint64_t apply(const Scoring& scoring, const ScoreBlock& block, Place cut, void* output,
                 uint64_t* mask) override;
  BlockCount accumulate(const Scoring& scoring, const ScoreBlock& block, Reduce reduce, UnitAxis axis,
                        int64_t cols, int64_t first, UnitScore* units) override;
  uint64_t apply_units(const ScoreBlock& block, UnitAxis axis, int64_t cols, int64_t first,
                       const uint64_t* kept_units, void* output, uint64_t* mask) override;
  uint64_t count_kept(const ScoreBlock& block) override;

 private:
  /// Calls queue(totals) with counts of zero on the device, and waits for what is queued.
  template <class Queue>
  Totals counted(Queue queue);
  template <class T>
  void append_places(const Scoring& scoring, const ScoreBlock& part, const void* candidates, uint64_t count,
                     std::vector<Place>& places);
  template <class Bits>
  BlockCount download_keys(const Scoring& scoring, const ScoreBlock& part, Bits* keys);
  template <class Bits>
  void append_keys(const Scoring& scoring, const ScoreBlock& block, std::span<const int64_t> starts,
                   std::vector<Key>& keys);

  /// A block with float32 made of half precision, and the statistic of a gradient, in memory that the next
  /// one takes. Of files those are short.
  ScoreBlock scored(const ScoreBlock& block);
  /// Calls cut(scored block, output, mask) and cuts half precision as it lies by the bits that it wrote.
  template <class Cut>
  uint64_t cut_scored(const ScoreBlock& block, void* output, uint64_t* mask, Cut cut);

  CudaContext& context_;
  Scratch totals_;
  Scratch widened_, bits_;
  Scratch work_;  // whatever one operation needs: a log, bins, a sample, units
  PinnedBuffer found_;
  Transfer transfer_;
};

}  // namespace coppice::cuda
