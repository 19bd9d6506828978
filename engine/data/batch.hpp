#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace coppice {

/// One batch on the host, time-major: row t·B + b is step t of stream b. Either `ids` or `features` is
/// filled.
struct Batch {
  int64_t steps = 0;             // T of this batch
  int64_t batch = 0;             // B of this batch
  std::vector<int32_t> ids;      // [T·B]
  std::vector<float> features;   // [T·B, inputs]
  std::vector<int32_t> lengths;  // [B], or empty when every stream has T valid steps
  std::vector<int32_t> targets;  // [T·B] (language model) or [B] (one label a sequence); −1: does not count
  bool carries_state = false;    // the hidden state of the batch before goes on in this one
};

enum class Task { language_model, classification };

/// What the data say of themselves; the model is sized by it.
struct DataShape {
  Task task = Task::language_model;
  int64_t inputs = 0;                      // features a step; 0 when steps are ids
  int64_t vocabulary = 0;                  // ids are 0..vocabulary−1
  int64_t classes = 0;                     // width of the softmax; 1: a logit for 0/1 labels
  bool character = false;                  // report bits per character
  std::vector<std::string> class_names{};  // by class: the labels as the files spell them; empty for text
};

/// One split of a data set, cut into batches. Deterministic: the batches of an epoch depend on (seed, epoch).
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  virtual int64_t batches() const = 0;          // in one epoch
  virtual int64_t targets() const = 0;          // that count, in one epoch
  virtual void start_epoch(int64_t epoch) = 0;  // 0-based; shuffles where the recipe says so
  /// Batch `index` of the current epoch: random access, so that a resumed run goes on where it was.
  virtual void read(int64_t index, Batch& batch) = 0;
};

/// The tokens of a text model: id ↔ token.
struct Vocabulary {
  std::string token = "word";        // word | character
  std::vector<std::string> entries;  // by id
  int32_t unknown = -1;              // id of <unk>, −1 when none
  int32_t end_of_line = -1;
};

}  // namespace coppice
