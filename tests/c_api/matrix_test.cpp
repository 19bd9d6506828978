// Sparse matrices through the C interface, against double precision.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <coppice/coppice.hpp>

#include "tests/ops/ops_test.hpp"

namespace coppice::test {
namespace {

using ::testing::HasSubstr;

TEST(Matrix, ProductsAreThoseOfTheMaskedMatrix) {
  Random random;
  SCOPED_TRACE("COPPICE_TEST_SEED=" + std::to_string(random.seed()));
  std::string layouts = coppice_api::matrix_layouts();
  EXPECT_THAT(layouts, HasSubstr("dense"));
  EXPECT_THAT(layouts, HasSubstr("csr"));
  for (size_t begin = 0; begin < layouts.size();) {
    const size_t end = std::min(layouts.find(' ', begin), layouts.size());
    const std::string layout = layouts.substr(begin, end - begin);
    begin = end + 1;
    if (layout == "bsr" || layout == "balanced") continue;  // of patterns that these masks have not
    for (const int64_t rows : {1, 31, 33, 257}) {
      for (const int64_t n : {0, 1, 3, 32}) {
        const int64_t cols = 1 + random.below(70);
        SCOPED_TRACE(testing::Message() << layout << " " << rows << "x" << cols << " n " << n);
        const std::vector<float> values = random.normals(rows * cols), bias = random.normals(rows);
        std::vector<uint8_t> mask;
        int64_t kept = 0;
        for (int64_t i = 0; i < rows * cols; ++i) {
          mask.push_back(random.below(5) == 0 ? 1 : 0);
          kept += mask.back();
        }
        coppice_api::Matrix matrix(rows, cols, values, mask, {"layout=" + layout, "threads=1"});
        const coppice_matrix_info info = matrix.info();
        EXPECT_EQ(info.layout, layout);
        EXPECT_EQ(info.rows, rows);
        EXPECT_EQ(info.cols, cols);
        EXPECT_EQ(info.nonzeros, layout == "dense" ? rows * cols : kept);
        const std::vector<float> x = random.normals(n * cols), dy = random.normals(n * rows);
        std::vector<float> y(static_cast<size_t>(n * rows), NAN), dx(static_cast<size_t>(n * cols), NAN);
        const auto weight = [&](int64_t r, int64_t c) {
          const size_t at = static_cast<size_t>(r * cols + c);
          return mask[at] != 0 ? static_cast<double>(values[at]) : 0.0;
        };
        for (const bool biased : {true, false}) {
          if (biased) {
            matrix.multiply(n, x, y, bias);
          } else {
            matrix.multiply(n, x, y);
          }
          for (int64_t i = 0; i < n; ++i) {
            for (int64_t r = 0; r < rows; ++r) {
              double sum = biased ? bias[static_cast<size_t>(r)] : 0.0;
              for (int64_t c = 0; c < cols; ++c) sum += weight(r, c) * x[static_cast<size_t>(i * cols + c)];
              ASSERT_NEAR(y[static_cast<size_t>(i * rows + r)], sum, 1e-4);
            }
          }
        }
        matrix.multiply_transposed(n, dy, dx);
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t c = 0; c < cols; ++c) {
            double sum = 0.0;
            for (int64_t r = 0; r < rows; ++r) sum += weight(r, c) * dy[static_cast<size_t>(i * rows + r)];
            ASSERT_NEAR(dx[static_cast<size_t>(i * cols + c)], sum, 1e-4);
          }
        }
      }
    }
  }
}

TEST(Matrix, TheLayoutIsChosenByWhatItTakes) {
  std::vector<float> values(64 * 64, 1.0f);
  coppice_api::Matrix full(64, 64, values);
  EXPECT_STREQ(full.info().layout, "dense");
  for (size_t i = 0; i < values.size(); ++i) {
    if (i % 20 != 0) values[i] = 0.0f;
  }
  coppice_api::Matrix sparse(64, 64, values);
  EXPECT_STREQ(sparse.info().layout, "sell");
  EXPECT_LT(sparse.info().bytes, 64 * 64 * 4 / 4);
}

TEST(Matrix, ValuesMayBeRounded) {
  // 1 + 1/256 lies halfway between two neighbours, of which 1 is the even one.
  std::vector<float> values(64 * 64, 1.0f + 1.0f / 256);
  const std::vector<float> x(64, 1.0f);
  std::vector<float> y(64), dx(64);
  coppice_api::Matrix full(64, 64, values, {}, {"values=bf16"});
  EXPECT_STREQ(full.info().layout, "dense");
  full.multiply(1, x, y);
  EXPECT_EQ(y[0], 64.0f);
  for (size_t i = 0; i < values.size(); ++i) {
    if (i % 4 != 0) values[i] = 0.0f;
  }
  coppice_api::Matrix sparse(64, 64, values, {}, {"values=bf16"}), exact(64, 64, values);
  EXPECT_STREQ(sparse.info().layout, "sell");
  EXPECT_LT(sparse.info().bytes, exact.info().bytes);
  sparse.multiply(1, x, y);
  EXPECT_EQ(y[63], 16.0f);
  exact.multiply(1, x, y);
  EXPECT_EQ(y[63], 16.0f + 16.0f / 256);
  EXPECT_THROW(sparse.multiply_transposed(1, y, dx), coppice_api::Error);
  EXPECT_THROW(coppice_api::Matrix(64, 64, values, {}, {"values=bf16", "layout=csr"}), coppice_api::Error);
}

TEST(Matrix, RowsMayLieApart) {
  const float values[] = {1, 2, 99, 3, 4, 99};
  coppice_matrix* matrix = nullptr;
  ASSERT_EQ(coppice_matrix_create(2, 2, values, 3, nullptr, nullptr, 0, &matrix), COPPICE_OK);
  const float x[] = {1, 10};
  float y[2];
  EXPECT_EQ(coppice_matrix_multiply(matrix, 1, x, nullptr, y), COPPICE_OK);
  EXPECT_EQ(y[0], 21.0f);
  EXPECT_EQ(y[1], 43.0f);
  EXPECT_EQ(coppice_matrix_multiply(matrix, 1, nullptr, nullptr, y), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_matrix_multiply(matrix, 1, x, nullptr, nullptr), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_matrix_multiply(matrix, -1, x, nullptr, y), COPPICE_BAD_INPUT);
  EXPECT_EQ(coppice_matrix_describe(matrix, nullptr), COPPICE_BAD_INPUT);
  coppice_matrix_info unset = {};
  EXPECT_EQ(coppice_matrix_describe(matrix, &unset), COPPICE_BAD_INPUT);
  coppice_matrix_free(matrix);
  coppice_matrix_free(nullptr);
}

TEST(Matrix, WrongArgumentsSayWhich) {
  const float values[4] = {};
  coppice_matrix* matrix = nullptr;
  const auto fails = [&](int64_t rows, int64_t cols, const float* data, int64_t stride, const char* option,
                         const char* message) {
    EXPECT_EQ(
        coppice_matrix_create(rows, cols, data, stride, nullptr, &option, option == nullptr ? 0 : 1, &matrix),
        COPPICE_BAD_INPUT);
    EXPECT_THAT(coppice_last_error(), HasSubstr(message));
    EXPECT_EQ(matrix, nullptr);
  };
  fails(-1, 2, values, 0, nullptr, "-1 rows");
  fails(int64_t{1} << 40, int64_t{1} << 40, values, 0, nullptr, "no size");
  fails(2, 2, nullptr, 0, nullptr, "values is NULL");
  fails(2, 2, values, 1, nullptr, "stride of 1");
  fails(2, 2, values, 0, "layout=nonsense", "csr");
  fails(2, 2, values, 0, "device=tpu", "tpu");
  fails(2, 2, values, 0, "values=int4", "expected fp32 or bf16");
  EXPECT_EQ(coppice_matrix_create(2, 2, values, 0, nullptr, nullptr, 0, nullptr), COPPICE_BAD_INPUT);
  EXPECT_THROW(coppice_api::Matrix(3, 3, std::vector<float>(4)), coppice_api::Error);
}

}  // namespace
}  // namespace coppice::test
