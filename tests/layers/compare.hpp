#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <span>
#include <string>

#include "engine/model/network.hpp"
#include "tests/reference/cases.hpp"
#include "tests/test_device.hpp"

namespace coppice::test {

/// Every element within `tolerance` of the largest, or of `floor` where that is more: what float32 leaves of
/// a chain of sums is bounded by the magnitudes that went in, which may cancel in the result.
template <class A, class B>
void expect_close(const std::string& what, const A& actual, const B& expected, double tolerance = 1e-5,
                  double floor = 1e-6) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double largest = floor;
  for (const auto& value : expected) largest = std::max(largest, std::abs(static_cast<double>(value)));
  for (size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(static_cast<double>(actual[i]) - static_cast<double>(expected[i]));
    ASSERT_LE(error, tolerance * largest)  // false for NaN
        << what << "[" << i << "]: " << actual[i] << ", expected " << expected[i] << ", largest " << largest;
  }
}

inline void upload(Network& network, const reference::Tensors<double>& tensors) {
  ParameterStore& store = network.store();
  ASSERT_EQ(store.segments().size(), tensors.size());
  for (const Segment& segment : store.segments()) {
    const reference::Matrix<double>& tensor = tensors.at(segment.name);
    ASSERT_EQ(segment.rows() * segment.cols(), tensor.rows * tensor.cols) << segment.name;
    store.upload(segment, std::vector<float>(tensor.data.begin(), tensor.data.end()));
  }
}

inline std::vector<float> download_gradient(const ParameterStore& store, const Segment& segment) {
  return store.backend().download(store.gradient_vector(segment));
}

inline void fill_gradients(const ParameterStore& store, float value) {
  store.backend().upload(std::vector<float>(static_cast<size_t>(store.size()), value), store.gradients());
}

}  // namespace coppice::test
