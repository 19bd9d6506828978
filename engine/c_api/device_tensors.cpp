#include <cstring>

#include "engine/c_api/guard.hpp"
#include "engine/c_api/tensors.hpp"
#include "engine/prune/blocks.hpp"
#include "engine/prune/source.hpp"

namespace coppice::c_api {
namespace {

/// Of bits, as a device has them.
int64_t word_bytes(int64_t size) {
  return (size + 63) / 64 * 8;
}

void check_on_device(const CallersTensor& tensor) {
  const NamedArray& weights = tensor.weights;
  const DType type = weights.tensor.dtype;
  if (type != DType::f32 && type != DType::f64) {
    bad_input("tensor \"{}\": weights on a device are F32 or F64; found {}", tensor.whole_name,
              to_string(type));
  }
  bool gaps = !weights.contiguous();
  for (const NamedArray& statistic : tensor.statistics) {
    if (statistic.tensor.dtype != type) {
      bad_input("tensor \"{}\": statistics on a device are of the type of its weights, {}; found {}",
                tensor.whole_name, to_string(type), to_string(statistic.tensor.dtype));
    }
    gaps = gaps || !statistic.contiguous();
  }
  if (gaps) bad_input("tensor \"{}\": arrays on a device lie without gaps; found strides", tensor.whole_name);
}

class DeviceTensors final : public TensorSource {
 public:
  DeviceTensors(Backend& backend, const std::vector<CallersTensor>& tensors, bool as_pieces)
      : backend_(backend), tensors_(tensors) {
    if (backend.device().type == Device::Type::cpu) {
      bad_input("tensors are on a device, but the option device names the host's processor");
    }
    for (const CallersTensor& tensor : tensors) {
      check_on_device(tensor);
      const FileTensor& array = tensor.weights.tensor;
      MemoryTensor& memory = memory_.emplace_back();
      memory.info.name = array.name;
      memory.info.shape = array.shape;
      memory.info.dtype = array.dtype;
      if (!as_pieces) {
        memory.info.gates = tensor.gates;
        memory.info.gate_names = tensor.gate_names;
      }
      memory.weights = tensor.weights.data;
      for (const NamedArray& statistic : tensor.statistics) {
        const std::string kind = statistic.tensor.name.substr(array.name.size());
        const void*& place = kind == ".absolute"  ? memory.absolute
                             : kind == ".squared" ? memory.squared
                                                  : memory.sum;
        place = statistic.data;
      }
      memory.output = tensor.output.data;
      std::vector<uint8_t> words(static_cast<size_t>(word_bytes(tensor.size())), 0xff);
      if (!tensor.kept_bits.empty()) {
        std::memcpy(words.data(), tensor.kept_bits.data(), tensor.kept_bits.size());
      }
      Buffer& mask = masks_.emplace_back(backend, word_bytes(tensor.size()), "a mask");
      backend.upload(words.data(), mask.data(), mask.bytes());
      memory.mask = static_cast<uint64_t*>(mask.data());
      if (!tensor.kept_bits.empty()) memory.kept = memory.mask;
    }
    source_ = std::make_unique<MemorySource>(backend, memory_);
  }

  ParameterSource& source() override { return *source_; }
  void write() override {}
  void finish(const std::vector<bool>& selected) override {
    for (size_t t = 0; t < tensors_.size(); ++t) {
      const CallersTensor& tensor = tensors_[t];
      if (tensor.size() == 0) continue;
      if (!selected[t]) cut_already(memory_[t], tensor.size());
      if (tensor.mask == nullptr) continue;
      std::vector<uint64_t> words(static_cast<size_t>(word_bytes(tensor.size()) / 8));
      backend_.download(masks_[t].data(), words.data(), masks_[t].bytes());
      for (int64_t i = 0; i < tensor.size(); ++i) {
        tensor.mask[i] = words[static_cast<size_t>(i / 64)] >> (i % 64) & 1;
      }
    }
    backend_.synchronize();
  }

 private:
  /// What takes no part goes to its output all the same, without what an earlier cut took.
  void cut_already(const MemoryTensor& memory, int64_t size) {
    ScoreBlock block;
    block.dtype = memory.info.dtype;
    block.weights = memory.weights;
    block.kept = memory.kept;
    block.count = size;
    backend_.selection().apply({}, block, {kCutAlready + 1, 0}, memory.output, memory.mask);
  }

  Backend& backend_;
  const std::vector<CallersTensor>& tensors_;
  std::vector<Buffer> masks_;
  std::vector<MemoryTensor> memory_;
  std::unique_ptr<MemorySource> source_;
};

}  // namespace

std::unique_ptr<TensorSource> open_device_tensors(Backend& backend, std::vector<CallersTensor>& tensors,
                                                  bool as_pieces) {
  return std::make_unique<DeviceTensors>(backend, tensors, as_pieces);
}

}  // namespace coppice::c_api
