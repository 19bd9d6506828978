#include "tests/cuda_on_host/fiber.hpp"

#include <sys/mman.h>

#include <cstdint>

#include "tests/cuda_on_host/emulator.hpp"

#ifdef COPPICE_CUDA_BOUNDS
#include <sanitizer/common_interface_defs.h>
#endif

// The emulator itself is never instrumented by ThreadSanitizer: it hands data from fiber to fiber as it
// likes, and tells of the order that a device would give.
extern "C" {
#ifdef COPPICE_CUDA_RACES
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
#endif

/// Saves the registers that a function must keep on the current stack, and takes those of the other.
void coppice_switch_stack(void** from, void* to);
}

#ifndef __x86_64__
#error "the switch between stacks is written for x86-64"
#endif
__asm__(R"(
  .text
  .globl coppice_switch_stack
  .hidden coppice_switch_stack
  .type coppice_switch_stack, @function
coppice_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
  .size coppice_switch_stack, . - coppice_switch_stack
)");

namespace coppice::cuda_on_host {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kStack = 128 << 10;
constexpr unsigned kNoOrder = 1;  // a switch that orders nothing

Fiber* current_fiber = nullptr;
Fiber* previous_fiber = nullptr;

#ifdef COPPICE_CUDA_RACES
void follow(void* race_context) {
  __tsan_switch_to_fiber(race_context, kNoOrder);
}
#endif

}  // namespace

Fiber::Fiber(void (*entry)()) : size_(kStack) {
  void* memory = mmap(nullptr, kPage + kStack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) fault("emulator", "no memory for another thread's stack");
  mprotect(memory, kPage, PROT_NONE);  // an overflow ends in a fault, not in the neighbour's stack
  bottom_ = static_cast<char*>(memory) + kPage;

  // Stacks that all begin at the same offset would share a few sets of the cache.
  static unsigned colour = 0;
  const size_t offset = 64 + colour++ % 32 * 128;
  void** top = reinterpret_cast<void**>(bottom_ + kStack - offset);
  *--top = nullptr;  // where `entry` would return to; also keeps its frame aligned as a call would
  *--top = reinterpret_cast<void*>(entry);
  for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
  stack_pointer_ = top;
#ifdef COPPICE_CUDA_RACES
  race_context_ = __tsan_create_fiber(0);
#endif
}

Fiber& Fiber::host() {
  static Fiber* const fiber = new Fiber;  // never destroyed: what runs at exit may still launch
  return *fiber;
}

Fiber& Fiber::current() {
  return current_fiber == nullptr ? host() : *current_fiber;
}

void Fiber::go_on() {
  Fiber& from = current();
#ifdef COPPICE_CUDA_RACES
  if (&from == &host()) from.race_context_ = __tsan_get_current_fiber();
  follow(race_context_);
#endif
  previous_fiber = &from;
  current_fiber = this;
#ifdef COPPICE_CUDA_BOUNDS
  __sanitizer_start_switch_fiber(&from.fake_stack_, bottom_, size_);
#endif
  coppice_switch_stack(&from.stack_pointer_, stack_pointer_);
  arrived();
}

void Fiber::arrived() {
#ifdef COPPICE_CUDA_BOUNDS
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(current_fiber->fake_stack_, &bottom, &size);
  if (previous_fiber == &host()) {  // only now is it known where the host's stack lies
    host().bottom_ = static_cast<char*>(const_cast<void*>(bottom));
    host().size_ = size;
  }
#endif
}

#ifdef COPPICE_CUDA_RACES
HostContext::HostContext() {
  if (&Fiber::current() != &Fiber::host()) follow(Fiber::host().race_context_);
}
HostContext::~HostContext() {
  if (&Fiber::current() != &Fiber::host()) follow(Fiber::current().race_context_);
}
void happens_before(void* address) {
  __tsan_release(address);
}
void happens_after(void* address) {
  __tsan_acquire(address);
}
#else
HostContext::HostContext() {}
HostContext::~HostContext() {}
void happens_before(void*) {}
void happens_after(void*) {}
#endif

}  // namespace coppice::cuda_on_host
