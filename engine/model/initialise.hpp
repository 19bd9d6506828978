#pragma once

#include <cstdint>

#include "engine/model/parameter_store.hpp"

namespace coppice {

// Starting values, drawn on the host from counter-based streams: element i of a tensor depends on (seed, the
// tensor's name, i) alone, so that it is the same on every device and whatever other tensors a model has.

/// Uniform in [−range, range).
void fill_uniform(ParameterStore& store, const Segment& segment, double range, uint64_t seed);
/// Normal with mean 0 (Box and Muller 1958).
void fill_normal(ParameterStore& store, const Segment& segment, double deviation, uint64_t seed);
/// All of the tensor, or the rows [begin, end) of it (other rows: 0).
void fill_constant(ParameterStore& store, const Segment& segment, float value);
void fill_rows(ParameterStore& store, const Segment& segment, int64_t begin, int64_t end, float value);
/// ±√(6 / (rows + cols)): Glorot and Bengio 2010.
void fill_glorot(ParameterStore& store, const Segment& segment, uint64_t seed);
/// Columns (or, of a wide matrix, rows) orthonormal: Saxe et al. 2014, by Gram–Schmidt on normal draws.
void fill_orthogonal(ParameterStore& store, const Segment& segment, uint64_t seed);

}  // namespace coppice
