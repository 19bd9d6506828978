#include "engine/prune/marks.hpp"

#include <utility>

namespace coppice {
namespace {

int64_t words_of(const PlanPart& part) {
  return (part.begin % 64 + part.count + 63) / 64;
}

}  // namespace

uint64_t Marks::bytes(const PlanGroup& group) {
  uint64_t bytes = 0;
  for (const PlanPart& part : group.parts) bytes += static_cast<uint64_t>(words_of(part)) * 8;
  return bytes;
}

void Marks::reserve(Backend& backend, const PlanGroup& group) {
  words_ = Buffer(backend, static_cast<int64_t>(bytes(group)), "bits of what is kept");
  first_word_.clear();
  int64_t word = 0;
  for (const PlanPart& part : group.parts) {
    first_word_.push_back(word);
    word += words_of(part);
  }
}

void Marks::complete(Key low, Key high, std::vector<Place> inside, std::vector<size_t> ends) {
  low_ = low;
  high_ = high;
  inside_ = std::move(inside);
  ends_ = std::move(ends);
}

std::vector<const uint64_t*> Marks::settle(const PlanGroup& group, std::span<const Place> places) {
  std::vector<const uint64_t*> settled(group.parts.size(), nullptr);
  size_t i = 0;
  for (size_t p = 0; p < settled.size() && is_complete(); ++p) {
    const PlanPart& part = group.parts[p];
    const Place& place = places[p];
    // A part that a minimum density protects may be cut below the bracket.
    const bool inside = place >= Place{low_, 0} && place <= Place{high_, ~uint64_t{0}};
    uint64_t* const bits = words(p);
    const uint64_t first = part.position - static_cast<uint64_t>(part.begin % 64);
    for (; inside && i < ends_[p]; ++i) {
      const uint64_t at = inside_[i].position - first;
      bits[at / 64] &= ~(static_cast<uint64_t>(inside_[i] < place) << (at % 64));
    }
    i = ends_[p];
    if (inside) settled[p] = bits;
  }
  inside_ = {};
  return settled;
}

}  // namespace coppice
