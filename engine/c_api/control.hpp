#pragma once

#include <coppice/coppice.h>

#include <string>
#include <string_view>

#include "engine/pipeline.hpp"
#include "engine/train/progress.hpp"

namespace coppice::c_api {

/// Calls the caller's functions and turns their answer into a request to stop.
class Control final : public ProgressListener {
 public:
  /// NULL: nobody is told.
  explicit Control(const coppice_control* control);

  void stage_begins(std::string_view stage) override;
  void progress(const Progress& progress) override;
  void epoch_ends(const Progress& progress) override { this->progress(progress); }
  void checkpoint_saved(const std::string& folder) override;

  /// Tells a line, unless it is empty.
  void log(const std::string& message) const;
  const StopToken& stop() const { return stop_; }
  RunOptions options(bool force) { return {force, this, &stop_}; }

 private:
  coppice_control control_{};
  StopToken stop_;
};

}  // namespace coppice::c_api
