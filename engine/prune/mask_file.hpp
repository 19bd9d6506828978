#pragma once

#include <filesystem>

#include "engine/files/atomic_write.hpp"
#include "engine/model/parameter_store.hpp"

namespace coppice {

// masks.safetensors: for every tensor of which something is cut a U8 tensor of its name, ⌈size/8⌉ bytes.
// Element i (row-major) is bit i % 8 of byte i / 8, lowest bit first, 1 = kept (numpy.unpackbits(…,
// bitorder="little")); bits past the end are 1. The metadata hold "shape:NAME" = "800,200". Tensors that
// aren't named are whole.

void save_masks(const std::filesystem::path& file, const ParameterStore& store,
                Existing existing = Existing::refuse);

/// Sets the store's mask and cuts its values by it.
/// Throws Error(bad_input) naming the tensor that the store doesn't have or that is of another shape.
void load_masks(const std::filesystem::path& file, ParameterStore& store);

/// For a model without such a file: what is +0 in a prunable tensor counts as cut.
void masks_of_zeros(ParameterStore& store);

}  // namespace coppice
