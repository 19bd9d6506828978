#include <re2/re2.h>

#include <algorithm>

#include "engine/c_api/guard.hpp"
#include "engine/c_api/tensors.hpp"
#include "engine/prune/file_source.hpp"
#include "engine/prune/mask_file.hpp"

namespace coppice::c_api {
namespace {

/// Cuts of blocks, to where the caller wants them.
class HostOutput final : public CutOutput {
 public:
  explicit HostOutput(const std::vector<CallersTensor>& tensors) : tensors_(tensors) {}

  bool in_place() const override { return true; }
  void write(size_t tensor, int64_t begin, int64_t count, const void* data) override {
    const NamedArray& output = tensors_[tensor].output;
    if (output.data == nullptr) return;
    // What was cut where it lies is there.
    const auto* const there =
        static_cast<const std::byte*>(output.data) + begin * size_of(output.tensor.dtype);
    if (!output.contiguous() || there != data) scatter(output, begin, count, data);
  }
  void write_mask(size_t tensor, int64_t begin, int64_t count, const void* bytes) override {
    uint8_t* const mask = tensors_[tensor].mask;
    if (mask == nullptr) return;
    const auto* const bits = static_cast<const uint8_t*>(bytes);
    const int64_t end = std::min(tensors_[tensor].size(), 8 * (begin + count));
    for (int64_t i = 8 * begin; i < end; ++i) mask[i] = bits[i / 8 - begin] >> (i % 8) & 1;
  }

 private:
  const std::vector<CallersTensor>& tensors_;
};

class HostTensors final : public TensorSource {
 public:
  HostTensors(Backend& backend, std::vector<CallersTensor>& tensors, bool wanda,
              const std::vector<std::string>& keep_diagonal, bool as_pieces);

  ParameterSource& source() override { return *source_; }
  void watch(ProgressListener* listener, const StopToken* stop, int64_t selected) override {
    source_->watch(listener, stop, selected);
  }
  void write() override { source_->set_output(&output_); }
  void finish(const std::vector<bool>& selected) override {
    for (size_t t = 0; t < tensors_.size(); ++t) {
      if (selected[t] || tensors_[t].mask == nullptr || !tensors_[t].kept_bits.empty()) continue;
      std::fill(tensors_[t].mask, tensors_[t].mask + tensors_[t].size(), uint8_t{1});
    }
  }

 private:
  std::vector<CallersTensor>& tensors_;
  HostOutput output_;
  std::unique_ptr<ArrayFile> weights_, statistics_, activations_, masks_;
  std::unique_ptr<FileSource> source_;
};

HostTensors::HostTensors(Backend& backend, std::vector<CallersTensor>& tensors, bool wanda,
                         const std::vector<std::string>& keep_diagonal, bool as_pieces)
    : tensors_(tensors), output_(tensors) {
  std::vector<NamedArray> weights, statistics, activations, masks;
  std::vector<FileTensorOptions> options(tensors.size());
  for (size_t t = 0; t < tensors.size(); ++t) {
    CallersTensor& tensor = tensors[t];
    weights.push_back(tensor.weights);
    statistics.insert(statistics.end(), tensor.statistics.begin(), tensor.statistics.end());
    activations.insert(activations.end(), tensor.activations.begin(), tensor.activations.end());
    if (!tensor.kept_bits.empty()) {
      masks.push_back({mask_entry(tensor.weights.tensor), tensor.kept_bits.data()});
    }
    if (as_pieces) continue;
    options[t].gates = tensor.gates;
    options[t].gate_names = tensor.gate_names;
  }
  for (const std::string& pattern : keep_diagonal) {
    const RE2 expression(pattern, RE2::Quiet);
    if (!expression.ok()) {
      bad_input("keep_diagonal: '{}' is no regular expression: {}", pattern, expression.error());
    }
    bool any = false;
    for (size_t t = 0; t < tensors.size(); ++t) {
      if (!RE2::FullMatch(tensors[t].whole_name, expression)) continue;
      if (tensors[t].weights.tensor.shape.size() != 2 || as_pieces) {
        bad_input("keep_diagonal: '{}' is no whole matrix", tensors[t].whole_name);
      }
      options[t].keep_diagonal = any = true;
    }
    if (!any) bad_input("keep_diagonal: '{}' matches no tensor", pattern);
  }
  weights_ = std::make_unique<ArrayFile>("weights", std::move(weights));
  statistics_ = std::make_unique<ArrayFile>("gradients", std::move(statistics));
  activations_ = std::make_unique<ArrayFile>("activations", std::move(activations));
  masks_ = std::make_unique<ArrayFile>("kept", std::move(masks));
  ScoreFiles files;
  if (wanda) {
    files.activations = activations_.get();
  } else {
    files.gradients.push_back(statistics_.get());
  }
  if (!masks_->tensors().empty()) files.masks = masks_.get();
  source_ = std::make_unique<FileSource>(backend, *weights_, files, std::move(options));
}

}  // namespace

std::unique_ptr<TensorSource> open_host_tensors(Backend& backend, std::vector<CallersTensor>& tensors,
                                                bool wanda, const std::vector<std::string>& keep_diagonal,
                                                bool as_pieces) {
  return std::make_unique<HostTensors>(backend, tensors, wanda, keep_diagonal, as_pieces);
}

}  // namespace coppice::c_api
