// Tensors that lie on a GPU: scored and cut there. Without one they are run on the device that is emulated on
// the host (tests/cuda_on_host).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <coppice/coppice.hpp>
#include <optional>
#include <random>

#include "tests/c_api/strided.hpp"
#include "tests/prune/harness.hpp"
#include "tests/prune/oracle.hpp"

namespace coppice::test {
namespace {

using ::testing::HasSubstr;

class OnDevice_cuda : public testing::Test {
 protected:
  void SetUp() override {
    try {
      backend_ = open_backend("cuda");
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }
  /// A tensor of a caller's: its arrays on the device.
  struct OnGpu {
    PrunableTensor values;
    DeviceArray<uint8_t> weights, absolute, output;
    std::vector<uint8_t> mask, kept;

    coppice_api::Tensor tensor() {
      const coppice_dtype dtype = values.dtype == DType::f64 ? COPPICE_F64 : COPPICE_F32;
      coppice_api::Tensor tensor{values.name, values.shape, {weights.data(), dtype}};
      tensor.absolute = {absolute.data(), dtype};
      tensor.output = weights.data();
      tensor.mask = mask.data();
      if (!kept.empty()) tensor.kept = kept.data();
      tensor.on_device = true;
      return tensor;
    }
  };
  OnGpu make(std::string name, std::vector<int64_t> shape, DType dtype, Input input, bool cut_already) {
    OnGpu made;
    made.values = make_tensor(std::move(name), std::move(shape), 1, dtype, input, random_);
    const coppice_dtype type = dtype == DType::f64 ? COPPICE_F64 : COPPICE_F32;
    const auto upload = [&](const std::vector<double>& numbers) {
      std::vector<uint8_t> bytes;
      for (double number : numbers) {
        const std::vector<uint8_t> bits = encoded(type, number);
        bytes.insert(bytes.end(), bits.begin(), bits.end());
      }
      return DeviceArray<uint8_t>(*backend_, std::move(bytes));
    };
    made.weights = upload(made.values.weights);
    made.absolute = upload(made.values.absolute);
    made.output = upload(std::vector<double>(made.values.size(), 9.0));
    backend_->synchronize();  // another handle has a queue of its own
    made.mask.assign(made.values.size() + 1, 9);
    for (size_t i = 0; cut_already && i < made.values.size(); ++i) {
      made.kept.push_back(random_() % 4 == 0 ? 0 : 1);
      made.values.kept.push_back(made.kept.back() != 0);
    }
    return made;
  }
  static void expect(OnGpu& made, const std::vector<bool>& wanted) {
    const coppice_dtype type = made.values.dtype == DType::f64 ? COPPICE_F64 : COPPICE_F32;
    const std::vector<uint8_t>& found = made.weights.values();
    for (size_t i = 0; i < wanted.size(); ++i) {
      ASSERT_EQ(made.mask[i], wanted[i] ? 1 : 0) << made.values.name << " " << i;
      const std::vector<uint8_t> bits = encoded(type, wanted[i] ? made.values.weights[i] : 0.0);
      ASSERT_EQ(std::memcmp(&found[i * bits.size()], bits.data(), bits.size()), 0) << made.values.name << i;
    }
    EXPECT_EQ(made.mask.back(), 9);
  }

  Random seed_;
  std::mt19937_64 random_{seed_.seed()};
  testing::ScopedTrace trace_{__FILE__, __LINE__, "COPPICE_TEST_SEED=" + std::to_string(seed_.seed())};
  std::unique_ptr<Backend> backend_;
};

TEST_F(OnDevice_cuda, TensorsAreCutWhereTheyLie) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const Input input : {Input::normal, Input::mass_ties, Input::signed_zeros}) {
      for (const bool cut_already : {false, true}) {
        std::vector<OnGpu> made;
        made.push_back(make("b", {7, 31}, dtype, input, cut_already));
        made.push_back(make("a", {257}, dtype, input, cut_already));
        PruneConfig config;
        config.criterion = "taylor-absolute";
        config.sparsity = 0.7;
        const Expected expected = expected_masks({made[0].values, made[1].values}, config, 1);
        const coppice_api::Options options = {"criterion=taylor-absolute", "sparsity=0.7", "device=cuda"};
        coppice_api::prune_tensors({made[0].tensor(), made[1].tensor()}, options);
        for (size_t t = 0; t < 2; ++t) ASSERT_NO_FATAL_FAILURE(expect(made[t], expected.kept[t]));
      }
    }
  }
}

TEST_F(OnDevice_cuda, MergedSelectionsCutTheSame) {
  OnGpu first = make("a", {100, 3}, DType::f32, Input::mass_ties, false);
  OnGpu second = make("a", {57, 3}, DType::f32, Input::mass_ties, true);
  first.kept.assign(300, 1);
  PrunableTensor whole = first.values;
  whole.shape = {157, 3};
  whole.kept.assign(300, true);
  const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
  append(whole.weights, second.values.weights);
  append(whole.absolute, second.values.absolute);
  append(whole.kept, second.values.kept);
  whole.sum.clear();
  whole.squared.clear();
  PruneConfig config;
  config.sparsity = 0.6;
  const Expected expected = expected_masks({whole}, config, 1);
  std::vector<coppice_api::Tensor> tensors = {first.tensor(), second.tensor()};
  std::vector<coppice_api::Selection> selections;
  for (coppice_api::Tensor& tensor : tensors) {
    tensor.piece = true;
    tensor.whole_shape = {157, 3};
    tensor.first = &tensor == &tensors[0] ? 0 : 300;
    selections.emplace_back(coppice_api::Options{"sparsity=0.6", "device=cuda"});
    selections.back().add(tensor);
  }
  while (!selections[0].done()) {
    for (coppice_api::Selection& selection : selections) selection.count();
    selections[0].merge(selections[1].counts());
    selections[1].adopt(selections[0].counts());
    for (coppice_api::Selection& selection : selections) selection.refine();
  }
  for (coppice_api::Selection& selection : selections) selection.apply();
  const std::vector<bool>& kept = expected.kept[0];
  expect(first, {kept.begin(), kept.begin() + 300});
  expect(second, {kept.begin() + 300, kept.end()});
}

TEST_F(OnDevice_cuda, WhatTakesNoPartIsHandedOn) {
  OnGpu cut = make("a", {33}, DType::f32, Input::normal, false);
  OnGpu rest = make("b", {65}, DType::f32, Input::normal, true);
  coppice_api::Tensor second = rest.tensor();
  second.output = rest.output.data();
  coppice_api::prune_tensors({cut.tensor(), second}, {"sparsity=0.5", "exclude=b", "device=cuda"});
  std::swap(rest.weights, rest.output);
  expect(rest, rest.values.kept);
}

/// Tensors of the host are staged.
TEST_F(OnDevice_cuda, TensorsOfTheHostPassThrough) {
  std::vector<float> weights = {1, -3, 2, 4};
  std::vector<uint8_t> mask(4);
  coppice_api::Tensor tensor{"w", {4}, weights.data()};
  tensor.output = weights.data();
  tensor.mask = mask.data();
  coppice_api::prune_tensors({tensor}, {"sparsity=0.5", "device=cuda"});
  EXPECT_EQ(weights, (std::vector<float>{0, -3, 0, 4}));
  EXPECT_EQ(mask, (std::vector<uint8_t>{0, 1, 0, 1}));
}

TEST_F(OnDevice_cuda, ProductsAreStaged) {
  const std::vector<float> values = {0, 2, 0, 3, 0, 0}, x = {1, 10, 100}, bias = {0.5f, 0.25f};
  std::vector<float> y(2), dx(3);
  coppice_api::Matrix matrix(2, 3, values, {}, {"layout=csr", "device=cuda"});
  matrix.multiply(1, x, y, bias);
  EXPECT_EQ(y, (std::vector<float>{20.5f, 3.25f}));
  matrix.multiply_transposed(1, y, dx);
  EXPECT_EQ(dx, (std::vector<float>{9.75f, 41, 0}));
}

TEST(OnDevice, MistakesSayWhich) {
  float weights[2] = {1, 2};
  const int64_t shape[] = {2};
  coppice_tensor tensors[2] = {coppice_tensor_of("a", weights, COPPICE_F32, 1, shape),
                               coppice_tensor_of("b", weights, COPPICE_F32, 1, shape)};
  tensors[0].on_device = 1;
  const auto prune = [&](size_t count) {
    return coppice_prune_tensors(tensors, count, nullptr, 0, nullptr, nullptr, nullptr);
  };
  EXPECT_EQ(prune(2), COPPICE_BAD_INPUT);
  EXPECT_THAT(coppice_last_error(), HasSubstr("1 of 2 tensors are on a device"));
  EXPECT_EQ(prune(1), COPPICE_BAD_INPUT);
  EXPECT_THAT(coppice_last_error(), HasSubstr("names the host's processor"));
}

}  // namespace
}  // namespace coppice::test
