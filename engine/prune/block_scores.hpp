#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/prune/host_scores.hpp"
#include "engine/prune/n_of_m.hpp"
#include "engine/prune/plan.hpp"
#include "engine/prune/select.hpp"
#include "engine/prune/source.hpp"

namespace coppice {

/// The scores of a group's blocks as a source of their own, made anew by every pass: a block is an element of
/// it, in float64, so that the search that serves elements finds where blocks are cut and nothing is held for
/// each. Its tensors are the group's parts, [block rows, block columns], row-major: the order of ties.
///
/// A block's score adds up (or what --reduce says) the scores of its elements in float64, in index order;
/// those that are cut already take no part, and a block of nothing else is cut already. A block at the edge
/// has the elements that it has: their mean compares with others', their sum says what goes with the block.
class BlockScores final : public ParameterSource {
 public:
  /// `source`, `plan` and `group` must outlive it.
  BlockScores(ParameterSource& source, const Plan& plan, const PlanGroup& group);
  ~BlockScores() override;

  /// Blocks as elements: the same group, with parts and positions in this source's terms.
  const Plan& plan() const { return plan_; }
  const PlanGroup& group() const { return plan_.groups.front(); }
  /// Elements of the underlying source that were read.
  uint64_t elements_read() const { return elements_read_; }

  /// Finished scores of all blocks of a part, held at once: for products, which float64 can't.
  std::vector<UnitScore> unit_scores(size_t part);

  Backend& backend() override { return *backend_; }
  std::span<const SourceTensor> tensors() const override { return infos_; }
  void read(size_t part, int64_t begin, int64_t count, Statistic statistic, bool writing,
            const std::function<void(const Run&)>& visit) override;
  bool random_access() const override { return source_.random_access(); }
  void read_lines(size_t part, int64_t begin, int64_t count, std::span<const int64_t> lines,
                  Statistic statistic,
                  const std::function<void(const Run&, std::span<const int64_t>)>& visit) override;
  uint64_t count_kept(size_t part, int64_t begin, int64_t count) override;
  uint64_t scratch_bytes() const override { return source_.scratch_bytes(); }

 private:
  struct Grid;  // which blocks a pass looks at

  void fold(const PlanPart& part, const Grid& grid, std::vector<UnitScore>& units);
  void fold_range(const PlanPart& part, const Grid& grid, int64_t begin, int64_t count,
                  std::vector<UnitScore>& units);
  template <class Key>
  void fold_stretch(const PlanPart& part, const Grid& grid, const Key* keys, int64_t first, int64_t count,
                    std::vector<UnitScore>& units);
  void finish(const PlanPart& part, const Grid& grid, std::vector<UnitScore>& units) const;
  Run run_of(std::span<const UnitScore> units, int64_t begin);
  int64_t rows_together(const PlanPart& part) const;
  int64_t grid_cols(const PlanPart& part) const;

  ParameterSource& source_;
  const Plan& source_plan_;
  const PlanGroup& source_group_;
  std::unique_ptr<Backend> host_;  // where the source's own isn't
  Backend* backend_;
  Plan plan_;
  std::vector<SourceTensor> infos_;
  std::vector<double> ones_, scores_;
  std::vector<uint64_t> kept_;
  HostKeys keys_;
  uint64_t elements_read_ = 0;
};

/// Where a stretch of whole block rows ends that begins at element `begin` of the tensor and fits a cache.
int64_t end_of_blocks(const Plan& plan, const PlanPart& part, int64_t begin);

/// Which of the elements [begin, end) of the tensor, whole block rows of part `part` of the group, are kept:
/// of blocks that lie below `cut` in the order of `blocks` none is.
KeptBits keep_blocks(BlockScores& blocks, const Plan& plan, const PlanPart& part, size_t part_index,
                     int64_t begin, int64_t end, Place cut);

/// The same by a bit for each block of the part.
KeptBits keep_blocks(const Plan& plan, const PlanPart& part, int64_t begin, int64_t end,
                     const std::vector<uint64_t>& kept_blocks);

}  // namespace coppice
