#include "kernels/selection.hpp"

#include <cmath>
#include <limits>

#include "kernels/error.hpp"
#include "kernels/ordered_key.hpp"

namespace coppice {
namespace {

constexpr uint32_t kLowest = ordered_key(-std::numeric_limits<float>::infinity());
constexpr uint32_t kHighest = ordered_key(std::numeric_limits<float>::infinity());

const void* advanced(const void* data, int64_t bytes) {
  return data == nullptr ? nullptr : static_cast<const char*>(data) + bytes;
}

}  // namespace

ScoreBlock part_of(const ScoreBlock& block, int64_t begin, int64_t count) {
  ScoreBlock part = block;
  part.weights = advanced(block.weights, begin * size_of(block.dtype));
  part.statistic = advanced(block.statistic, begin * size_of(block.statistic_dtype));
  const int64_t bit = block.mask_bit + begin;
  if (block.kept != nullptr) part.kept = block.kept + bit / 64;
  part.mask_bit = static_cast<int>(bit % 64);
  part.count = count;
  part.position = block.position + static_cast<uint64_t>(begin);
  return part;
}

void check_block(const Scoring& scoring, const ScoreBlock& block) {
  const auto is_scored = [](DType type) {
    return type == DType::f64 || type == DType::f32 || is_half(type);
  };
  if (!is_scored(block.dtype)) failure("selection: {} can't be scored", to_string(block.dtype));
  if (block.dtype == DType::f64 && !scoring.wide) failure("selection: f64 blocks need wide keys");
  if (statistic_of(scoring.criterion) == Statistic::none || block.count == 0) return;
  if (block.statistic == nullptr) {
    failure("selection: the criterion {} needs a statistic of the gradient", to_string(scoring.criterion));
  }
  if (!is_scored(block.statistic_dtype) || score_type(block.statistic_dtype) != score_type(block.dtype)) {
    failure("selection: a statistic of {} for weights of {}", to_string(block.statistic_dtype),
            to_string(block.dtype));
  }
  if (block.dtype == DType::f64 && block.statistic_form != StatisticForm::as_is) {
    failure("selection: a statistic of f64 is taken as it is");
  }
}

Key widened(uint32_t key) {
  // Keys of no float stay outside the range of those that are.
  if (key < kLowest) return key;
  if (key > kHighest) return ~Key{0} - (~uint32_t{0} - key);
  return ordered_key(static_cast<double>(value_of_key(key)));
}

uint64_t narrow_at_least(Key key) {
  uint64_t begin = 0, end = uint64_t{1} << 32;  // widened() is monotone
  while (begin < end) {
    const uint64_t middle = begin + (end - begin) / 2;
    if (widened(static_cast<uint32_t>(middle)) < key) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  // The key of −0, which no score has: ordered_key gives both zeros the one above.
  return begin == 0x7fff'ffffu ? 0x8000'0000u : begin;
}

Key key_of(const Scoring& scoring, double score) {
  return scoring.wide ? ordered_key(score) : Key{ordered_key(static_cast<float>(score))} << 32;
}

double score_of(const Scoring& scoring, Key key) {
  return scoring.wide ? value_of_key(key) : value_of_key(static_cast<uint32_t>(key >> 32));
}

Key key_at_least(const Scoring& scoring, double score) {
  return scoring.wide ? ordered_key(score) : narrow_at_least(ordered_key(score)) << 32;
}

UnitScore start_unit(Reduce reduce) {
  switch (reduce) {
    case Reduce::max:
      return {-std::numeric_limits<double>::infinity(), 0, 0};
    case Reduce::product:
      return {0.5, 1, 0};
    case Reduce::sum:
    case Reduce::mean:
    case Reduce::l2:
      break;
  }
  return {};
}

void multiply(UnitScore& unit, double factor) {
  int factor_exponent = 0, exponent = 0;
  const double mantissa = std::frexp(factor, &factor_exponent);
  unit.mantissa = std::frexp(unit.mantissa * mantissa, &exponent);
  if (unit.mantissa == 0.0 || !std::isfinite(unit.mantissa)) {
    unit.exponent = 0;
  } else {
    unit.exponent += int64_t{exponent} + factor_exponent;
  }
}

void finish_unit(Reduce reduce, UnitScore& unit) {
  if (unit.kept == 0) {
    unit = {};
    return;
  }
  if (reduce == Reduce::mean) unit.mantissa /= static_cast<double>(unit.kept);
  if (reduce == Reduce::l2) unit.mantissa = std::sqrt(unit.mantissa);
  int exponent = 0;
  unit.mantissa = std::frexp(unit.mantissa, &exponent);
  const bool plain = unit.mantissa == 0.0 || !std::isfinite(unit.mantissa);
  unit.exponent = plain ? 0 : unit.exponent + exponent;
}

bool less(const UnitScore& a, const UnitScore& b) {
  const auto sign = [](double x) { return (x > 0.0) - (x < 0.0); };
  if (sign(a.mantissa) != sign(b.mantissa)) return a.mantissa < b.mantissa;
  if (a.exponent == b.exponent || !std::isfinite(a.mantissa) || !std::isfinite(b.mantissa)) {
    return a.mantissa < b.mantissa;
  }
  return (a.exponent < b.exponent) == (a.mantissa > 0.0);
}

}  // namespace coppice
