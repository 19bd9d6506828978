#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

#include "engine/files/weight_file.hpp"
#include "engine/train/progress.hpp"

namespace coppice {

/// Tells a listener how far weights have been read, and asks before every block whether to stop.
class ReadingProgress {
 public:
  ReadingProgress() = default;
  ReadingProgress(ProgressListener* listener, const StopToken* stop) : listener_(listener), stop_(stop) {}
  /// Ends the last stage.
  ~ReadingProgress() { end_stage(); }
  ReadingProgress(const ReadingProgress&) = delete;
  ReadingProgress& operator=(const ReadingProgress&) = delete;

  /// A stage in which `weights` are read, in one pass or in several. The same stage again goes on.
  void enter(std::string_view stage, int64_t weights);
  /// Throws Error(interrupted) when somebody asked to stop.
  void check() const;
  /// So many more were read.
  void advance(int64_t weights);
  /// Enters a stage that copies or encodes a file, and does both before each of its blocks. It must outlive
  /// what it returns.
  BeforeBlock copying(std::string_view stage, const WeightFile& file);

 private:
  using Clock = std::chrono::steady_clock;
  void end_stage();

  ProgressListener* listener_ = nullptr;
  const StopToken* stop_ = nullptr;
  std::string_view stage_{};
  int64_t total_ = 0, done_ = 0;
  Clock::time_point started_{}, told_{};
};

}  // namespace coppice
