#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

// Small kernels with one mistake each, and the same without it: what the emulator must find, and must not.
namespace coppice::cuda_on_host {

enum class Version { right, wrong };

// Each works on n numbers in x and leaves its result in y (n numbers, device memory).

/// y = x reversed within blocks of 256, through shared memory; wrong: no barrier in between.
void reverse_blocks(Version version, const int* x, int* y, int n, cudaStream_t stream);
/// The sum of each warp's numbers, through shared memory; wrong: no __syncwarp between the steps.
void sum_warps(Version version, const int* x, int* y, int n, cudaStream_t stream);
/// y = x + 1; wrong: reads one element behind the end.
void increment(Version version, const int* x, int* y, int n, cudaStream_t stream);
/// y[i] = x[i + 1 in the block]; wrong: the last thread reads behind the shared array.
void shift_in_shared(Version version, const int* x, int* y, int n, cudaStream_t stream);
/// Histogram of x mod 16 into y[0..16); wrong: the shared counters don't start at zero.
void count_digits(Version version, const int* x, int* y, int n, cudaStream_t stream);
/// Both halves of a block wait; wrong: at two different barriers.
void wait_in_halves(Version version, int* y, int n, cudaStream_t stream);
/// Half of the block waits for the other half; wrong: which waits for it elsewhere.
void wait_for_nobody(Version version, int* y, int n, cudaStream_t stream);
/// y = each warp's first number; wrong: some lanes name themselves only.
void broadcast(Version version, const int* x, int* y, int n, cudaStream_t stream);
/// The same; wrong: lanes behind the end have left the kernel before.
void broadcast_to_the_end(Version version, const int* x, int* y, int n, cudaStream_t stream);
/// The same in half warps; wrong: reads a lane of the other half.
void broadcast_in_halves(Version version, const int* x, int* y, int n, cudaStream_t stream);
/// y[0] = the number of blocks; wrong: without an atomic.
void count_blocks(Version version, int* y, int blocks, cudaStream_t stream);
/// y[0] = the sum over all blocks, by the last block; wrong: no fence before the count.
void sum_by_last_block(Version version, const int* x, int* partial, unsigned* done, int* y, int n,
                       cudaStream_t stream);
/// y = x in loads of four; wrong: from x + 1, which is not aligned for them.
void copy_quads(Version version, const int* x, int* y, int n, cudaStream_t stream);
/// The same, by an ordinary load, which only UndefinedBehaviorSanitizer sees.
void copy_plain_quads(Version version, const int* x, int* y, int n, cudaStream_t stream);
/// Reverses x over the whole grid; wrong: without the grid's barrier.
void reverse_grid(Version version, const int* x, int* scratch, int* y, int n, cudaStream_t stream);
/// A kernel that uses as much dynamic shared memory as it is given; wrong: is given none.
void use_dynamic_shared(Version version, int* y, int n, cudaStream_t stream);
/// More static and dynamic shared memory than a block has (wrong), or half of it.
void use_much_shared(Version version, int* y, int n, cudaStream_t stream);
/// y = *box.values: a pointer inside of an argument.
struct Box {
  const int* values;
  int64_t count;
};
void unpack(Box box, int* y, cudaStream_t stream);
/// y[0] += by, launched alone.
void add(int* y, int by, cudaStream_t stream);
/// Every built-in that can be checked against plain code; y[i] is 0 where all agree.
void check_builtins(int* y, int threads, cudaStream_t stream);

}  // namespace coppice::cuda_on_host
