#include <thrust/execution_policy.h>
#include <thrust/functional.h>
#include <thrust/reduce.h>
#include <thrust/scan.h>
#include <thrust/sort.h>

#include "kernels/cuda/launch.cuh"
#include "tests/cuda_on_host/faults.hpp"

#ifdef COPPICE_CUDA_ON_HOST
#include <thrust/system/cpp/execution_policy.h>

#include "tests/cuda_on_host/emulator.hpp"
#endif

// Thrust runs where its execution policy says, on a stream of the device or, queued in the same order, on the
// host. The calls themselves are the same: `body` makes them with the policy that it is given.
namespace coppice::cuda_on_host {
namespace {

template <class Body>
void run_thrust(cudaStream_t stream, Body body) {
#ifdef COPPICE_CUDA_ON_HOST
  enqueue(stream, [body] { body(thrust::cpp::par); });
#else
  body(thrust::cuda::par_nosync.on(stream));
#endif
}

}  // namespace

void scan_with_thrust(const int* x, int* y, int n, cudaStream_t stream) {
  run_thrust(stream, [=](const auto& policy) {
    thrust::exclusive_scan(policy, x, x + n, y, 0, thrust::plus<int>());
  });
}

void sort_with_thrust(int* keys, int* values, int n, cudaStream_t stream) {
  run_thrust(stream, [=](const auto& policy) { thrust::stable_sort_by_key(policy, keys, keys + n, values); });
}

}  // namespace coppice::cuda_on_host
