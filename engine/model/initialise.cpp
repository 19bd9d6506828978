#include "engine/model/initialise.hpp"

#include <cmath>
#include <numbers>
#include <string_view>
#include <vector>

#include "kernels/random.hpp"

namespace coppice {

namespace {

RandomStream stream_of(const Segment& segment, uint64_t seed) {
  uint64_t hash = 0xcbf2'9ce4'8422'2325ull;  // FNV-1a
  for (const char c : segment.name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x0000'0100'0000'01b3ull;
  return {derive_key(seed, hash), 0};
}

double normal(RandomStream stream, uint64_t index) {
  const uint64_t pair = index / 2;
  const double u = 1.0 - random_uniform_double(stream, 2 * pair);  // (0, 1]: its logarithm is finite
  const double angle = 2.0 * std::numbers::pi * random_uniform_double(stream, 2 * pair + 1);
  return std::sqrt(-2.0 * std::log(u)) * (index % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

double dot(const double* a, const double* b, int64_t size) {
  double sum = 0.0;
  for (int64_t i = 0; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

void fill_uniform(ParameterStore& store, const Segment& segment, double range, uint64_t seed) {
  const RandomStream stream = stream_of(segment, seed);
  std::vector<float> values(static_cast<size_t>(segment.size()));
  for (size_t i = 0; i < values.size(); i += 4) {
    const RandomBlock block = random_block(stream, i / 4);
    for (size_t j = 0; j < 4 && i + j < values.size(); ++j) {
      values[i + j] = static_cast<float>((2.0 * to_uniform(block.word[j]) - 1.0) * range);
    }
  }
  store.upload(segment, values);
}

void fill_normal(ParameterStore& store, const Segment& segment, double deviation, uint64_t seed) {
  const RandomStream stream = stream_of(segment, seed);
  std::vector<float> values(static_cast<size_t>(segment.size()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(deviation * normal(stream, i));
  store.upload(segment, values);
}

void fill_constant(ParameterStore& store, const Segment& segment, float value) {
  fill_rows(store, segment, 0, segment.rows(), value);
}

void fill_rows(ParameterStore& store, const Segment& segment, int64_t begin, int64_t end, float value) {
  std::vector<float> values(static_cast<size_t>(segment.size()), 0.0f);
  for (int64_t i = begin * segment.cols(); i < end * segment.cols(); ++i)
    values[static_cast<size_t>(i)] = value;
  store.upload(segment, values);
}

void fill_glorot(ParameterStore& store, const Segment& segment, uint64_t seed) {
  fill_uniform(store, segment, std::sqrt(6.0 / static_cast<double>(segment.rows() + segment.cols())), seed);
}

void fill_orthogonal(ParameterStore& store, const Segment& segment, uint64_t seed) {
  const int64_t rows = segment.rows(), cols = segment.cols();
  const int64_t count = std::min(rows, cols), length = std::max(rows, cols);
  const RandomStream stream = stream_of(segment, seed);
  std::vector<double> basis(static_cast<size_t>(count * length));  // `count` vectors of `length`
  for (size_t i = 0; i < basis.size(); ++i) basis[i] = normal(stream, i);
  for (int64_t i = 0; i < count; ++i) {
    double* vector = basis.data() + i * length;
    // Twice is enough (Parlett 1980): the second sweep removes what the first one's rounding left.
    for (int sweep = 0; sweep < 2; ++sweep) {
      for (int64_t j = 0; j < i; ++j) {
        const double* other = basis.data() + j * length;
        const double projection = dot(vector, other, length);
        for (int64_t k = 0; k < length; ++k) vector[k] -= projection * other[k];
      }
    }
    const double norm = std::sqrt(dot(vector, vector, length));
    for (int64_t k = 0; k < length; ++k) vector[k] /= norm;
  }
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      values[static_cast<size_t>(r * cols + c)] =
          static_cast<float>(rows >= cols ? basis[static_cast<size_t>(c * length + r)]
                                          : basis[static_cast<size_t>(r * length + c)]);
    }
  }
  store.upload(segment, values);
}

}  // namespace coppice
