#pragma once

#include <cuda_runtime_api.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <type_traits>
#include <utility>

// What the device built-ins of shim.hpp are made of: the emulator as seen by a running kernel.

// The built-in variables. Plain objects, because cudaLaunchConfig_t has members of the same names; not const,
// because a compiler may keep what it read of a constant over a barrier. The scheduler sets them at every
// switch.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

namespace coppice::cuda_on_host {

using Location = std::source_location;

template <class T, class... Others>
concept OneOf = (std::same_as<T, Others> || ...);

// ---- Kernels ----

struct Parameter {
  size_t size;
  size_t alignment;
  bool is_pointer;
};

/// How a kernel that is known by its address alone is called.
struct Kernel {
  void (*call)(const void* function, void** arguments) = nullptr;
  const Parameter* parameters = nullptr;
  int count = 0;
};

/// Before a kernel's first launch; again is harmless.
void register_kernel(const void* function, const Kernel& kernel);

template <class... Parameters>
void call_kernel(const void* function, void** arguments) {
  const auto kernel = reinterpret_cast<void (*)(Parameters...)>(const_cast<void*>(function));
  [&]<size_t... I>(std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<Parameters>*>(arguments[I])...);
  }
  (std::index_sequence_for<Parameters...>{});
}

/// What lies between the members is left over from the stack, and could pass for a pointer to it.
template <class T>
void clear_padding([[maybe_unused]] T& argument) {
#if __has_builtin(__builtin_clear_padding)
  __builtin_clear_padding(const_cast<std::remove_const_t<T>*>(&argument));
#endif
}

/// cudaLaunchKernelEx: goes through the ordinary C entry point, which copies the arguments.
template <class... Parameters>
cudaError_t launch_kernel(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                          std::type_identity_t<Parameters>... arguments) {
  static_assert((!std::is_reference_v<Parameters> && ...),
                "a kernel can't take a reference to the host's memory");
  static_assert((std::is_trivially_copyable_v<Parameters> && ...),
                "kernel arguments are copied byte by byte");
  static constexpr Parameter parameters[] = {
      {sizeof(Parameters), alignof(Parameters), std::is_pointer_v<Parameters>}..., {0, 0, false}};
  const auto function = reinterpret_cast<const void*>(kernel);
  register_kernel(function, {&call_kernel<Parameters...>, parameters, sizeof...(Parameters)});
  (clear_padding(arguments), ...);
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))..., nullptr};
  return cudaLaunchKernelExC(config, function, pointers);
}

// ---- Threads that wait for each other ----

enum class BarrierResult { count, all, any };
/// __syncthreads and its variants: the predicate of all threads of the block that have not exited, combined.
int block_barrier(bool predicate, BarrierResult result, const Location& location);

/// All threads of a cooperative launch.
void grid_barrier(const Location& location);

enum class WarpOperation { synchronise, shuffle, vote, match, reduce };
/// Waits until all lanes of `mask` are here, and gives what each of them brought, by lane. Only `synchronise`
/// orders memory between the lanes.
const uint64_t* rendezvous(unsigned mask, WarpOperation operation, uint64_t value, const Location& location);

/// The calling thread's lane in its warp, and whether a thread is running at all.
unsigned lane();

/// A memory fence.
void fence();
/// Where an atomic operation happens, others may come first.
void at_atomic();

// ---- Shared memory ----

/// The block's object for the declaration `key`, made and filled with 0xff by the first thread that asks. It
/// is aligned to its type and no more (up to 8 bytes), so that wider loads from it stand out.
void* shared_object(const void* key, size_t bytes, size_t alignment);
/// The block's dynamic shared memory, as many bytes as the launch asked for.
void* dynamic_shared();

/// A fault unless `address` is aligned for an access of that many bytes.
inline void require_aligned(const void* address, size_t alignment);
[[noreturn]] void misaligned(const void* address, size_t alignment);
inline void require_aligned(const void* address, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(address) % alignment != 0) misaligned(address, alignment);
}

}  // namespace coppice::cuda_on_host
