#include "engine/prune/mask_file.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/files/safetensors.hpp"
#include "kernels/error.hpp"

namespace coppice {

static_assert(std::endian::native == std::endian::little, "words of mask bits are written as bytes");

namespace {

std::string shape_text(const Segment& segment) {
  return fmt::format("{}", fmt::join(segment.shape, ","));
}

}  // namespace

void save_masks(const std::filesystem::path& file, const ParameterStore& store, Existing existing) {
  std::vector<FileTensor> tensors;
  std::map<std::string, std::string> metadata;
  std::vector<std::vector<uint8_t>> masks;
  for (const Segment& segment : store.segments()) {
    const std::vector<uint64_t> words = store.download_mask(segment);
    std::vector<uint8_t> bytes(words.size() * sizeof(uint64_t));
    if (!bytes.empty()) std::memcpy(bytes.data(), words.data(), bytes.size());
    bytes.resize(static_cast<size_t>((segment.size() + 7) / 8));
    if (segment.size() % 8 != 0) bytes.back() |= static_cast<uint8_t>(0xff << (segment.size() % 8));
    if (std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0xff; })) continue;
    tensors.push_back({segment.name, DType::u8, {static_cast<int64_t>(bytes.size())}});
    metadata["shape:" + segment.name] = shape_text(segment);
    masks.push_back(std::move(bytes));
  }
  SafetensorsWriter writer(file.string(), tensors, std::move(metadata), existing);
  for (size_t i = 0; i < tensors.size(); ++i)
    writer.write(tensors[i].name, masks[i].data(), tensors[i].size());
  writer.finish();
}

void load_masks(const std::filesystem::path& file, ParameterStore& store) {
  const SafetensorsFile masks(file.string());
  store.enable_mask();
  for (size_t i = 0; i < masks.tensors().size(); ++i) {
    const FileTensor& tensor = masks.tensors()[i];
    const Segment& segment = store.segment(tensor.name);
    const auto shape = masks.metadata().find("shape:" + tensor.name);
    if (tensor.dtype != DType::u8 || tensor.size() != (segment.size() + 7) / 8 ||
        (shape != masks.metadata().end() && shape->second != shape_text(segment))) {
      bad_input("{}: the mask of \"{}\" isn't that of a tensor of shape [{}]", file.string(), tensor.name,
                shape_text(segment));
    }
    std::vector<uint64_t> words(static_cast<size_t>((segment.size() + 63) / 64), ~uint64_t{0});
    if (tensor.size() != 0) masks.read(i, 0, tensor.size(), words.data());
    store.upload_mask(segment, words);
  }
  store.backend().optimizer().apply_mask(store.values(), store.mask());
  store.values_changed();
}

FileTensor mask_entry(const FileTensor& tensor) {
  return {tensor.name, DType::u8, {tensor.size() / 8 + (tensor.size() % 8 != 0)}};
}

std::pair<std::string, std::string> mask_shape(const FileTensor& tensor) {
  return {"shape:" + tensor.name, fmt::format("{}", fmt::join(tensor.shape, ","))};
}

void check_masks(const WeightFile& masks, const WeightFile& weights) {
  for (const FileTensor& mask : masks.tensors()) {
    if (!weights.contains(mask.name)) {
      bad_input("{}: has a mask of \"{}\", which {} does not hold", masks.path(), mask.name, weights.path());
    }
    const FileTensor& tensor = weights.tensor(mask.name);
    const auto [key, text] = mask_shape(tensor);
    const auto shape = masks.metadata().find(key);
    if (mask.dtype != DType::u8 || mask.shape != mask_entry(tensor).shape ||
        (shape != masks.metadata().end() && shape->second != text)) {
      bad_input("{}: the mask of \"{}\" isn't that of a tensor of shape [{}]", masks.path(), mask.name, text);
    }
  }
}

void masks_of_zeros(ParameterStore& store) {
  store.enable_mask();
  for (const Segment& segment : store.segments()) {
    if (!segment.prunable) continue;
    const std::vector<float> values = store.download(segment);
    std::vector<uint64_t> words(static_cast<size_t>((segment.size() + 63) / 64), ~uint64_t{0});
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::bit_cast<uint32_t>(values[i]) == 0) words[i / 64] &= ~(uint64_t{1} << (i % 64));
    }
    store.upload_mask(segment, words);
  }
}

}  // namespace coppice
