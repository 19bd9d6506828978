#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/files/weight_file.hpp"
#include "engine/prune/reading_progress.hpp"
#include "engine/prune/source.hpp"
#include "engine/train/progress.hpp"

namespace coppice {

/// Files beside the weights, matched by tensor names.
struct ScoreFiles {
  /// Statistics of the gradient, added up in this order: NAME.sum, NAME.absolute, NAME.squared of `coppice
  /// gradients`. A plain NAME is the gradient g of one batch and counts as g, |g| and g² there.
  std::vector<const WeightFile*> gradients;
  /// Norms of each weight's inputs, NAME [inputs] or NAME.norm: they take the place of Σ|g|, so that |w|·Σ|g|
  /// is |w|·‖x‖ (Wanda: Sun et al. 2023, arXiv 2306.11695).
  const WeightFile* activations = nullptr;
  /// Masks made earlier (mask_file.hpp): what they cut stays cut.
  const WeightFile* masks = nullptr;
};

/// Where a file's cut weights go: its own bits, +0 where cut.
class CutOutput {
 public:
  virtual ~CutOutput() = default;
  // Calls come one at a time, but not from one thread.
  /// Whether what is written can't be taken back: then writing is never interrupted.
  virtual bool in_place() const { return false; }
  /// Elements of a tensor of the file, in its own type.
  virtual void write(size_t file_tensor, int64_t begin, int64_t count, const void* data) = 0;
  /// Whole bytes of a mask from byte `begin` on; a byte may come again, with more of its bits right.
  virtual void write_mask(size_t file_tensor, int64_t begin, int64_t count, const void* bytes) = 0;
};

/// What a file's source needs to know of a tensor beyond what the file says.
struct FileTensorOptions {
  int64_t gates = 1;
  std::string gate_names;
  bool prunable = true;
  bool keep_diagonal = false;  // of a matrix, of each gate's block: never cut, but counted
  std::vector<size_t> tied;    // other tensors of the file with the same bits, cut with this one
  bool is_tied = false;        // one of those: not a tensor of the source
};

/// Weight files as a source, whatever their size: blocks are read into a few reused buffers and never mapped.
/// The next one is read by a second thread while this one is scored, and the one before written by a third.
/// Writing streams the file's own bits to an output. What lies in memory (WeightFile::memory) is read where
/// it lies, and cut there.
class FileSource final : public ParameterSource {
 public:
  /// `memory`: what buffers and logs may take together, in bytes; 0: as they like. The files must outlive it.
  FileSource(Backend& backend, const WeightFile& weights, const ScoreFiles& files,
             std::vector<FileTensorOptions> options, int64_t memory = 0);
  ~FileSource() override;

  /// Where the cut goes; without one it is only counted.
  void set_output(CutOutput* output) { output_ = output; }
  /// `listener` (or null) is told how far the stages "select" and "cut" are, of which the first reads
  /// `selected` weights a pass. Once `stop` (or null) is set, reading throws Error(interrupted), but for
  /// weights in memory of which some are cut.
  void watch(ProgressListener* listener, const StopToken* stop, int64_t selected) {
    progress_ = std::make_unique<ReadingProgress>(listener, stop);
    selected_ = selected;
  }
  /// Stages blocks through the backend's memory even where that is the host's: for tests.
  void stage_always() { staged_ = true; }
  /// Copies to the output what selection does not touch, cut by the masks made earlier if there are any.
  void copy_rest();

  /// The number in the file of a tensor of the source.
  size_t file_tensor(size_t tensor) const { return numbers_[tensor]; }
  /// Whether masks made earlier name the tensor.
  bool masked(size_t tensor) const;

  Backend& backend() override { return backend_; }
  std::span<const SourceTensor> tensors() const override { return infos_; }
  void read(size_t tensor, int64_t begin, int64_t count, Statistic statistic, bool writing,
            const std::function<void(const Run&)>& visit) override;
  bool random_access() const override;
  void read_lines(size_t tensor, int64_t begin, int64_t count, std::span<const int64_t> lines,
                  Statistic statistic,
                  const std::function<void(const Run&, std::span<const int64_t>)>& visit) override;
  uint64_t count_kept(size_t tensor, int64_t begin, int64_t count) override;
  std::string_view formula_of(Criterion criterion) const override;
  uint64_t scratch_bytes() const override { return static_cast<uint64_t>(scratch_); }
  void finish_writing() override { copy_rest(); }

 private:
  struct Slot;
  class Worker;
  struct StatisticPart {
    const WeightFile* file;
    size_t tensor;
    bool plain;  // the gradient itself, not a statistic of it
  };

  int64_t block_elements(size_t tensor) const;
  std::vector<StatisticPart> statistic_parts(size_t tensor, Statistic statistic);
  void load_norms(size_t tensor);
  /// Whether the statistic is one summand that can be scored as it lies, half precision and a plain gradient
  /// too.
  bool lies_as_scored(size_t tensor, Statistic statistic, std::span<const StatisticPart> parts) const;
  static StatisticForm form_of(Statistic statistic, std::span<const StatisticPart> parts);
  /// What a slot will hold of a block.
  void describe(size_t tensor, Statistic statistic, std::span<const StatisticPart> parts, Slot& slot) const;
  /// Where the statistic lies in memory as it is wanted, from `begin` on, or null.
  std::byte* statistic_in_memory(size_t tensor, int64_t begin, Statistic statistic,
                                 std::span<const StatisticPart> parts) const;
  /// Whether a block is there without anything being read or converted.
  bool lies_ready(size_t tensor, Statistic statistic, std::span<const StatisticPart> parts) const;
  void read_statistic(size_t tensor, int64_t begin, int64_t count, Statistic statistic,
                      std::span<const StatisticPart> parts, Slot& slot, int64_t at) const;
  void read_weights(size_t tensor, int64_t begin, int64_t count, Slot& slot, int64_t at) const;
  /// With the diagonal infinite.
  void copy_weights(size_t tensor, int64_t begin, int64_t count, const std::byte* raw,
                    std::byte* values) const;
  void read_kept(size_t tensor, int64_t begin, int64_t count, uint64_t* words) const;
  void fill(size_t tensor, int64_t begin, int64_t count, Statistic statistic,
            std::span<const StatisticPart> parts, Slot& slot) const;
  Run run_of(size_t tensor, int64_t begin, int64_t count, Slot& slot, bool writing);
  void put(size_t tensor, int64_t begin, int64_t count, const Slot& slot, const uint64_t* mask);
  void enter_stage(bool writing);
  /// Calls visit(begin, count, slot) for consecutive blocks, and `write`, if there is one, for each of them
  /// afterwards, maybe from another thread while the next one is visited.
  void stream(size_t tensor, int64_t begin, int64_t count, Statistic statistic,
              const std::function<void(int64_t begin, int64_t count, Slot&)>& visit,
              const std::function<void(int64_t begin, int64_t count, Slot&)>& write = {});

  Backend& backend_;
  const WeightFile& weights_;
  ScoreFiles files_;
  std::vector<SourceTensor> infos_;
  std::vector<FileTensorOptions> options_;  // by tensor of the source
  std::vector<size_t> numbers_;             // in the file
  std::vector<size_t> mask_numbers_;        // in the masks, or npos
  std::vector<bool> written_;               // by selection: what is left is copied
  std::vector<uint64_t> carry_;             // the word of mask bits in which the last written run ended
  CutOutput* output_ = nullptr;
  std::unique_ptr<ReadingProgress> progress_ = std::make_unique<ReadingProgress>();
  int64_t selected_ = 0;
  bool cutting_ = false;
  bool cutting_memory_ = false;
  int64_t block_bytes_ = 0;
  int64_t scratch_ = 0;
  bool staged_ = false;
  std::vector<Slot> slots_;
  std::unique_ptr<Worker> reader_, writer_;
  size_t norms_of_ = ~size_t{0};  // whose norms are held
  std::vector<double> norms_;
  size_t summands_ = 0;  // files that give each tensor's statistic: the same number for all
  std::string summands_name_;
};

}  // namespace coppice
