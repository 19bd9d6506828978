#include "engine/prune/reading_progress.hpp"

#include "kernels/error.hpp"

namespace coppice {
namespace {

// A progress bar counts in these: weights come in billions.
constexpr int64_t kUnit = int64_t{1} << 20;

constexpr auto kPause = std::chrono::milliseconds(100);

double seconds_between(std::chrono::steady_clock::time_point begin,
                       std::chrono::steady_clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

}  // namespace

void ReadingProgress::enter(std::string_view stage, int64_t weights) {
  if (stage == stage_) return;
  end_stage();
  stage_ = stage;
  total_ = weights;
  done_ = 0;
  started_ = told_ = Clock::now();
  if (listener_ != nullptr) listener_->stage_begins(stage);
}

void ReadingProgress::check() const {
  if (stop_ != nullptr && stop_->requested) {
    throw Error(ErrorKind::interrupted, "interrupted; nothing was written");
  }
}

void ReadingProgress::advance(int64_t weights) {
  done_ += weights;
  if (listener_ == nullptr) return;
  const Clock::time_point now = Clock::now();
  if (now - told_ < kPause) return;
  told_ = now;
  Progress progress;
  progress.stage = stage_;
  progress.unit = "weights";
  progress.seconds = seconds_between(started_, now);
  // A search that needs another pass reads all of them again.
  const int64_t passes = total_ == 0 ? 1 : (done_ + total_ - 1) / total_;
  progress.batch = (done_ + kUnit - 1) / kUnit;
  progress.batches = (passes * total_ + kUnit - 1) / kUnit;
  progress.units_per_second = static_cast<double>(done_) / progress.seconds;
  progress.seconds_left = static_cast<double>(passes * total_ - done_) / progress.units_per_second;
  listener_->progress(progress);
}

BeforeBlock ReadingProgress::copying(std::string_view stage, const WeightFile& file) {
  int64_t weights = 0;
  for (const FileTensor& tensor : file.tensors()) weights += tensor.size();
  enter(stage, weights);
  return [this](int64_t elements) {
    check();
    advance(elements);
  };
}

void ReadingProgress::end_stage() {
  if (listener_ != nullptr && !stage_.empty()) {
    listener_->stage_ends(stage_, seconds_between(started_, Clock::now()));
  }
  stage_ = {};
}

}  // namespace coppice
