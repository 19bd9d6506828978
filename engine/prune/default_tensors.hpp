#pragma once

#include <string_view>

#include "engine/files/weight_file.hpp"

namespace coppice {

/// Why a tensor of somebody's checkpoint is left alone unless a pattern names it, in a word for the report;
/// empty where it is a projection, which is pruned. Left alone are types that are no floats, vectors (also
/// those of shape [1, 1, n]), and by the names that the models of today give them: embeddings, heads, norms,
/// biases, the decay and mixing parameters of recurrent models, and short convolutions along time.
std::string_view reason_to_keep(const FileTensor& tensor);

}  // namespace coppice
