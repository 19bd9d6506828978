#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/cuda_on_host/emulator.hpp"

namespace coppice::cuda_on_host {

/// Numbers in device memory, for as long as this lives.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : count_(values.size()) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), count_ * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  T* data() const { return data_; }
  /// What the device holds when all of its work is done.
  std::vector<T> values() const {
    std::vector<T> result(count_);
    cudaDeviceSynchronize();
    EXPECT_EQ(cudaMemcpy(result.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return result;
  }

 private:
  size_t count_;
  T* data_ = nullptr;
};

/// Every order that tests try: chance gets several seeds.
inline constexpr struct {
  Order order;
  uint64_t seed;
} kOrders[] = {
    {Order::forward, 1}, {Order::reverse, 1}, {Order::random, 1}, {Order::random, 2}, {Order::random, 3}};

#ifdef COPPICE_CUDA_RACES
inline constexpr bool kWatchesRaces = true;
#else
inline constexpr bool kWatchesRaces = false;
#endif

}  // namespace coppice::cuda_on_host
