#pragma once

#include <vector>

#include "kernels/cpu/context.hpp"
#include "kernels/cpu/isa/halves.hpp"
#include "kernels/cpu/select_kernels.hpp"
#include "kernels/marking.hpp"
#include "kernels/selection.hpp"

namespace coppice::cpu {

/// Selection in fixed chunks spread over threads. Only integers are added across chunks and every unit of a
/// reduction belongs to one task, so results don't depend on the number of threads.
class CpuSelection final : public SelectionOps, public MarkingOps {
 public:
  explicit CpuSelection(const CpuContext& context);

  void sample(const Scoring& scoring, const ScoreBlock& block, std::span<const int64_t> starts,
              std::vector<Key>& keys) override;
  BlockCount bracket(const Scoring& scoring, const ScoreBlock& block, Key low, Key high, uint64_t capacity,
                     std::vector<Place>& candidates) override {
    return mark(scoring, block, low, high, capacity, candidates, nullptr);
  }
  BlockCount mark(const Scoring& scoring, const ScoreBlock& block, Key low, Key high, uint64_t capacity,
                  std::vector<Place>& candidates, uint64_t* bits) override;
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
  /// What a thread logs candidates into, kept between calls: fresh pages cost more than the log itself.
  struct Log {
    std::vector<int64_t> keys;  // memory for int32_t or int64_t
    std::vector<uint32_t> indices;
    std::vector<Place> places;

    void reserve() {
      keys.resize(kLogRoom);
      indices.resize(kLogRoom);
    }
  };

  const SelectKernels& kernels(const Scoring& scoring, const ScoreBlock& block) const;
  /// Calls visit(piece, begin) for pieces of a block that the kernels can score: the block itself, or a
  /// cache's worth at a time of what has to be made of it, float32 of half precision and the statistic of a
  /// gradient. All but the first begin with a word of mask bits.
  template <class Visit>
  void for_scored(const ScoreBlock& block, Visit visit) const;
  ChunkCount keys_of(const SelectKernels& kernel, const Scoring& scoring, const ScoreBlock& block,
                     void* keys) const;
  int64_t count_inside(const SelectKernels& kernel, const Scoring& scoring, const ScoreBlock& block,
                       int64_t low, int64_t upper) const;
  int64_t apply_part(const SelectKernels& kernel, const Scoring& scoring, const ScoreBlock& part,
                     int64_t threshold, void* output, uint64_t* mask) const;
  int threads_for(int64_t elements) const;
  uint64_t apply_below(const Scoring& scoring, const ScoreBlock& block, Key key, void* output,
                       uint64_t* mask);
  uint64_t cut_by_bits(const ScoreBlock& block, void* output, uint64_t* mask);

  const SelectKernels& (*find_kernels_)(Criterion, bool f64);
  const HalfKernels& halves_;
  int threads_;
  std::vector<Log> logs_;
};

}  // namespace coppice::cpu
