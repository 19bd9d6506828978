#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/prune/prune.hpp"
#include "engine/prune/source.hpp"
#include "kernels/backend.hpp"
#include "kernels/error.hpp"
#include "tests/ops/ops_test.hpp"
#include "tests/prune/oracle.hpp"

namespace coppice::test {

/// The widest instruction set of this processor, and every other device: how the rules of selection are kept
/// doesn't depend on the instruction set, and what the kernels do on each is kernels_test.cpp's business.
inline std::vector<BackendCase> device_cases() {
  std::vector<BackendCase> cases;
  for (const BackendCase& c : backend_cases()) {
    if (c.device != "cpu") {
      cases.push_back(c);
    } else if (std::string reason; open_case(c, 1, reason) != nullptr) {
      if (!cases.empty() && cases.front().device == "cpu") cases.erase(cases.begin());
      cases.insert(cases.begin(), c);
    }
  }
  return cases;
}

#define COPPICE_FOR_ALL_DEVICES(suite)                                                       \
  INSTANTIATE_TEST_SUITE_P(Devices, suite, testing::ValuesIn(coppice::test::device_cases()), \
                           coppice::test::backend_name)

/// An array on a device, made from the host's. On the processor it is the host's vector itself, so that a
/// memory checker sees its ends.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  DeviceArray(Backend& backend, std::vector<T> values) : backend_(&backend), host_(std::move(values)) {
    if (on_host()) return;
    buffer_ = Buffer(backend, bytes(), "a test's array");
    upload();
  }

  T* data() { return on_host() ? host_.data() : static_cast<T*>(buffer_.data()); }
  /// What it holds now.
  const std::vector<T>& values() {
    if (!on_host()) backend_->download(buffer_.data(), host_.data(), bytes());
    return host_;
  }
  /// Changes what it holds: change(vector), which keeps its size.
  template <class Change>
  void edit(Change change) {
    values();
    change(host_);
    if (!on_host()) upload();
  }

 private:
  bool on_host() const { return backend_ == nullptr || backend_->device().type == Device::Type::cpu; }
  int64_t bytes() const { return static_cast<int64_t>(host_.size() * sizeof(T)); }
  void upload() { backend_->upload(host_.data(), buffer_.data(), bytes()); }

  Backend* backend_ = nullptr;
  std::vector<T> host_;
  Buffer buffer_;
};

/// Tensors as bytes in their own type, with sentinels behind every output.
class Arrays {
 public:
  Arrays(Backend& backend, const std::vector<PrunableTensor>& tensors, bool in_place)
      : tensors_(tensors), in_place_(in_place) {
    for (const PrunableTensor& tensor : tensors) {
      const auto array = [&](const std::vector<double>& values) {
        return DeviceArray<uint8_t>(backend, bytes(tensor, values));
      };
      const size_t size = tensor.size() * static_cast<size_t>(size_of(tensor.dtype));
      std::vector<uint64_t> mask((tensor.size() + 63) / 64 + 1, kMaskSentinel);
      if (!tensor.kept.empty()) {
        for (size_t i = 0; i < tensor.size(); ++i) set_bit(mask, i, tensor.kept[i]);
      }
      storage_.push_back({array(tensor.weights),
                          array(tensor.sum),
                          array(tensor.absolute),
                          array(tensor.squared),
                          {backend, std::vector<uint8_t>(size + kSentinel, 0xa5)},
                          {backend, std::move(mask)}});
    }
  }

  std::vector<MemoryTensor> memory() {
    std::vector<MemoryTensor> list;
    for (size_t t = 0; t < tensors_.size(); ++t) {
      const PrunableTensor& tensor = tensors_[t];
      Storage& storage = storage_[t];
      MemoryTensor memory;
      memory.info = {tensor.name, tensor.shape, tensor.dtype, tensor.gates, "", tensor.prunable};
      memory.weights = storage.weights.data();
      if (!tensor.sum.empty()) memory.sum = storage.sum.data();
      if (!tensor.absolute.empty()) memory.absolute = storage.absolute.data();
      if (!tensor.squared.empty()) memory.squared = storage.squared.data();
      memory.output = in_place_ ? storage.weights.data() : storage.output.data();
      memory.mask = storage.mask.data();
      if (!tensor.kept.empty()) memory.kept = storage.mask.data();
      list.push_back(memory);
    }
    return list;
  }

  bool kept(size_t tensor, size_t i) { return bit(storage_[tensor].mask.values(), i); }
  float weight(size_t tensor, size_t i) {
    float value = 0.0f;
    std::memcpy(&value, &storage_[tensor].weights.values()[i * sizeof(value)], sizeof(value));
    return value;
  }

  /// Masks as expected, +0 where cut, the weight's own bits elsewhere, nothing written past the ends.
  void expect(const Expected& expected) {
    for (size_t t = 0; t < tensors_.size(); ++t) {
      const PrunableTensor& tensor = tensors_[t];
      if (!tensor.prunable) continue;
      const std::vector<uint8_t> original = bytes(tensor, tensor.weights);
      const std::vector<uint8_t>& output = (in_place_ ? storage_[t].weights : storage_[t].output).values();
      const std::vector<uint64_t>& mask = storage_[t].mask.values();
      const size_t width = static_cast<size_t>(size_of(tensor.dtype));
      const std::vector<uint8_t> zero(width, 0);
      for (size_t i = 0; i < tensor.size(); ++i) {
        ASSERT_EQ(bit(mask, i), expected.kept[t][i]) << tensor.name << "[" << i << "]";
        const uint8_t* want = expected.kept[t][i] ? &original[i * width] : zero.data();
        ASSERT_EQ(std::memcmp(&output[i * width], want, width), 0) << tensor.name << "[" << i << "]";
      }
      for (size_t i = tensor.size(); i < 64 * mask.size(); ++i) {
        ASSERT_EQ(bit(mask, i), (kMaskSentinel >> (i % 64) & 1) != 0) << "past the mask of " << tensor.name;
      }
      if (in_place_) continue;
      for (size_t i = 0; i < kSentinel; ++i) ASSERT_EQ(output[tensor.size() * width + i], 0xa5);
    }
  }

  std::vector<std::vector<uint64_t>> masks() {
    std::vector<std::vector<uint64_t>> all;
    for (Storage& storage : storage_) all.push_back(storage.mask.values());
    return all;
  }

 private:
  struct Storage {
    DeviceArray<uint8_t> weights, sum, absolute, squared, output;
    DeviceArray<uint64_t> mask;
  };
  static constexpr size_t kSentinel = 64;
  static constexpr uint64_t kMaskSentinel = 0x5a5a'a5a5'c3c3'3c3cull;

  static bool bit(const std::vector<uint64_t>& words, size_t i) {
    return (words[i / 64] >> (i % 64) & 1) != 0;
  }
  static void set_bit(std::vector<uint64_t>& words, size_t i, bool value) {
    const uint64_t one = uint64_t{1} << (i % 64);
    words[i / 64] = value ? words[i / 64] | one : words[i / 64] & ~one;
  }

  static std::vector<uint8_t> bytes(const PrunableTensor& tensor, const std::vector<double>& values) {
    std::vector<uint8_t> out(values.size() * static_cast<size_t>(size_of(tensor.dtype)));
    for (size_t i = 0; i < values.size(); ++i) {
      if (tensor.dtype == DType::f64) {
        std::memcpy(&out[i * 8], &values[i], 8);
      } else {
        const float value = static_cast<float>(values[i]);
        std::memcpy(&out[i * 4], &value, 4);
      }
    }
    return out;
  }

  std::vector<PrunableTensor> tensors_;
  bool in_place_;
  std::vector<Storage> storage_;
};

/// Prunes and compares everything with the oracle.
inline void expect_pruned(Backend& backend, const std::vector<PrunableTensor>& tensors,
                          const PruneConfig& config, uint64_t seed, int64_t run = 0, bool in_place = true) {
  const Expected expected = expected_masks(tensors, config, seed);
  Arrays arrays(backend, tensors, in_place);
  MemorySource source(backend, arrays.memory(), run);
  if (expected.infeasible) {
    EXPECT_THROW(prune(source, config, seed), Error);
    return;
  }
  const PruneOutcome outcome = prune(source, config, seed);
  arrays.expect(expected);
  ASSERT_EQ(outcome.groups.size(), expected.groups.size());
  for (size_t g = 0; g < expected.groups.size(); ++g) {
    EXPECT_EQ(outcome.groups[g].name, expected.groups[g].name);
    EXPECT_EQ(outcome.groups[g].units, expected.groups[g].units) << outcome.groups[g].name;
    EXPECT_EQ(outcome.groups[g].cut, expected.groups[g].cut) << outcome.groups[g].name;
    const double want = expected.groups[g].threshold, found = outcome.groups[g].threshold;
    EXPECT_TRUE(want == found || (std::isnan(want) && std::isnan(found)))
        << outcome.groups[g].name << ": threshold " << found << " instead of " << want;
  }
  uint64_t all_kept = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const TensorOutcome& tensor = outcome.tensors[t];
    uint64_t kept = 0;
    std::vector<uint64_t> by_gate(static_cast<size_t>(tensors[t].gates), 0);
    for (size_t i = 0; i < tensors[t].size(); ++i) {
      if (!expected.kept[t][i]) continue;
      ++kept;
      ++by_gate[i / (tensors[t].size() / by_gate.size())];
    }
    if (tensors[t].prunable) all_kept += kept;
    EXPECT_EQ(tensor.kept, kept) << tensor.name;
    if (tensors[t].gates > 1) {
      EXPECT_EQ(tensor.gate_kept, by_gate) << tensor.name;
    }
  }
  EXPECT_EQ(outcome.kept, all_kept);
}

/// Kinds of input that selection must not trip over.
enum class Input { normal, all_equal, mass_ties, signed_zeros, denormals, few_values, infinite, wide_range };
inline constexpr Input kInputs[] = {Input::normal,       Input::all_equal, Input::mass_ties,
                                    Input::signed_zeros, Input::denormals, Input::few_values,
                                    Input::infinite,     Input::wide_range};

inline double draw(Input input, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  const uint64_t die = random() % 10;
  const double sign = (random() & 1) != 0 ? 1.0 : -1.0;
  switch (input) {
    case Input::normal:
      return static_cast<float>(normal(random));
    case Input::all_equal:
      return 0.375;
    case Input::mass_ties:
      return die < 7 ? 0.0 : static_cast<float>(normal(random));
    case Input::signed_zeros:
      return die < 8 ? sign * 0.0 : sign * static_cast<double>(die);
    case Input::denormals:
      return sign * static_cast<double>(1e-45f) * static_cast<double>(random() % 50);
    case Input::few_values:
      return sign * static_cast<double>(1 + random() % 4);
    // Never zero, so that no product with an infinity is NaN.
    case Input::infinite:
      return die == 0 ? sign * INFINITY : sign * (0.5 + static_cast<double>(die));
    case Input::wide_range:
      return static_cast<float>(sign * std::ldexp(1.0, static_cast<int>(random() % 60) - 30));
  }
  return 0.0;
}

inline PrunableTensor make_tensor(std::string name, std::vector<int64_t> shape, int64_t gates, DType dtype,
                                  Input input, std::mt19937_64& random) {
  PrunableTensor tensor;
  tensor.name = std::move(name);
  tensor.shape = std::move(shape);
  tensor.gates = gates;
  tensor.dtype = dtype;
  // An infinite weight times a zero gradient would be NaN: one side stays finite.
  const Input weights = input == Input::infinite ? Input::few_values : input;
  for (size_t i = 0; i < tensor.size(); ++i) {
    tensor.weights.push_back(draw(weights, random));
    const double g = draw(input, random);
    tensor.sum.push_back(g);
    tensor.absolute.push_back(std::fabs(g) * 2.0);
    const double square = input == Input::infinite ? -g : g * g;  // negative ones too: only order matters
    tensor.squared.push_back(dtype == DType::f64 ? square : static_cast<double>(static_cast<float>(square)));
  }
  return tensor;
}

}  // namespace coppice::test
