#include "engine/data/data.hpp"

#include "engine/data/sequences.hpp"
#include "engine/data/text.hpp"
#include "kernels/error.hpp"

namespace coppice {

DataSet open_data(const DataConfig& config, uint64_t seed, const Vocabulary* fixed, std::string_view loss) {
  if (config.kind == "text") return open_text(config, fixed);
  if (config.kind == "sequences") return open_sequences(config, seed, loss);
  if (config.kind == "generated") return open_generated(config, seed, loss);
  bad_input("data.kind is \"{}\", expected \"text\", \"sequences\" or \"generated\"", config.kind);
}

std::unique_ptr<BatchSource> open_split(const DataConfig& config, const std::string& path,
                                        const DataShape& shape, const Vocabulary* vocabulary) {
  if (shape.task == Task::language_model) {
    if (vocabulary == nullptr) bad_input("{}: can't be read as text: the model has no vocabulary", path);
    return open_text_split(config, path, *vocabulary);
  }
  return open_sequence_split(config, path, shape);
}

}  // namespace coppice
