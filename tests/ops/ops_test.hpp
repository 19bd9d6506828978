#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.hpp"
#include "kernels/error.hpp"

namespace coppice::test {

/// A way to run an operation: a device, and for the CPU the instruction set that it is forced to.
struct BackendCase {
  std::string device;
  std::string isa;  // empty: the device has none
  std::string name(char separator) const { return isa.empty() ? device : device + separator + isa; }
  friend void PrintTo(const BackendCase& c, std::ostream* out) { *out << c.name('/'); }
};

/// Every backend that there is; those that this machine lacks skip, saying why.
inline std::vector<BackendCase> backend_cases() {
  return {{"cpu", "baseline"}, {"cpu", "avx2"}, {"cpu", "avx512"}, {"cuda", ""}};
}
inline std::vector<BackendCase> cpu_cases() {
  std::vector<BackendCase> cases = backend_cases();
  std::erase_if(cases, [](const BackendCase& c) { return c.device != "cpu"; });
  return cases;
}
inline std::string backend_name(const testing::TestParamInfo<BackendCase>& info) {
  return info.param.name('_');
}

/// COPPICE_REQUIRE_BACKENDS=cpu/avx512,cuda,… : a listed backend may not skip. "cpu" alone means its
/// baseline, which every machine has.
inline bool required(const BackendCase& c) {
  const char* list = std::getenv("COPPICE_REQUIRE_BACKENDS");
  if (list == nullptr) return false;
  const std::string names = "," + std::string(list) + ",";
  return names.find("," + c.name('/') + ",") != std::string::npos ||
         (c.isa == "baseline" && names.find("," + c.device + ",") != std::string::npos);
}

/// Opens the backend, or null with the reason. The instruction set is chosen when a backend opens, so the
/// environment is put back at once.
inline std::unique_ptr<Backend> open_case(const BackendCase& c, const BackendOptions& options,
                                          std::string& reason) {
  const char* before = std::getenv("COPPICE_ISA");
  const std::string saved = before != nullptr ? before : "";
  if (!c.isa.empty()) setenv("COPPICE_ISA", c.isa.c_str(), 1);
  std::unique_ptr<Backend> backend;
  try {
    backend = open_backend(c.device, options);
  } catch (const Error& error) {
    reason = error.what();
  }
  before != nullptr ? setenv("COPPICE_ISA", saved.c_str(), 1) : unsetenv("COPPICE_ISA");
  return backend;
}
inline std::unique_ptr<Backend> open_case(const BackendCase& c, int threads, std::string& reason) {
  return open_case(c, BackendOptions{threads}, reason);
}

/// Random inputs from a fresh seed, which every failure prints; COPPICE_TEST_SEED repeats one.
class Random {
 public:
  Random() : Random(fresh_seed()) {}
  explicit Random(uint64_t seed) : seed_(seed), engine_(seed) {}
  uint64_t seed() const { return seed_; }

  float normal() { return std::normal_distribution<float>()(engine_); }
  float uniform() { return std::uniform_real_distribution<float>()(engine_); }
  int64_t below(int64_t n) { return std::uniform_int_distribution<int64_t>(0, n - 1)(engine_); }
  template <class T>
  const T& one_of(const std::vector<T>& from) {
    return from[static_cast<size_t>(below(static_cast<int64_t>(from.size())))];
  }
  std::vector<float> normals(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = normal();
    return values;
  }
  /// Normals of which about `sparsity` are +0.
  std::vector<float> sparse_normals(int64_t count, float sparsity) {
    std::vector<float> values = normals(count);
    for (float& v : values) v = uniform() < sparsity ? 0.0f : v;
    return values;
  }

 private:
  static uint64_t fresh_seed() {
    const char* fixed = std::getenv("COPPICE_TEST_SEED");
    return fixed != nullptr ? std::strtoull(fixed, nullptr, 0) : std::random_device{}();
  }
  uint64_t seed_;
  std::mt19937_64 engine_;
};

/// The sizes at which tiles, vectors and panels begin and end.
inline const std::vector<int64_t> kOddSizes = {0, 1, 3, 7, 31, 32, 33, 255, 257};

/// What lies around (and, before an operation wrote it, inside) a test matrix: NaNs that can be told apart,
/// so that reading one shows in the result and overwriting one shows in `expect_untouched_around`.
inline const float kSentinel = std::bit_cast<float>(0x7fc0'5e17u);
inline const float kPoison = std::bit_cast<float>(0x7fc0'deadu);

/// A matrix on a device: rows further apart than they are long, off alignment, sentinels all around.
class TestMatrix {
 public:
  /// Without values: an output, poisoned. `gap` elements lie between rows, `offset` before the first.
  TestMatrix(Backend& backend, int64_t rows, int64_t cols, const std::vector<float>& values = {},
             int64_t gap = 3, int64_t offset = 1)
      : backend_(backend), rows_(rows), cols_(cols), stride_(cols + gap), offset_(offset) {
    const int64_t floats = offset_ + rows_ * stride_ + 64;
    image_.assign(static_cast<size_t>(floats), kSentinel);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < cols_; ++c) {
        image_[index(r, c)] = values.empty() ? kPoison : values[static_cast<size_t>(r * cols_ + c)];
      }
    }
    buffer_ = Buffer(backend, floats * 4, "a test matrix");
    backend.upload(image_.data(), buffer_.data(), floats * 4);
  }

  MatrixView<float> view() const {
    return {static_cast<float*>(buffer_.data()) + offset_, rows_, cols_, stride_, buffer_.device()};
  }
  operator MatrixView<float>() const { return view(); }
  operator MatrixView<const float>() const { return view(); }
  /// The first row as a vector.
  VectorView<float> vector() const { return {view().data, cols_, buffer_.device()}; }

  /// The values [rows · cols] as they are on the device now.
  std::vector<float> values() {
    const std::vector<float> now = download();
    std::vector<float> result;
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < cols_; ++c) result.push_back(now[index(r, c)]);
    }
    return result;
  }
  /// Nothing outside the matrix was written.
  void expect_untouched_around() {
    const std::vector<float> now = download();
    std::vector<bool> inside(now.size(), false);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < cols_; ++c) inside[index(r, c)] = true;
    }
    for (size_t i = 0; i < now.size(); ++i) {
      if (inside[i]) continue;
      ASSERT_EQ(std::bit_cast<uint32_t>(now[i]), std::bit_cast<uint32_t>(kSentinel))
          << "element " << static_cast<int64_t>(i) - offset_ << " outside a [" << rows_ << ", " << cols_
          << "] matrix of stride " << stride_ << " was overwritten";
    }
  }

 private:
  size_t index(int64_t r, int64_t c) const { return static_cast<size_t>(offset_ + r * stride_ + c); }
  std::vector<float> download() {
    std::vector<float> now(image_.size());
    backend_.download(buffer_.data(), now.data(), static_cast<int64_t>(now.size()) * 4);
    return now;
  }

  Backend& backend_;
  int64_t rows_, cols_, stride_, offset_;
  std::vector<float> image_;
  Buffer buffer_;
};

inline std::vector<uint32_t> bits(const std::vector<float>& values) {
  std::vector<uint32_t> result;
  for (const float v : values) result.push_back(std::bit_cast<uint32_t>(v));
  return result;
}

/// A reduction in double over the same float inputs: its value and the sum of its terms' sizes, to which
/// rounding errors are in proportion.
struct Reduction {
  double value = 0;
  double size = 0;
  void add(double term) {
    value += term;
    size += std::abs(term);
  }
};

/// |actual − value| <= c · terms · eps · size for every element, and a normalised mean squared error <= 1e-7.
inline void expect_close(const std::vector<float>& actual, const std::vector<Reduction>& expected,
                         int64_t terms, double c = 1.0) {
  ASSERT_EQ(actual.size(), expected.size());
  double error_sum = 0, value_sum = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(static_cast<double>(actual[i]) - expected[i].value);
    const double bound = c * static_cast<double>(terms + 2) * 0x1p-23 * expected[i].size + 1e-37;
    ASSERT_LE(error, bound) << "element " << i << ": " << actual[i] << ", expected " << expected[i].value;
    error_sum += error * error;
    value_sum += expected[i].value * expected[i].value;
  }
  EXPECT_LE(error_sum, 1e-7 * value_sum + 1e-30);
}

/// Base of the suites over operations: `backend()` is the case's, with two threads, proven to be the one
/// asked for; every failure shows the seed.
class OpsTest : public testing::TestWithParam<BackendCase> {
 protected:
  void SetUp() override {
    std::string reason;
    backend_ = open_case(GetParam(), 2, reason);
    if (backend_ == nullptr) {
      ASSERT_FALSE(required(GetParam())) << "a required backend is absent: " << reason;
      GTEST_SKIP() << reason;
    }
    if (GetParam().device == "cpu") {
      const std::string runs = backend_->info().detail;
      ASSERT_TRUE(runs == GetParam().isa || runs == GetParam().isa + " (emulated)")
          << runs << " runs instead of the instruction set that was forced";
    }
  }

  Backend& backend() { return *backend_; }
  /// Another backend of the same case.
  std::unique_ptr<Backend> open(const BackendOptions& options) {
    std::string reason;
    auto result = open_case(GetParam(), options, reason);
    EXPECT_NE(result, nullptr) << reason;
    return result;
  }
  std::unique_ptr<Backend> open(int threads) { return open(BackendOptions{threads}); }

  Random random_;
  testing::ScopedTrace trace_{__FILE__, __LINE__, "COPPICE_TEST_SEED=" + std::to_string(random_.seed())};

 private:
  std::unique_ptr<Backend> backend_;
};

/// Expects an Error of a kind whose message contains `fragment`.
template <class F>
void expect_error(ErrorKind kind, const std::string& fragment, F&& f) {
  try {
    f();
    ADD_FAILURE() << "no error, expected one about \"" << fragment << "\"";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_NE(std::string(error.what()).find(fragment), std::string::npos) << error.what();
  }
}

#define COPPICE_FOR_ALL_BACKENDS(suite)                                                        \
  INSTANTIATE_TEST_SUITE_P(Backends, suite, testing::ValuesIn(coppice::test::backend_cases()), \
                           coppice::test::backend_name)

/// For what only the CPU's classes promise.
#define COPPICE_FOR_CPU_BACKENDS(suite)                                                    \
  INSTANTIATE_TEST_SUITE_P(Backends, suite, testing::ValuesIn(coppice::test::cpu_cases()), \
                           coppice::test::backend_name)

}  // namespace coppice::test
