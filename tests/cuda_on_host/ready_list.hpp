#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "tests/cuda_on_host/settings.hpp"

namespace coppice::cuda_on_host {

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

}  // namespace coppice::cuda_on_host
