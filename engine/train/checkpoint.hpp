#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/network.hpp"
#include "engine/report/run_report.hpp"
#include "engine/train/trainer.hpp"

namespace coppice {

/// All that it takes to go on with a run as if it had never stopped. On disk: one safetensors file whose
/// arrays are those below and whose metadata hold the rest as JSON. One file, because one rename replaces it:
/// whoever reads it, after whatever kill, finds the old one or the new one.
struct Checkpoint {
  std::string verb;                     // "run", "train", "retrain": which list of stages
  std::string output;                   // train, retrain: where the model goes in the end
  std::string source;                   // retrain: the model that it starts from
  std::string next;                     // the stage in flight, or the first that is not done; "" when all are
  std::optional<TrainerState> trainer;  // of the stage in flight
  int64_t threads =
      0;  // results are the same bits for the same number, which a resumed run must therefore have
  std::vector<int64_t> data;  // what the data said of themselves: another text in the old place is noticed
  int64_t steps = 0;          // optimizer steps behind the values, without those of the stage in flight
  int64_t dense_steps = 0;    // behind the dense model
  std::vector<int64_t> retrain_steps;  // done, by round
  RunReport report;                    // so far

  /// A host copy of a device array. "values", "mask", "state" are the store's and the network's, the others
  /// the trainer's.
  struct Array {
    std::string name;
    DType dtype = DType::f32;
    int64_t size = 0;  // elements
    std::vector<std::byte> bytes;
  };
  std::vector<Array> arrays;

  const Array* find(std::string_view name) const;
};

void write_checkpoint(const std::string& path, const Checkpoint& checkpoint);
/// Throws Error(bad_input) naming the file when it isn't a checkpoint.
Checkpoint read_checkpoint(const std::string& path);

/// A line of metrics.jsonl: the record as JSON, what is not finite as null.
std::string epoch_line(const EpochRecord& epoch);

/// Copies the network's values, masks and carried state, and the trainer's arrays, into the checkpoint.
void capture(Checkpoint& checkpoint, Network& network, Trainer* trainer);
/// The way back. Throws Error(bad_input) naming the array that is missing or of another size.
void restore(const Checkpoint& checkpoint, Network& network, Trainer* trainer);

}  // namespace coppice
