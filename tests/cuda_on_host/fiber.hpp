#pragma once

#include <cstddef>

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
