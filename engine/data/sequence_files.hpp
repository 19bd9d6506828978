#pragma once

#include <string>
#include <vector>

#include "engine/data/sequences.hpp"

namespace coppice {

/// Sequences as a file has them: labels in the file's own spelling, numbers without a point where they are
/// whole.
struct LabelledSequences {
  SequenceData data;  // data.labels: positions in label_names
  std::vector<std::string>
      label_names;             // every label that occurs, and those that a .ts header declares; sorted
  std::string origin;          // "FILE" or "FILE: y_train", for errors
  std::vector<int64_t> lines;  // of each sequence in a .ts file
};

/// Sorted as numbers when all are numbers, else by bytes.
std::vector<std::string> sorted_labels(std::vector<std::string> labels);

/// A UEA/UCR .ts file (sktime's format): a header of @-lines, then one sequence a line, its dimensions
/// separated by
/// ':' and their values by ',', the label last. Sequences may differ in length; the dimensions of one may
/// not. Errors name file and line.
LabelledSequences read_ts(const std::string& path);

/// The arrays x_PART [N, T, I], y_PART [N] or [N, 1] and, where sequences are shorter than T, lengths_PART
/// [N] of an .npz file. Labels are whole numbers of any numeric type. An empty `part` is x, y, lengths.
LabelledSequences read_npz(const std::string& path, const std::string& part);

/// Whether an .npz file has the arrays of a part.
bool npz_has_part(const std::string& path, const std::string& part);

bool is_npz(const std::string& path);

}  // namespace coppice
