#include "engine/prune/host_scores.hpp"

#include <vector>

#include "engine/prune/blocks.hpp"

namespace coppice {
namespace {

int64_t words_of(const ScoreBlock& block) {
  return (block.mask_bit + block.count + 63) / 64;
}

const void* fetch(Backend& backend, const void* device, int64_t bytes, std::vector<uint64_t>& host) {
  if (device == nullptr) return nullptr;
  host.resize(static_cast<size_t>((bytes + 7) / 8));
  backend.download(device, host.data(), bytes);
  return host.data();
}

}  // namespace

void HostKeys::read(const Plan& plan, ParameterSource& source, size_t tensor, const ScoreBlock& block) {
  const int64_t bytes = block.count * size_of(score_type(block.dtype));
  if (bytes > size_) {
    bytes_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(bytes));
    size_ = bytes;
  }
  refuse_nan(source.backend().selection().keys(plan.scoring, block, bytes_.get()), plan, source, tensor);
}

uint64_t apply_bits(Backend& backend, const ScoreBlock& block, const uint64_t* kept, void* output,
                    uint64_t* mask) {
  const bool on_host = backend.device().type == Device::Type::cpu;
  const size_t words = static_cast<size_t>(words_of(block));
  std::vector<uint64_t> both;
  if (block.kept != nullptr) {
    std::vector<uint64_t> already;
    const uint64_t* bits = block.kept;
    if (!on_host)
      bits =
          static_cast<const uint64_t*>(fetch(backend, block.kept, static_cast<int64_t>(words) * 8, already));
    both.resize(words);
    for (size_t i = 0; i < words; ++i) both[i] = kept[i] & bits[i];
    kept = both.data();
  }
  // The device cuts what the bits say is cut: below the lowest of all places there is nothing else.
  ScoreBlock by_bits = block;
  by_bits.statistic = nullptr;
  by_bits.kept = kept;
  Buffer uploaded;
  if (!on_host) {
    const int64_t bytes = static_cast<int64_t>(words) * 8;
    uploaded = Buffer(backend, bytes, "bits of what is kept");
    backend.upload(kept, uploaded.data(), bytes);
    by_bits.kept = static_cast<const uint64_t*>(uploaded.data());
  }
  const Scoring by_magnitude{Criterion::magnitude, 0, block.dtype == DType::f64};
  return backend.selection().apply(by_magnitude, by_bits, Place{}, output, mask);
}

}  // namespace coppice
