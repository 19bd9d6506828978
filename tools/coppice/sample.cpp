#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/data/text.hpp"
#include "engine/sparse/session.hpp"
#include "kernels/error.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {
namespace {

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
  options->add_sparse(verb);
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
    SessionOptions session_options;
    const RunOptions work = options->sparse_work();
    if (options->sparse) {
      session_options.layout = options->layout;
      session_options.values = find_value_type("values", options->values);
    }
    session_options.measured = work.measured;
    Session session(*backend, options->model, session_options);

    std::string text;
    const bool join_punctuation = description.data.split_punctuation;
    std::vector<int32_t> ids = encode_prompt(options->prompt, description.data, vocabulary);
    for (const int32_t id : ids) append_token(text, vocabulary, id, join_punctuation);
    // Nothing to go on: a fresh line, or the commonest token.
    if (ids.empty()) ids = {std::max(vocabulary.end_of_line, 0)};
    const RandomStream random{options->seed < 0 ? uint64_t{1} : static_cast<uint64_t>(options->seed)};
    std::span<const float> logits;
    for (const int32_t id : ids) logits = session.step(std::span(&id, 1));
    for (int64_t n = 0; n < options->length && !work.stop->requested.load(); ++n) {
      const int32_t id = draw_class(logits, options->temperature, random, static_cast<uint64_t>(n));
      append_token(text, vocabulary, id, join_punctuation);
      logits = session.step(std::span(&id, 1));
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
