#include "engine/model/parameter_store.hpp"

#include <algorithm>

#include "kernels/error.hpp"

namespace coppice {

namespace {

int64_t words_of(const Segment& segment) {
  return (segment.size() + 63) / 64;
}

}  // namespace

ParameterStore::ParameterStore(Backend& backend, std::vector<Segment> segments)
    : backend_(&backend), segments_(std::move(segments)) {
  for (Segment& segment : segments_) {
    segment.offset = size_;
    size_ += (segment.size() + kBlock - 1) / kBlock * kBlock;
  }
  const int64_t bytes = size_ * static_cast<int64_t>(sizeof(float));
  values_ = Buffer(backend, bytes, "parameters");
  gradients_ = Buffer(backend, bytes, "gradients");
  backend.fill_zero(values_.data(), bytes);
  backend.fill_zero(gradients_.data(), bytes);
}

const Segment& ParameterStore::segment(std::string_view name) const {
  for (const Segment& segment : segments_) {
    if (segment.name == name) return segment;
  }
  std::string known;
  for (const Segment& segment : segments_) known += (known.empty() ? "" : ", ") + segment.name;
  bad_input("no tensor \"{}\" in the model; it has {}", name, known);
}

int64_t ParameterStore::parameter_count() const {
  int64_t count = 0;
  for (const Segment& segment : segments_) count += segment.size();
  return count;
}

VectorView<uint64_t> ParameterStore::mask() const {
  if (!masked()) return {nullptr, 0, backend_->device()};
  return mask_.vector<uint64_t>(size_ / 64);
}

void ParameterStore::enable_mask() {
  const std::vector<uint64_t> ones(static_cast<size_t>(size_ / 64), ~uint64_t{0});
  mask_ = Buffer(*backend_, size_ / 8, "mask");
  backend_->upload(ones, mask());
}

void ParameterStore::disable_mask() {
  mask_ = Buffer();
}

MatrixView<float> ParameterStore::matrix(const Segment& segment) const {
  return values_.matrix<float>(segment.rows(), segment.cols(), segment.offset);
}
MatrixView<float> ParameterStore::gradient_matrix(const Segment& segment) const {
  return gradients_.matrix<float>(segment.rows(), segment.cols(), segment.offset);
}
VectorView<float> ParameterStore::vector(const Segment& segment) const {
  return values_.vector<float>(segment.size(), segment.offset);
}
VectorView<float> ParameterStore::gradient_vector(const Segment& segment) const {
  return gradients_.vector<float>(segment.size(), segment.offset);
}

std::vector<float> ParameterStore::download(const Segment& segment) const {
  return backend_->download(vector(segment));
}

void ParameterStore::upload(const Segment& segment, std::span<const float> values) {
  if (static_cast<int64_t>(values.size()) != segment.size()) {
    bad_input("tensor \"{}\" has {} elements, but {} values were given", segment.name, segment.size(),
              values.size());
  }
  backend_->upload(values.data(), vector(segment).data, static_cast<int64_t>(values.size_bytes()));
  values_changed();
}

std::vector<uint64_t> ParameterStore::download_mask(const Segment& segment) const {
  if (!masked()) return std::vector<uint64_t>(static_cast<size_t>(words_of(segment)), ~uint64_t{0});
  return backend_->download(mask().slice(segment.offset / 64, words_of(segment)));
}

void ParameterStore::upload_mask(const Segment& segment, std::span<const uint64_t> words) {
  if (static_cast<int64_t>(words.size()) != words_of(segment)) {
    bad_input("the mask of tensor \"{}\" takes {} words, but {} were given", segment.name, words_of(segment),
              words.size());
  }
  if (!masked()) enable_mask();
  std::vector<uint64_t> copy(words.begin(), words.end());
  // The padding behind a segment counts as kept, whatever a file says, so that kept bits can be counted.
  if (segment.size() % 64 != 0) copy.back() |= ~uint64_t{0} << (segment.size() % 64);
  backend_->upload(copy, mask().slice(segment.offset / 64, words_of(segment)));
}

}  // namespace coppice
