#include "tests/cuda_on_host/scheduler.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/fiber.hpp"
#include "tests/cuda_on_host/settings.hpp"

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

constexpr int kWarp = 32;
constexpr int kMixedBlocks = 4;       // of a wave in random order
constexpr int kRaceFibers = 2048;     // ThreadSanitizer knows some 8000 threads
constexpr unsigned kYieldOneIn = 8;   // atomics, in random order
constexpr size_t kWidestAccess = 16;  // bytes, of one load or store

bool same_place(const Location& a, const Location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}
std::string describe(const Location& location) {
  return fmt::format("{}:{}", location.file_name(), location.line());
}

enum class Wait : uint8_t { nothing, block, warp, grid };
const char* describe(Wait wait) {
  switch (wait) {
    case Wait::block:
      return "__syncthreads";
    case Wait::warp:
      return "a warp operation";
    case Wait::grid:
      return "the grid barrier";
    default:
      return "nothing";
  }
}

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

/// The threads that can go on, each once: a ring, so that nothing is ever moved or allocated while threads
/// run.
class ReadyList {
 public:
  void reserve(size_t threads) {
    if (numbers_.size() < threads) numbers_.resize(std::bit_ceil(threads));
  }
  /// All of them, in order.
  void start(int threads, Order order) {
    order_ = order;
    head_ = 0;
    count_ = static_cast<size_t>(threads);
    std::iota(numbers_.begin(), numbers_.begin() + threads, 0);
  }
  void add(int thread) { at(count_++) = thread; }
  /// -1 when there is none.
  int take() {
    if (count_ == 0) return -1;
    --count_;
    if (order_ == Order::forward) return numbers_[head_++ & (numbers_.size() - 1)];
    if (order_ == Order::random) std::swap(at(chance().below(static_cast<uint32_t>(count_ + 1))), at(count_));
    return at(count_);
  }

 private:
  int& at(size_t place) { return numbers_[(head_ + place) & (numbers_.size() - 1)]; }

  Order order_ = Order::forward;
  std::vector<int> numbers_;  // a power of two of them
  size_t head_ = 0;
  size_t count_ = 0;
};

/// Fibers to run threads on.
class FiberPool {
 public:
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
    const int64_t sets = std::clamp<int64_t>(kRaceFibers / std::max(threads, 1), 1, waves);
    sets_ = static_cast<int>(sets);
    threads_ = threads;
    while (static_cast<int64_t>(own_.size()) < sets * threads) own_.push_back(new Fiber(entry_));
  }
  void begin_wave(int64_t wave) { first_ = static_cast<int>(wave % sets_) * threads_; }

  explicit FiberPool(void (*entry)()) : entry_(entry) {}

 private:
  void (*entry_)();
  std::vector<Fiber*> idle_;
  std::vector<Fiber*> own_;
  int threads_ = 0;
  int sets_ = 1;
  int first_ = 0;
};

void fiber_main();

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
  FiberPool fibers{&fiber_main};
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
/// Never destroyed: its fibers are still standing on their stacks.
Scheduler& scheduler() {
  static Scheduler* const instance = new Scheduler;
  return *instance;
}

/// An address that orders nothing yet. ThreadSanitizer remembers what was told of one, so barriers of
/// different blocks must not share it.
char* fresh_order() {
  if constexpr (!kWatchRaces) return nullptr;
  static char pool[1 << 20][8];
  static size_t next = 0;
  return pool[next++ % (1 << 20)];
}

// ---- Who runs
// -------------------------------------------------------------------------------------------------

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

/// The running thread waits: another one goes on. Comes back when it was made ready and picked.
void give_way() {
  Scheduler& s = scheduler();
  const int self = s.running;
  const int next = s.ready.take();
  if (next < 0) deadlock();
  if (next != self) switch_to(next);
  become(self);
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

// ---- Barriers
// -------------------------------------------------------------------------------------------------

void begin(Barrier& barrier, int threads) {
  barrier.arrived = 0;
  barrier.expected = threads;
  barrier.count = 0;
  barrier.round = 0;
  barrier.waiting.clear();
  barrier.waiting.reserve(static_cast<size_t>(threads));
  for (char*& order : barrier.order) order = fresh_order();
}

void release_if_complete(Barrier& barrier) {
  if (barrier.arrived == 0 || barrier.arrived < barrier.expected) return;
  barrier.released_count = barrier.count;
  barrier.released_size = barrier.arrived;
  barrier.arrived = 0;
  barrier.count = 0;
  barrier.round ^= 1;
  for (int thread : barrier.waiting) make_ready(thread);
  barrier.waiting.clear();
}

void arrive(Barrier& barrier, Wait wait, bool predicate, const Location& location) {
  if (barrier.arrived == 0) barrier.location = location;
  if (!same_place(barrier.location, location))
    fault("divergent barrier", "threads wait in {} at {} and at {}", describe(wait),
          describe(barrier.location), describe(location));
  char* const order = barrier.order[barrier.round];
  happens_before(order);
  ++barrier.arrived;
  barrier.count += predicate;
  barrier.waiting.push_back(scheduler().running);
  release_if_complete(barrier);
  wait_for(wait, location);
  happens_after(order);
}

// ---- The life of a thread
// -------------------------------------------------------------------------------------

void end_thread() {
  Scheduler& s = scheduler();
  s.wave[static_cast<size_t>(s.running)].ended = true;
  --s.alive;
  ++s.counters.threads;

  const unsigned bit = 1u << (s.lane());
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

// ---- Blocks
// ---------------------------------------------------------------------------------------------------

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
  begin(s.grid, static_cast<int>(std::min<int64_t>(blocks * s.threads, INT32_MAX)));

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

// ---- What kernels call
// ----------------------------------------------------------------------------------------

namespace {

Scheduler& inside_kernel(const char* what) {
  Scheduler& s = scheduler();
  if (s.running < 0) fault("host code", "{} outside of a kernel", what);
  return s;
}

/// The meeting that a lane goes to: the one that others of its mask wait at, or an unused one.
int find_meeting(Warp& warp, int lane, unsigned mask, const Location& location) {
  for (uint64_t open = warp.open; open != 0; open &= open - 1) {
    const int place = std::countr_zero(open);
    const Meeting& meeting = warp.meetings[place];
    if (meeting.mask == mask) return place;
    // A lane that waits for this one will be waited for: neither ever comes.
    if ((meeting.mask >> lane & 1) != 0 && (meeting.arrived & mask) != 0)
      fault("wrong mask",
            "lanes of one warp wait for each other with masks {:#010x} at {} and {:#010x} at {}",
            meeting.mask, describe(meeting.location), mask, describe(location));
  }
  int& place = warp.next;
  do {
    place = (place + 1) % (kWarp + 1);
  } while (warp.meetings[place].arrived != 0 || warp.meetings[place].unread != 0);
  return place;
}

}  // namespace

unsigned lane() {
  Scheduler& s = inside_kernel("a warp operation");
  return static_cast<unsigned>(s.lane());
}

int block_barrier(bool predicate, BarrierResult result, const Location& location) {
  Barrier& barrier = inside_kernel("__syncthreads").block->barrier;
  arrive(barrier, Wait::block, predicate, location);
  switch (result) {
    case BarrierResult::count:
      return barrier.released_count;
    case BarrierResult::all:
      return barrier.released_count == barrier.released_size;
    default:
      return barrier.released_count != 0;
  }
}

void grid_barrier(const Location& location) {
  Scheduler& s = inside_kernel("the grid barrier");
  if (!s.launch->cooperative)
    fault("grid barrier", "at {}, in a launch that is not cooperative", describe(location));
  if (s.grid.expected != static_cast<int>(s.wave.size()))
    fault("deadlock", "grid barrier at {}, though {} threads have ended", describe(location),
          static_cast<int>(s.wave.size()) - s.grid.expected);
  arrive(s.grid, Wait::grid, false, location);
}

const uint64_t* rendezvous(unsigned mask, WarpOperation operation, uint64_t value, const Location& location) {
  Scheduler& s = inside_kernel("a warp operation");
  Warp& warp = s.warp();
  const int lane = s.lane();
  if ((mask >> lane & 1) == 0)
    fault("wrong mask", "lane {} calls with mask {:#010x}, which leaves it out, at {}", lane, mask,
          describe(location));
  if ((mask & ~warp.live) != 0)
    fault("exited lane", "mask {:#010x} names lanes {:#010x}, which have ended or don't exist, at {}", mask,
          mask & ~warp.live, describe(location));

  const int place = find_meeting(warp, lane, mask, location);
  Meeting& meeting = warp.meetings[place];
  if (meeting.arrived == 0) {
    meeting.mask = mask;
    meeting.operation = operation;
    meeting.location = location;
    warp.open |= uint64_t{1} << place;
  }
  if (meeting.operation != operation || !same_place(meeting.location, location))
    fault("divergent warp", "lanes of mask {:#010x} are in different operations, at {} and at {}", mask,
          describe(meeting.location), describe(location));

  const bool orders_memory = operation == WarpOperation::synchronise;
  meeting.values[lane] = value;
  meeting.arrived |= 1u << lane;
  if (orders_memory) happens_before(meeting.order);
  if (meeting.arrived == mask) {
    warp.open &= ~(uint64_t{1} << place);
    meeting.arrived = 0;
    meeting.unread = mask;
    const int first = s.running - lane;
    for (unsigned others = mask & ~(1u << lane); others != 0; others &= others - 1)
      make_ready(first + std::countr_zero(others));
    if (settings().order == Order::random) {  // the last one to come is not always the first one to go
      s.ready.add(s.running);
      give_way();
    }
  } else {
    wait_for(Wait::warp, location);
  }
  if (orders_memory) happens_after(meeting.order);
  meeting.unread &= ~(1u << lane);
  return meeting.values;
}

void shuffle_outside(unsigned mask, int source) {
  fault("lane not in mask", "a shuffle with mask {:#010x} reads lane {}", mask, source);
}

void misaligned(const void* address, size_t alignment) {
  fault("misaligned access", "{} for an access of {} bytes", address, alignment);
}

void fence() {
  static char everything;
  happens_before(&everything);
  happens_after(&everything);
}

void at_atomic() {
  Scheduler& s = scheduler();
  if (s.running < 0 || settings().order != Order::random || chance().below(kYieldOneIn) != 0) return;
  s.ready.add(s.running);
  give_way();
}

void* shared_object(const void* key, size_t bytes, size_t alignment) {
  Scheduler& s = inside_kernel("shared memory");
  BlockState& block = *s.block;
  const auto same_key = [key](const SharedObject& object) { return object.key == key; };
  auto found = std::find_if(block.shared.begin(), block.shared.end(), same_key);
  if (found == block.shared.end()) {
    block.shared_bytes += bytes;
    if (block.shared_bytes > s.launch->shared_limit)
      fault("shared memory", "{} bytes in a block, which may have {}", block.shared_bytes,
            s.launch->shared_limit);
    const HostContext host;
    const size_t offset = alignment < kWidestAccess ? kWidestAccess / 2 : 0;
    const size_t allocated = bytes + offset;
    void* data = nullptr;
    if (posix_memalign(&data, std::max(alignment, kWidestAccess), allocated) != 0)
      fault("emulator", "no memory for {} bytes of shared memory", bytes);
    std::memset(data, 0xff, allocated);
    char* const begin = static_cast<char*>(data);
    found = block.shared.insert(block.shared.end(), {key, begin, begin + offset});
    happens_before(&s.shared_made);
  }
  happens_after(&s.shared_made);
  return found->data;
}

void* dynamic_shared() {
  Scheduler& s = inside_kernel("dynamic shared memory");
  if (s.launch->dynamic_shared > 0) return shared_object(nullptr, s.launch->dynamic_shared, kWidestAccess);
  // A kernel may name it and not use it. Who does is stopped by the processor.
  static void* const nothing = mmap(nullptr, 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return nothing;
}

}  // namespace coppice::cuda_on_host
