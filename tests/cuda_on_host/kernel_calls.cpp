#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "tests/cuda_on_host/emulator.hpp"
#include "tests/cuda_on_host/scheduler_state.hpp"
#include "tests/cuda_on_host/settings.hpp"

// What the built-in functions of a kernel come down to: threads that wait for each other, and shared memory.
namespace coppice::cuda_on_host {
namespace {

constexpr unsigned kYieldOneIn = 8;   // atomics, in random order
constexpr size_t kWidestAccess = 16;  // bytes, of one load or store

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

}  // namespace

bool same_place(const Location& a, const Location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}
std::string describe(const Location& location) {
  return fmt::format("{}:{}", location.file_name(), location.line());
}

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

char* fresh_order() {
  if constexpr (!kWatchRaces) return nullptr;
  static char pool[1 << 20][8];
  static size_t next = 0;
  return pool[next++ % (1 << 20)];
}

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
    if (settings().order == Order::random) let_others_go();  // the last to come is not always the first to go
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
  let_others_go();
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
