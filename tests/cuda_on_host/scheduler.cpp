#include "tests/cuda_on_host/scheduler.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/scheduler_state.hpp"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

// How a kernel runs. Blocks come in waves: one block, a few of them in random order, all of them in a
// cooperative launch. Every thread of a wave is a number; those that can go on are in a list, from which the
// order picks one. A thread runs on a fiber until it waits or ends. One that never waits costs no switch: the
// fiber that ran the last one calls the kernel again for the next.
namespace coppice::cuda_on_host {
namespace {

constexpr int kMixedBlocks = 4;  // of a wave in random order

/// Makes `thread` the running one as far as the built-in variables go.
void become(int thread) {
  Scheduler& s = scheduler();
  const int place = s.blocks.size() == 1 ? 0 : thread / s.threads;
  s.running = thread;
  s.number = thread - place * s.threads;
  s.block = &s.blocks[static_cast<size_t>(place)];
  blockIdx = s.block->index;
  threadIdx = s.thread_index[static_cast<size_t>(s.number)];
}

void switch_to(int thread) {
  Scheduler& s = scheduler();
  Thread& next = s.wave[static_cast<size_t>(thread)];
  if (next.fiber == nullptr) next.fiber = &s.fibers.take(thread);
  become(thread);
  ++s.counters.switches;
  next.fiber->go_on();
}

[[noreturn]] void deadlock() {
  Scheduler& s = scheduler();
  std::string what;
  const Thread* first = nullptr;
  for (size_t number = 0; number < s.wave.size(); ++number) {
    const Thread& thread = s.wave[number];
    if (thread.ended) continue;
    if (first == nullptr) {
      first = &thread;
      become(static_cast<int>(number));
      what = fmt::format("{} at {}", describe(thread.wait), describe(thread.location));
    } else if (thread.wait != first->wait || !same_place(thread.location, first->location)) {
      what += fmt::format(", another in {} at {}", describe(thread.wait), describe(thread.location));
      break;
    }
  }
  fault("deadlock", "{} threads wait for some that never come; the first in {}", s.alive, what);
}

/// Another thread goes on. Comes back when the running one was made ready and picked.
void give_way() {
  Scheduler& s = scheduler();
  const int self = s.running;
  const int next = s.ready.take();
  if (next < 0) deadlock();
  if (next != self) switch_to(next);
  become(self);
}

void end_thread() {
  Scheduler& s = scheduler();
  s.wave[static_cast<size_t>(s.running)].ended = true;
  --s.alive;
  ++s.counters.threads;

  const unsigned bit = 1u << s.lane();
  Warp& warp = s.warp();
  warp.live &= ~bit;
  for (uint64_t open = warp.open; open != 0; open &= open - 1) {
    const Meeting& meeting = warp.meetings[std::countr_zero(open)];
    if (meeting.mask & bit)
      fault("exited lane", "a lane ends while others of mask {:#010x} wait for it at {}", meeting.mask,
            describe(meeting.location));
  }
  if (s.grid.arrived > 0)
    fault("deadlock", "a thread ends while others wait in the grid barrier at {}", describe(s.grid.location));
  --s.grid.expected;
  Barrier& barrier = s.block->barrier;
  --barrier.expected;
  release_if_complete(barrier);
}

/// What every fiber does: runs the thread that it was switched to, then any that has not started yet; parks
/// when a waiting one goes on instead.
void fiber_main() {
  Fiber::arrived();
  Scheduler& s = scheduler();
  for (;;) {
    happens_after(&s.launched);
    s.launch->kernel.call(s.launch->function, s.launch->arguments);
    happens_before(&s.finished);
    end_thread();

    const int next = s.ready.take();
    if (next < 0) {
      if (s.alive > 0) deadlock();
      s.fibers.give_back(Fiber::current());
      Fiber::host().go_on();
      continue;
    }
    if (!kWatchRaces && s.wave[static_cast<size_t>(next)].fiber == nullptr) {
      s.wave[static_cast<size_t>(next)].fiber = &Fiber::current();
      become(next);
      continue;
    }
    s.fibers.give_back(Fiber::current());
    switch_to(next);
  }
}

void begin_block(BlockState& block, int64_t number) {
  Scheduler& s = scheduler();
  const dim3 grid = s.launch->grid;
  block.index = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                 static_cast<unsigned>(number / grid.x / grid.y)};
  begin(block.barrier, s.threads);
  block.warps.resize(static_cast<size_t>((s.threads + kWarp - 1) / kWarp));
  for (size_t i = 0; i < block.warps.size(); ++i) {
    const int lanes = std::min(kWarp, s.threads - static_cast<int>(i) * kWarp);
    block.warps[i].live = lanes == kWarp ? ~0u : (1u << lanes) - 1;
    if constexpr (kWatchRaces)
      for (Meeting& meeting : block.warps[i].meetings) meeting.order = fresh_order();
  }
  block.shared.clear();
  block.shared.reserve(64);
  block.shared_bytes = 0;
}

void end_block(BlockState& block) {
  Scheduler& s = scheduler();
  for (SharedObject& object : block.shared) s.freed_later.push_back(object.allocated);
  block.shared.clear();
  if constexpr (!kWatchRaces) {  // freed memory used again would look like two blocks that touch the same
    for (void* data : s.freed_later) std::free(data);
    s.freed_later.clear();
  }
}

void run_wave(const int64_t* numbers, int count) {
  Scheduler& s = scheduler();
  for (int i = 0; i < count; ++i) begin_block(s.blocks[static_cast<size_t>(i)], numbers[i]);
  const int threads = count * s.threads;
  s.wave.assign(static_cast<size_t>(threads), Thread{});
  s.alive = threads;
  s.ready.start(threads, settings().order);
  happens_before(&s.launched);
  switch_to(s.ready.take());
  s.running = -1;
  for (int i = 0; i < count; ++i) end_block(s.blocks[static_cast<size_t>(i)]);
}

void order_blocks(std::vector<int64_t>& blocks, int64_t count) {
  blocks.resize(static_cast<size_t>(count));
  std::iota(blocks.begin(), blocks.end(), int64_t{0});
  if (settings().order == Order::reverse) std::reverse(blocks.begin(), blocks.end());
  if (settings().order != Order::random) return;
  for (size_t left = blocks.size(); left > 1; --left)
    std::swap(blocks[left - 1], blocks[chance().below(static_cast<uint32_t>(left))]);
}

}  // namespace

Scheduler& scheduler() {
  static auto* const instance = new Scheduler{.fibers = FiberPool(&fiber_main)};  // its fibers never leave it
  return *instance;
}

void wait_for(Wait wait, const Location& location) {
  Scheduler& s = scheduler();
  Thread& self = s.wave[static_cast<size_t>(s.running)];
  self.wait = wait;
  self.location = location;
  give_way();
}

void make_ready(int thread) {
  Scheduler& s = scheduler();
  s.wave[static_cast<size_t>(thread)].wait = Wait::nothing;
  s.ready.add(thread);
}

void let_others_go() {
  Scheduler& s = scheduler();
  s.ready.add(s.running);
  give_way();
}

void run(const Launch& launch) {
  Scheduler& s = scheduler();
  s.launch = &launch;
  s.threads = launch.threads();
  ++s.counters.launches;
  s.counters.last_kernel = launch.name;
  blockDim = launch.block;
  gridDim = launch.grid;
  s.thread_index.resize(static_cast<size_t>(s.threads));
  for (unsigned i = 0; i < s.thread_index.size(); ++i)
    s.thread_index[i] = {i % launch.block.x, i / launch.block.x % launch.block.y,
                         i / launch.block.x / launch.block.y};

  const int64_t blocks = launch.blocks();
  int64_t at_once = 1;
  if (settings().order == Order::random && !kWatchRaces) at_once = std::min<int64_t>(blocks, kMixedBlocks);
  if (launch.cooperative) at_once = blocks;
  order_blocks(s.block_order, blocks);
  s.blocks.resize(static_cast<size_t>(at_once));
  // Nothing may be allocated by a thread: ThreadSanitizer would take the memory for the thread's own.
  const size_t threads_at_once = static_cast<size_t>(at_once * s.threads);
  s.wave.reserve(threads_at_once);
  s.ready.reserve(threads_at_once);
  s.fibers.prepare(static_cast<int>(threads_at_once), (blocks + at_once - 1) / at_once);
  begin(s.grid, launch.cooperative ? static_cast<int>(threads_at_once) : 0);

  for (int64_t first = 0, wave = 0; first < blocks; first += at_once, ++wave) {
    s.fibers.begin_wave(wave);
    run_wave(&s.block_order[static_cast<size_t>(first)], static_cast<int>(std::min(at_once, blocks - first)));
  }
  happens_after(&s.finished);
  for (void* data : s.freed_later) std::free(data);
  s.freed_later.clear();
  s.launch = nullptr;
}

const Counters& counters() {
  return scheduler().counters;
}
bool kernel_is_running() {
  return scheduler().running >= 0;
}

std::string describe_running_thread() {
  const Scheduler& s = scheduler();
  if (s.launch == nullptr || s.running < 0) return "";
  return fmt::format("; kernel {}, block ({},{},{}), thread ({},{},{})", s.launch->name, blockIdx.x,
                     blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
}

}  // namespace coppice::cuda_on_host
