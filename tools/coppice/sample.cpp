#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/data/text.hpp"
#include "engine/model/model_folder.hpp"
#include "kernels/error.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {
namespace {

/// Draws from softmax(logits / temperature); temperature 0 takes the largest.
int32_t draw(const float* logits, int64_t classes, double temperature, std::mt19937_64& random) {
  const float* best = std::max_element(logits, logits + classes);
  if (temperature == 0.0) return static_cast<int32_t>(best - logits);
  std::vector<double> sums(static_cast<size_t>(classes));
  double sum = 0.0;
  for (int64_t c = 0; c < classes; ++c) {
    sum += std::exp((static_cast<double>(logits[c]) - static_cast<double>(*best)) / temperature);
    sums[static_cast<size_t>(c)] = sum;
  }
  // 53 random bits rather than std::uniform_real_distribution, whose draws differ between libraries.
  const double at = static_cast<double>(random() >> 11) * 0x1p-53 * sum;
  const auto found = std::upper_bound(sums.begin(), sums.end(), at);
  return static_cast<int32_t>(std::min<int64_t>(found - sums.begin(), classes - 1));
}

/// Words with blanks between them, none before closing punctuation; characters as they are.
void append_token(std::string& text, const Vocabulary& vocabulary, int32_t id, bool join_punctuation) {
  if (id == vocabulary.end_of_line) {
    text += '\n';
    return;
  }
  const std::string& token = vocabulary.entries[static_cast<size_t>(id)];
  const bool word = vocabulary.token == "word";
  const bool closes = join_punctuation && token.size() == 1 &&
                      std::string_view(".,;:!?)]").find(token) != std::string_view::npos;
  if (word && !text.empty() && text.back() != '\n' && !closes) text += ' ';
  text += token;
}

}  // namespace

void add_sample(CLI::App& program) {
  struct Options : Command {
    std::string model;
    std::string prompt;
    int64_t length = 200;
    double temperature = 0.8;
    bool sparse = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App& verb = *program.add_subcommand("sample", "Let a language model write");
  verb.footer("Example:\n  coppice sample my_run/retrained --prompt \"in the beginning\" --length 100");
  verb.add_option("MODEL", options->model, "The folder of a language model")->required();
  verb.add_option("--prompt", options->prompt, "What the text begins with")->type_name("TEXT");
  verb.add_option("--length", options->length, "Tokens to write")
      ->check(CLI::Range(int64_t{0}, int64_t{10'000'000}))
      ->type_name("N")
      ->capture_default_str();
  verb.add_option("--temperature", options->temperature, "0: always the likeliest; 1: as the model has it")
      ->check(CLI::Range(0.0, 100.0))
      ->type_name("T")
      ->capture_default_str();
  verb.add_flag("--sparse", options->sparse, "Run the matrices in the sparse layout");
  options->add_device(verb);
  options->add_seed(verb);
  options->add_manners(verb);
  verb.callback([options] {
    const ModelDescription description = read_model(options->model);
    if (description.shape.task != Task::language_model || !description.vocabulary) {
      bad_input("{}: expected a language model over text; found a model that classifies sequences",
                options->model);
    }
    const Vocabulary& vocabulary = *description.vocabulary;
    const std::unique_ptr<Backend> backend =
        open_backend(options->device_or_auto(), {static_cast<int>(options->threads_or_all())});
    const std::unique_ptr<Network> network = load_model(*backend, options->model);
    if (options->sparse) network->use_layout("csr");
    const RunOptions work = options->work();

    std::string text;
    const bool join_punctuation = description.data.split_punctuation;
    Batch batch;
    batch.batch = 1;
    batch.carries_state = true;
    batch.ids = encode_prompt(options->prompt, description.data, vocabulary);
    for (const int32_t id : batch.ids) append_token(text, vocabulary, id, join_punctuation);
    // Nothing to go on: a fresh line, or the commonest token.
    if (batch.ids.empty()) batch.ids = {std::max(vocabulary.end_of_line, 0)};
    std::mt19937_64 random(options->seed < 0 ? 1 : static_cast<uint64_t>(options->seed));
    const int64_t classes = description.shape.classes;
    for (int64_t n = 0; n < options->length && !work.stop->requested.load(); ++n) {
      batch.steps = static_cast<int64_t>(batch.ids.size());
      batch.targets.assign(batch.ids.size(), -1);
      const std::vector<float> logits = network->logits(batch);
      const int32_t id =
          draw(logits.data() + (batch.steps - 1) * classes, classes, options->temperature, random);
      append_token(text, vocabulary, id, join_punctuation);
      batch.ids = {id};
    }
    if (options->json) {
      const nlohmann::ordered_json json = {{"prompt", options->prompt}, {"text", text}};
      print_result(json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
    } else {
      print_result(text + "\n");
    }
  });
}

}  // namespace coppice::program
