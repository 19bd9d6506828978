#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/cuda_on_host/device.hpp"
#include "tests/cuda_on_host/fiber.hpp"
#include "tests/cuda_on_host/ready_list.hpp"
#include "tests/cuda_on_host/scheduler.hpp"

// What is known of the threads of a running kernel: between scheduler.cpp, which runs them, and
// kernel_calls.cpp, where they wait for each other.
namespace coppice::cuda_on_host {

inline constexpr int kWarp = 32;

bool same_place(const Location& a, const Location& b);
std::string describe(const Location& location);

enum class Wait : uint8_t { nothing, block, warp, grid };
const char* describe(Wait wait);

struct Thread {
  Fiber* fiber = nullptr;  // null before it starts
  Location location;       // of what it waits for
  Wait wait = Wait::nothing;
  bool ended = false;
};

/// Threads that wait for all others of a block, or of the grid.
struct Barrier {
  int arrived = 0;
  int expected = 0;  // threads that have not ended
  Location location;
  int count = 0;  // of true predicates
  int released_count = 0;
  int released_size = 0;
  char* order[2] = {};  // for ThreadSanitizer: two in turn, or the late ones of one round would see the next
  int round = 0;
  std::vector<int> waiting;
};

/// Lanes that wait for each other in one warp operation, and what each brought.
struct Meeting {
  unsigned mask = 0;
  unsigned arrived = 0;
  unsigned unread = 0;  // lanes that were let go but have not read the values yet
  WarpOperation operation{};
  Location location;
  uint64_t values[kWarp];
  char* order = nullptr;
};

struct Warp {
  unsigned live = 0;
  uint64_t open = 0;  // the meetings that somebody waits at
  int next = 0;       // where to look for a free one
  // A lane waits at one of them at most, or has yet to read from one.
  Meeting meetings[kWarp + 1];
};

struct SharedObject {
  const void* key;
  char* allocated;
  char* data;
};

struct BlockState {
  uint3 index{};
  Barrier barrier;
  std::vector<Warp> warps;
  std::vector<SharedObject> shared;
  size_t shared_bytes = 0;
};

struct Scheduler {
  const Launch* launch = nullptr;  // null when no kernel runs
  int threads = 0;                 // of a block
  int running = -1;                // of the wave
  int number = 0;                  // of the running thread in its block
  BlockState* block = nullptr;     // of the running thread
  int alive = 0;                   // of the wave
  std::vector<Thread> wave;
  std::vector<BlockState> blocks;  // of the wave
  std::vector<uint3> thread_index;
  std::vector<int64_t> block_order;
  Barrier grid;
  ReadyList ready;
  FiberPool fibers;
  Counters counters;
  std::vector<void*> freed_later;
  // For ThreadSanitizer: everything before the launch comes before the threads, and these before what follows
  // it.
  char launched = 0;
  char finished = 0;
  char shared_made = 0;

  int lane() const { return number % kWarp; }
  Warp& warp() const { return block->warps[static_cast<size_t>(number / kWarp)]; }
};
Scheduler& scheduler();

/// An address that orders nothing yet. ThreadSanitizer remembers what was told of one, so barriers of
/// different blocks must not share it.
char* fresh_order();

void begin(Barrier& barrier, int threads);
/// Lets all go when the last one is here; it may have ended instead of coming.
void release_if_complete(Barrier& barrier);

/// The running thread waits until it was made ready and picked; others go on.
void wait_for(Wait wait, const Location& location);
/// The running thread stays ready, but others may come first.
void let_others_go();
void make_ready(int thread);

}  // namespace coppice::cuda_on_host
