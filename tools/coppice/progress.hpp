#pragma once

#include <memory>

#include "engine/train/progress.hpp"

namespace coppice::program {

/// Progress on standard error: one line that is redrawn on a terminal, plain lines (one a stage and an epoch,
/// and one every ten seconds in between) in a pipe.
std::unique_ptr<ProgressListener> make_progress();

}  // namespace coppice::program
