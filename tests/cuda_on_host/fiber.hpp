#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace coppice::cuda_on_host {

/// A stack of its own that can be left in the middle of a function and gone on with later. Switching costs a
/// dozen instructions. AddressSanitizer is told about the stacks, and ThreadSanitizer takes each fiber for a
/// thread that nothing orders against the others but happens_before and happens_after.
class Fiber {
 public:
  /// `entry` is called at the first switch and must never return.
  explicit Fiber(void (*entry)());
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// The one that is running; the host's own stack when no kernel is.
  static Fiber& current();
  static Fiber& host();

  /// Leaves the current one for this one.
  void go_on();
  /// What `entry` does first of all.
  static void arrived();

 private:
  Fiber() = default;

  char* bottom_ = nullptr;
  size_t size_ = 0;
  void* stack_pointer_ = nullptr;
  void* fake_stack_ = nullptr;    // AddressSanitizer's
  void* race_context_ = nullptr;  // ThreadSanitizer's

  friend class HostContext;
};

/// Whether ThreadSanitizer watches. It needs a fiber for every thread, since one that first plays one thread
/// and then another orders the two.
#ifdef COPPICE_CUDA_RACES
inline constexpr bool kWatchRaces = true;
#else
inline constexpr bool kWatchRaces = false;
#endif

/// Fibers to run threads on.
class FiberPool {
 public:
  explicit FiberPool(void (*entry)()) : entry_(entry) {}

  /// A fiber that nobody uses; watching races, the one that is the thread's own in this wave.
  Fiber& take(int thread) {
    if constexpr (kWatchRaces) return *own_.at(static_cast<size_t>(first_ + thread));
    if (idle_.empty()) return *new Fiber(entry_);
    Fiber* fiber = idle_.back();
    idle_.pop_back();
    return *fiber;
  }
  void give_back(Fiber& fiber) {
    if constexpr (!kWatchRaces) idle_.push_back(&fiber);
  }
  /// Watching races: makes the fibers for the waves to come. Blocks that run one after the other get
  /// different ones as long as there are some, since nothing orders them on a device.
  void prepare(int threads, int64_t waves) {
    if constexpr (!kWatchRaces) return;
    constexpr int kRaceFibers = 2048;  // ThreadSanitizer knows some 8000 threads
    const int64_t sets = std::clamp<int64_t>(kRaceFibers / std::max(threads, 1), 1, waves);
    sets_ = static_cast<int>(sets);
    threads_ = threads;
    while (static_cast<int64_t>(own_.size()) < sets * threads) own_.push_back(new Fiber(entry_));
  }
  void begin_wave(int64_t wave) { first_ = static_cast<int>(wave % sets_) * threads_; }

 private:
  void (*entry_)();
  std::vector<Fiber*> idle_;
  std::vector<Fiber*> own_;
  int threads_ = 0;
  int sets_ = 1;
  int first_ = 0;
};

/// What is allocated or freed while this exists belongs to the host, not to the thread that is running.
class HostContext {
 public:
  HostContext();
  ~HostContext();
};

/// Everything before the one comes before everything after the other, for one address.
void happens_before(void* address);
void happens_after(void* address);

}  // namespace coppice::cuda_on_host
