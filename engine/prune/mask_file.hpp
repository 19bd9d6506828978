#pragma once

#include <filesystem>
#include <string>
#include <utility>

#include "engine/files/atomic_write.hpp"
#include "engine/files/weight_file.hpp"
#include "engine/model/parameter_store.hpp"

namespace coppice {

// masks.safetensors: for every tensor of which something is cut (or, of a file that was pruned as it was
// streamed, for every one that took part) a U8 tensor of its name, ⌈size/8⌉ bytes. Element i (row-major) is
// bit i % 8 of byte i / 8, lowest bit first, 1 = kept (numpy.unpackbits(…, bitorder="little")); bits past the
// end are 1. The metadata hold "shape:NAME" = "800,200". Tensors that aren't named are whole.

void save_masks(const std::filesystem::path& file, const ParameterStore& store,
                Existing existing = Existing::refuse);

/// Sets the store's mask and cuts its values by it.
/// Throws Error(bad_input) naming the tensor that the store doesn't have or that is of another shape.
void load_masks(const std::filesystem::path& file, ParameterStore& store);

/// The entry of a mask in such a file, and what its metadata say of it.
FileTensor mask_entry(const FileTensor& tensor);
std::pair<std::string, std::string> mask_shape(const FileTensor& tensor);

/// Throws Error(bad_input) naming the tensor unless every mask of the file is that of a tensor of `weights`.
void check_masks(const WeightFile& masks, const WeightFile& weights);

/// For a model without such a file: what is +0 in a prunable tensor counts as cut.
void masks_of_zeros(ParameterStore& store);

}  // namespace coppice
