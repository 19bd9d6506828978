#include "engine/config/schema.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>

#include "engine/config/pattern.hpp"
#include "kernels/criteria.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

constexpr std::pair<OptimizerKind, std::string_view> kOptimizers[] = {
    {OptimizerKind::sgd, "sgd"},
    {OptimizerKind::rmsprop, "rmsprop"},
    {OptimizerKind::adam, "adam"},
    {OptimizerKind::adamw, "adamw"},
};

std::vector<std::string_view> criterion_names() {
  std::vector<std::string_view> names;
  for (Criterion c : kCriteria) names.push_back(to_string(c));
  return names;
}

RecipeKey::Allowed any() {
  return {};
}
RecipeKey::Allowed one_of(std::vector<std::string_view> choices) {
  return {std::move(choices)};
}
RecipeKey::Allowed at_least(double low) {
  return {{}, low};
}
RecipeKey::Allowed between(double low, double high) {
  return {{}, low, high};
}
RecipeKey::Allowed below(double low, double high) {
  return {{}, low, high, true};
}

// clang-format off: one row a line reads as the table that it is

// [train] and [retrain]: the same rows over two members of the recipe. A row's place is a function without
// captures, so that the table is plain data.
#define COPPICE_AT(member) \
  [](Recipe& recipe) -> decltype((std::declval<TrainConfig&>().member)) { return (recipe.*Section).member; }
template <TrainConfig Recipe::*Section>
void append_training_keys(std::vector<RecipeKey>& keys, std::string_view in) {
  const bool inherits = in == "retrain";
  const RecipeKey rows[] = {
      {in, "epochs", COPPICE_AT(epochs), "passes over the training data", at_least(0)},
      {in, "max_steps", COPPICE_AT(max_steps), "stop after so many optimizer steps; 0 = all epochs",
       at_least(0)},
      {in, "optimizer", COPPICE_AT(optimizer.kind), "how gradients move the weights",
       one_of({"sgd", "rmsprop", "adam", "adamw"}), inherits},
      {in, "rate", COPPICE_AT(optimizer.rate), "learning rate", at_least(0), inherits},
      {in, "momentum", COPPICE_AT(optimizer.momentum), "sgd: momentum", below(0, 1), inherits},
      {in, "nesterov", COPPICE_AT(optimizer.nesterov), "sgd: look ahead (Nesterov)", any(), inherits},
      {in, "decay_rate", COPPICE_AT(optimizer.decay_rate), "rmsprop: rho of the mean square", below(0, 1),
       inherits},
      {in, "beta1", COPPICE_AT(optimizer.beta1), "adam, adamw: decay of the mean gradient", below(0, 1),
       inherits},
      {in, "beta2", COPPICE_AT(optimizer.beta2), "adam, adamw: decay of the mean square", below(0, 1),
       inherits},
      {in, "epsilon", COPPICE_AT(optimizer.epsilon), "rmsprop, adam, adamw: keeps the divisor from zero",
       at_least(0), inherits},
      {in, "epsilon_inside_root", COPPICE_AT(optimizer.epsilon_inside_root),
       "rmsprop: sqrt(s + epsilon) as Keras has it, instead of sqrt(s) + epsilon", any(), inherits},
      {in, "weight_decay", COPPICE_AT(optimizer.weight_decay), "L2, added to the gradient; adamw: decoupled",
       at_least(0), inherits},
      {in, "rate_schedule", COPPICE_AT(rate_schedule), "how the rate changes from epoch to epoch",
       one_of({"constant", "step", "halving", "cosine"}), inherits},
      {in, "rate_factor", COPPICE_AT(rate_factor), "step, halving: what the rate is multiplied by",
       between(0, 1), inherits},
      {in, "rate_after", COPPICE_AT(rate_after), "step, halving: epochs at full rate before the first change",
       at_least(0)},
      {in, "rate_every", COPPICE_AT(rate_every), "step: epochs between changes", at_least(1), inherits},
      {in, "clip", COPPICE_AT(clip), "largest global norm of the gradient; 0 = off", at_least(0), inherits},
      {in, "loss_reduction", COPPICE_AT(loss_reduction),
       "mean over targets, or summed over the steps and averaged over the batch (rate and clip belong to it)",
       one_of({"mean", "sum_steps"}), inherits},
      {in, "accumulate", COPPICE_AT(accumulate), "batches whose gradients are added before a step",
       at_least(1), inherits},
      {in, "patience", COPPICE_AT(patience),
       "early stopping: epochs without a better validation loss; 0 = off", at_least(0), inherits},
      {in, "keep_best", COPPICE_AT(keep_best), "end with the weights of the best validation epoch", any(),
       inherits},
      {in, "checkpoint_seconds", COPPICE_AT(checkpoint_seconds),
       "save a checkpoint at least so often, beside every epoch's end; 0 = epochs only", at_least(0),
       inherits},
  };
  keys.insert(keys.end(), std::begin(rows), std::end(rows));
}
#undef COPPICE_AT

#define COPPICE_AT(member) \
  [](Recipe& recipe) -> decltype((std::declval<Recipe&>().member)) { return recipe.member; }
std::vector<RecipeKey> make_keys() {
  std::vector<RecipeKey> keys = {
      {"", "name", COPPICE_AT(name), "what reports call the run", any()},
      {"", "seed", COPPICE_AT(seed),
       "initial weights, shuffles, dropout and the random criterion follow from it", at_least(0)},
      {"", "device", COPPICE_AT(device), "auto, cpu, cuda or cuda:N", any()},
      {"", "threads", COPPICE_AT(threads), "CPU threads; 0 = all cores", between(0, 4096)},
      {"", "matmul", COPPICE_AT(matmul),
       "what a GPU rounds the factors of dense products to; their sums are fp32 always",
       one_of({"fp32", "tf32", "bf16"})},

      {"data", "kind", COPPICE_AT(data.kind),
       "a language model's text, labelled sequences, or generated sequences",
       one_of({"text", "sequences", "generated"})},
      {"data", "train", COPPICE_AT(data.train), "text: a UTF-8 file; sequences: .npz (x, y) or UEA .ts",
       any()},
      {"data", "valid", COPPICE_AT(data.valid), "empty: split off the end of train", any()},
      {"data", "test", COPPICE_AT(data.test), "empty: split off the end of train", any()},
      {"data", "token", COPPICE_AT(data.token), "text: what one step is", one_of({"word", "character"})},
      {"data", "end_of_line", COPPICE_AT(data.end_of_line),
       "words: the token that a line end becomes; empty: none", any()},
      {"data", "lowercase", COPPICE_AT(data.lowercase), "words: fold upper case", any()},
      {"data", "split_punctuation", COPPICE_AT(data.split_punctuation),
       "words: punctuation marks are tokens of their own", any()},
      {"data", "vocabulary_size", COPPICE_AT(data.vocabulary_size),
       "text: keep the commonest N - 1 tokens and <unk>; 0 = all", at_least(0)},
      {"data", "valid_fraction", COPPICE_AT(data.valid_fraction), "share of train when valid names no file",
       below(0, 1)},
      {"data", "test_fraction", COPPICE_AT(data.test_fraction), "share of train when test names no file",
       below(0, 1)},
      {"data", "batch_size", COPPICE_AT(data.batch_size), "streams or sequences trained side by side (B)",
       at_least(1)},
      {"data", "steps", COPPICE_AT(data.steps), "text: steps of truncated backpropagation (T)", at_least(1)},
      {"data", "carry_state", COPPICE_AT(data.carry_state),
       "text: the hidden state goes on from batch to batch", any()},
      {"data", "shuffle", COPPICE_AT(data.shuffle), "sequences: another order each epoch", any()},
      {"data", "train_sequences", COPPICE_AT(data.train_sequences), "generated: sequences to train on",
       at_least(1)},
      {"data", "valid_sequences", COPPICE_AT(data.valid_sequences), "generated: sequences to validate on",
       at_least(1)},
      {"data", "sequence_steps", COPPICE_AT(data.sequence_steps), "generated: steps of a sequence",
       at_least(1)},
      {"data", "inputs", COPPICE_AT(data.inputs),
       "generated: inputs of a step; the label is whether the first one sums above zero", at_least(1)},

      {"model", "cell", COPPICE_AT(model.cell), "the recurrent cell",
       one_of({"lstm", "gru", "rnn_tanh", "rnn_relu", "rnn_sigmoid"})},
      {"model", "embedding", COPPICE_AT(model.embedding),
       "width of the embedding; 0 for data that are vectors", at_least(0)},
      {"model", "hidden", COPPICE_AT(model.hidden), "units of a recurrent layer (H)", at_least(1)},
      {"model", "layers", COPPICE_AT(model.layers), "stacked recurrent layers", at_least(1)},
      {"model", "bidirectional", COPPICE_AT(model.bidirectional), "each layer also reads from the end",
       any()},
      {"model", "dropout", COPPICE_AT(model.dropout),
       "after the embedding and each recurrent layer, while training", below(0, 1)},
      {"model", "init", COPPICE_AT(model.init), "how weights start", one_of({"pytorch", "keras", "uniform"})},
      {"model", "init_range", COPPICE_AT(model.init_range), "uniform: weights start in [-r, r]", at_least(0)},
      {"model", "loss", COPPICE_AT(model.loss), "softmax or binary cross-entropy",
       one_of({"softmax", "sigmoid"})},
      {"model", "weights", COPPICE_AT(model.weights),
       "start from trained weights (.safetensors, .npz or a model folder) instead of training", any()},
  };
  append_training_keys<&Recipe::train>(keys, "train");
  const RecipeKey rows[] = {
      {"prune", "criterion", COPPICE_AT(prune.criterion), "the score; the lowest are cut",
       one_of(criterion_names())},
      {"prune", "pattern", COPPICE_AT(prune.pattern),
       "what is cut as one unit: element, row, column, block:RxC, unit (a hidden unit); or N:M, which keeps "
       "N "
       "of every M weights of a row",
       any()},
      {"prune", "reduce", COPPICE_AT(prune.reduce),
       "row, column, block, unit: how element scores become the unit's",
       one_of({"sum", "mean", "max", "l2", "product"})},
      {"prune", "unit_readers", COPPICE_AT(prune.unit_readers),
       "unit: patterns of the tensors that read the last recurrent layer; empty: the model's decoder", any()},
      {"prune", "scope", COPPICE_AT(prune.scope), "units that compete for one threshold",
       one_of({"global", "tensor", "gate", "row"})},
      {"prune", "sparsity", COPPICE_AT(prune.sparsity),
       "share of the units that is cut, exactly; N:M implies it", between(0, 1)},
      {"prune", "percentile", COPPICE_AT(prune.percentile),
       "instead of sparsity: cut what scores below this percentile; -1 = off", between(-1, 100)},
      {"prune", "include", COPPICE_AT(prune.include),
       "patterns (RE2, whole tensor names); empty: the model's own choice", any()},
      {"prune", "exclude", COPPICE_AT(prune.exclude), "patterns of tensors that are never cut", any()},
      {"prune", "min_density", COPPICE_AT(prune.min_density),
       "share of every tensor (or gate) that is never cut: its best units", between(0, 1)},
      {"prune", "min_density_scope", COPPICE_AT(prune.min_density_scope),
       "what min_density protects a share of; with scope gate it is always every gate",
       one_of({"tensor", "gate"})},
      {"prune", "schedule", COPPICE_AT(prune.schedule),
       "cut once; in rounds with retraining between; or step by step while retraining",
       one_of({"one-shot", "iterative", "gradual"})},
      {"prune", "rounds", COPPICE_AT(prune.rounds), "iterative: rounds of score, cut, retrain", at_least(1)},
      {"prune", "initial_sparsity", COPPICE_AT(prune.initial_sparsity),
       "gradual: sparsity at begin_step; rises to sparsity by a cubic (Zhu and Gupta 2017)", between(0, 1)},
      {"prune", "begin_step", COPPICE_AT(prune.begin_step), "gradual: the optimizer step of the first cut",
       at_least(0)},
      {"prune", "end_step", COPPICE_AT(prune.end_step),
       "gradual: the step that reaches sparsity; 0 = half of the retraining", at_least(0)},
      {"prune", "frequency", COPPICE_AT(prune.frequency), "gradual: steps from cut to cut", at_least(1)},
      {"prune", "gradient_batches", COPPICE_AT(prune.gradient_batches),
       "batches of training data behind the gradient statistics; 0 = all", at_least(0)},
      {"prune", "gradient_batch_size", COPPICE_AT(prune.gradient_batch_size),
       "sequences: batch size of that pass; 0 = data.batch_size, -1 = all in one", at_least(-1)},
  };
  keys.insert(keys.end(), std::begin(rows), std::end(rows));
  append_training_keys<&Recipe::retrain>(keys, "retrain");
  keys.push_back(
      {"retrain", "sparse", COPPICE_AT(retrain_sparse),
       "compute with the kept weights alone while masks hold (the same bits on a CPU): auto, where "
       "that is faster; on, every matrix that is pruned; off, dense with zeros",
       one_of({"auto", "on", "off"})});
  keys.push_back({"retrain", "dense_continued", COPPICE_AT(dense_continued),
                  "also train the dense model on for as many steps, for an honest comparison", any()});
  keys.push_back({"sparse", "layout", COPPICE_AT(layout),
                  "how the pruned matrices execute: auto, or a layout of the device (sell, bsr, balanced, "
                  "csr; on a GPU csr, cusparse)",
                  any()});
  keys.push_back({"sparse", "layouts", COPPICE_AT(layouts),
                  "matrices with a layout of their own, as in rnn.weight_hh_l0=bsr; where layout is auto, a run "
                  "adds those that `coppice bench` found to be faster",
                  any()});
  return keys;
}
#undef COPPICE_AT
// clang-format on

// --- words for messages and docs

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};

std::string_view type_name(const RecipeKey& key) {
  return std::visit(Overloaded{
                        [](std::string& (*)(Recipe&)) { return "string"; },
                        [](int64_t& (*)(Recipe&)) { return "integer"; },
                        [](uint64_t& (*)(Recipe&)) { return "integer"; },
                        [](double& (*)(Recipe&)) { return "number"; },
                        [](float& (*)(Recipe&)) { return "number"; },
                        [](bool& (*)(Recipe&)) { return "boolean"; },
                        [](OptimizerKind& (*)(Recipe&)) { return "string"; },
                        [](std::vector<std::string>& (*)(Recipe&)) { return "list of strings"; },
                    },
                    key.place);
}

std::string with_article(std::string_view noun) {
  const bool vowel = std::string_view("aeiou").find(noun.front()) != std::string_view::npos;
  return fmt::format("{} {}", vowel ? "an" : "a", noun);
}

std::string range_text(const RecipeKey& key) {
  if (!key.allowed.choices.empty()) return fmt::format("one of {}", fmt::join(key.allowed.choices, ", "));
  if (std::isfinite(key.allowed.low) && std::isfinite(key.allowed.high)) {
    return fmt::format("{} to {}{}", key.allowed.low, key.allowed.below_high ? "below " : "",
                       key.allowed.high);
  }
  if (std::isfinite(key.allowed.low)) return fmt::format("at least {}", key.allowed.low);
  return "";
}

std::string found_text(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::string:
      return fmt::format("the string \"{}\"", node.as_string()->get());
    case toml::node_type::integer:
      return fmt::format("the integer {}", node.as_integer()->get());
    case toml::node_type::floating_point:
      return fmt::format("the number {}", node.as_floating_point()->get());
    case toml::node_type::boolean:
      return fmt::format("the boolean {}", node.as_boolean()->get());
    default:
      return "a date or time";
  }
}

std::string number_text(double value, bool single) {
  std::string text = single ? fmt::format("{}", static_cast<float>(value)) : fmt::format("{}", value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

std::string toml_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\r':
        out += "\\r";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

std::string value_text(const RecipeKey& key, Recipe& recipe) {
  return std::visit(Overloaded{
                        [&](std::string& (*at)(Recipe&)) { return toml_string(at(recipe)); },
                        [&](int64_t& (*at)(Recipe&)) { return fmt::format("{}", at(recipe)); },
                        [&](uint64_t& (*at)(Recipe&)) { return fmt::format("{}", at(recipe)); },
                        [&](double& (*at)(Recipe&)) { return number_text(at(recipe), false); },
                        [&](float& (*at)(Recipe&)) { return number_text(at(recipe), true); },
                        [&](bool& (*at)(Recipe&)) { return std::string(at(recipe) ? "true" : "false"); },
                        [&](OptimizerKind& (*at)(Recipe&)) {
                          return toml_string(kOptimizers[static_cast<size_t>(at(recipe))].second);
                        },
                        [&](std::vector<std::string>& (*at)(Recipe&)) {
                          std::vector<std::string> items;
                          for (const std::string& item : at(recipe)) items.push_back(toml_string(item));
                          return fmt::format("[{}]", fmt::join(items, ", "));
                        },
                    },
                    key.place);
}

// --- one value into its place

void check_range(const RecipeKey& key, double value, const std::string& shown, std::string_view where) {
  const bool inside = value >= key.allowed.low &&
                      (key.allowed.below_high ? value < key.allowed.high : value <= key.allowed.high);
  if (!inside) bad_input("{}: {} is {}; expected {}", where, key.full_name(), shown, range_text(key));
}

/// Stores `node` at the key's place, or says what was expected and what was found.
void assign(Recipe& recipe, const RecipeKey& key, const toml::node& node, std::string_view where) {
  const auto wrong_type = [&] {
    bad_input("{}: {} must be {}; found {}", where, key.full_name(), with_article(type_name(key)),
              found_text(node));
  };
  const auto text = [&] {
    if (!node.is_string()) wrong_type();
    const std::string value = node.as_string()->get();
    if (!key.allowed.choices.empty() && std::find(key.allowed.choices.begin(), key.allowed.choices.end(),
                                                  value) == key.allowed.choices.end()) {
      std::vector<std::string> known(key.allowed.choices.begin(), key.allowed.choices.end());
      const std::string near = nearest(value, known);
      bad_input("{}: {} is \"{}\"; expected {}{}", where, key.full_name(), value, range_text(key),
                near.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", near));
    }
    return value;
  };
  const auto integer = [&] {
    if (!node.is_integer()) wrong_type();
    const int64_t value = node.as_integer()->get();
    check_range(key, static_cast<double>(value), fmt::format("{}", value), where);
    return value;
  };
  const auto number = [&] {
    if (!node.is_number()) wrong_type();
    const double value =
        node.is_integer() ? static_cast<double>(node.as_integer()->get()) : node.as_floating_point()->get();
    if (!std::isfinite(value)) {
      bad_input("{}: {} is {}; expected a finite number", where, key.full_name(), value);
    }
    check_range(key, value, fmt::format("{}", value), where);
    return value;
  };
  std::visit(Overloaded{
                 [&](std::string& (*at)(Recipe&)) { at(recipe) = text(); },
                 [&](int64_t& (*at)(Recipe&)) { at(recipe) = integer(); },
                 [&](uint64_t& (*at)(Recipe&)) { at(recipe) = static_cast<uint64_t>(integer()); },
                 [&](double& (*at)(Recipe&)) { at(recipe) = number(); },
                 [&](float& (*at)(Recipe&)) { at(recipe) = static_cast<float>(number()); },
                 [&](bool& (*at)(Recipe&)) {
                   if (!node.is_boolean()) wrong_type();
                   at(recipe) = node.as_boolean()->get();
                 },
                 [&](OptimizerKind& (*at)(Recipe&)) {
                   const std::string name = text();
                   for (const auto& [kind, known] : kOptimizers) {
                     if (name == known) at(recipe) = kind;
                   }
                 },
                 [&](std::vector<std::string>& (*at)(Recipe&)) {
                   if (!node.is_array()) wrong_type();
                   std::vector<std::string> items;
                   for (const toml::node& item : *node.as_array()) {
                     if (!item.is_string()) {
                       bad_input("{}: {} must be a list of strings; found {} in it", where, key.full_name(),
                                 found_text(item));
                     }
                     items.push_back(item.as_string()->get());
                   }
                   at(recipe) = std::move(items);
                 },
             },
             key.place);
}

// --- finding keys

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

[[noreturn]] void unknown_key(std::string_view section, std::string_view name, std::string_view where) {
  // The right name in another section is the likeliest mistake; then a slip of the finger in this one.
  std::vector<std::string> here, everywhere;
  for (const RecipeKey& key : recipe_keys()) {
    if (key.section == section) here.push_back(std::string(key.name));
    everywhere.push_back(key.full_name());
  }
  const std::string full = section.empty() ? std::string(name) : fmt::format("{}.{}", section, name);
  std::string meant;
  for (const RecipeKey& key : recipe_keys()) {
    if (key.name == name && meant.empty()) meant = key.full_name();
  }
  if (meant.empty()) {
    const std::string near = nearest(name, here);
    if (!near.empty()) meant = section.empty() ? near : fmt::format("{}.{}", section, near);
  }
  if (meant.empty()) meant = nearest(full, everywhere);
  if (!meant.empty())
    bad_input("{}: unknown key \"{}\"; the nearest known key is \"{}\"", where, full, meant);
  if (!here.empty()) {
    bad_input("{}: unknown key \"{}\"; {} has {}", where, full,
              section.empty() ? "the top level" : fmt::format("[{}]", section), fmt::join(here, ", "));
  }
  bad_input("{}: unknown key \"{}\"; `coppice run --help-keys` lists them all", where, full);
}

const RecipeKey& find_key(std::string_view section, std::string_view name, std::string_view where) {
  for (const RecipeKey& key : recipe_keys()) {
    if (key.section == section && key.name == name) return key;
  }
  unknown_key(section, name, where);
}

bool is_section(std::string_view name) {
  const auto keys = recipe_keys();
  return std::any_of(keys.begin(), keys.end(), [&](const RecipeKey& key) { return key.section == name; });
}

[[noreturn]] void unknown_section(std::string_view name, std::string_view where) {
  std::vector<std::string> sections;
  for (const RecipeKey& key : recipe_keys()) {
    const std::string section(key.section);
    if (!section.empty() && (sections.empty() || sections.back() != section)) sections.push_back(section);
  }
  const std::string near = nearest(name, sections);
  if (!near.empty()) bad_input("{}: unknown section [{}]; the nearest known one is [{}]", where, name, near);
  bad_input("{}: unknown section [{}]; expected one of [{}]", where, name, fmt::join(sections, "], ["));
}

/// One thing that somebody said, and where.
struct Said {
  const RecipeKey* key;
  const toml::node* node;
  std::string where;
};

void collect(const toml::table& table, std::string_view name, std::vector<Said>& said) {
  const auto place = [&](const toml::node& node) {
    return fmt::format("{}:{}", name, node.source().begin.line);
  };
  for (const auto& [top_name, top] : table) {
    if (!top.is_table()) {
      if (is_section(top_name.str()) && !top_name.str().empty()) {
        bad_input("{}: [{}] must be a section; found {}", place(top), top_name.str(), found_text(top));
      }
      said.push_back({&find_key("", top_name.str(), place(top)), &top, place(top)});
      continue;
    }
    if (!is_section(top_name.str())) unknown_section(top_name.str(), place(top));
    for (const auto& [key_name, value] : *top.as_table()) {
      said.push_back({&find_key(top_name.str(), key_name.str(), place(value)), &value, place(value)});
    }
  }
}

/// The value of an override as TOML: what a text key takes need not be quoted, lists may be written a,b,c.
toml::table parse_override_value(const RecipeKey& key, std::string_view value, std::string_view where) {
  const bool text = type_name(key) == "string";
  const bool list = type_name(key) == "list of strings";
  std::string source(value);
  if (text && !value.starts_with('"') && !value.starts_with('\'')) source = toml_string(value);
  if (list && !value.starts_with('[')) {
    std::vector<std::string> items;
    std::istringstream parts{source};
    for (std::string item; std::getline(parts, item, ',');) items.push_back(toml_string(item));
    source = fmt::format("[{}]", fmt::join(items, ", "));
  }
  try {
    return toml::parse(fmt::format("value = {}\n", source));
  } catch (const toml::parse_error&) {
    bad_input("{}: {} must be {}; found \"{}\"", where, key.full_name(), with_article(type_name(key)), value);
  }
}

bool says(const Recipe& recipe, std::string_view key) {
  return std::find(recipe.said.begin(), recipe.said.end(), key) != recipe.said.end();
}

Recipe build(const toml::table& table, std::string_view name, std::span<const std::string> overrides) {
  std::vector<Said> said;
  collect(table, name, said);
  std::vector<toml::table> values;
  values.reserve(overrides.size());  // `said` points into them
  for (const std::string& override_text : overrides) {
    const std::string where = fmt::format("--set {}", override_text);
    const size_t equals = override_text.find('=');
    if (equals == std::string::npos) bad_input("{}: expected section.key=value", where);
    const std::string full = override_text.substr(0, equals);
    const size_t dot = full.find('.');
    const std::string section = dot == std::string::npos ? "" : full.substr(0, dot);
    const std::string key_name = dot == std::string::npos ? full : full.substr(dot + 1);
    const RecipeKey& key = find_key(section, key_name, where);
    values.push_back(parse_override_value(key, std::string_view(override_text).substr(equals + 1), where));
    said.push_back({&key, values.back().get("value"), where});
  }

  Recipe recipe;
  for (const Said& s : said) {
    if (s.key->section != "retrain") assign(recipe, *s.key, *s.node, s.where);
  }
  // What retraining inherits is what training was *told*, so it is copied between the two.
  const TrainConfig own;
  const int64_t keep[] = {own.epochs, own.max_steps, own.rate_after};
  recipe.retrain = recipe.train;
  recipe.retrain.epochs = keep[0];
  recipe.retrain.max_steps = keep[1];
  recipe.retrain.rate_after = keep[2];
  for (const Said& s : said) {
    if (s.key->section == "retrain") assign(recipe, *s.key, *s.node, s.where);
  }
  for (const Said& s : said) recipe.said.push_back(s.key->full_name());
  const PatternText pattern = parse_pattern(recipe.prune.pattern);
  if (pattern.kind == Pattern::n_of_m && !says(recipe, "prune.sparsity")) {
    recipe.prune.sparsity = pattern.implied_sparsity();
  }
  check_recipe(recipe);
  return recipe;
}

std::string default_text(const RecipeKey& key) {
  if (key.inherits) return fmt::format("as train.{}", key.name);
  Recipe defaults;
  return value_text(key, defaults);
}

}  // namespace

std::string RecipeKey::full_name() const {
  return section.empty() ? std::string(name) : fmt::format("{}.{}", section, name);
}

std::span<const RecipeKey> recipe_keys() {
  static const std::vector<RecipeKey> keys = make_keys();
  return keys;
}

std::string nearest(std::string_view word, std::span<const std::string> known) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

Recipe parse_recipe(std::string_view toml_text, std::string_view name,
                    std::span<const std::string> overrides) {
  try {
    const toml::table table = toml::parse(toml_text, name);
    return build(table, name, overrides);
  } catch (const toml::parse_error& error) {
    bad_input("{}:{}: not valid TOML: {}", name, error.source().begin.line, error.description());
  }
}

Recipe read_recipe(const std::filesystem::path& file, std::span<const std::string> overrides) {
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) bad_input("{}: no such recipe", file.string());
  if (!std::filesystem::is_regular_file(file, ignored)) {
    bad_input("{}: expected a recipe (a TOML file); found {}", file.string(),
              std::filesystem::is_directory(file, ignored) ? "a folder" : "something that is not a file");
  }
  std::ifstream stream(file, std::ios::binary);
  if (!stream) bad_input("{}: cannot be opened for reading", file.string());
  const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  return parse_recipe(text, file.string(), overrides);
}

void check_recipe(const Recipe& recipe) {
  const DataConfig& data = recipe.data;
  const ModelConfig& model = recipe.model;
  const PruneConfig& prune = recipe.prune;
  if (data.kind != "generated" && data.train.empty()) {
    bad_input("data.train is empty; expected the file to train on (in the recipe, or --set data.train=FILE)");
  }
  if (data.valid_fraction + data.test_fraction >= 1.0) {
    bad_input(
        "data.valid_fraction + data.test_fraction is {}; expected less than 1, so that something is left",
        data.valid_fraction + data.test_fraction);
  }
  if (data.kind == "text" && model.embedding == 0) {
    bad_input("model.embedding is 0; text needs an embedding of width 1 or more");
  }
  if (data.kind != "text" && model.embedding != 0) {
    bad_input("model.embedding is {}; data of kind \"{}\" are vectors: set model.embedding = 0",
              model.embedding, data.kind);
  }
  if (data.kind == "text" && model.bidirectional) {
    bad_input("model.bidirectional is true; a language model over text may not read from the end");
  }
  if (data.kind == "text" && model.loss != "softmax") {
    bad_input("model.loss is \"{}\"; a language model over text needs \"softmax\"", model.loss);
  }
  const PatternText pattern = parse_pattern(prune.pattern);
  const bool n_of_m = pattern.kind == Pattern::n_of_m;
  if ((pattern.kind == Pattern::element || n_of_m) && prune.reduce != "sum") {
    bad_input(
        "prune.reduce is \"{}\" but prune.pattern is \"{}\"; a reduction needs \"row\", \"column\", "
        "\"block:RxC\" or \"unit\"",
        prune.reduce, prune.pattern);
  }
  check_implied_sparsity(pattern, prune.pattern, prune.sparsity);
  if (n_of_m && prune.schedule != "one-shot") {
    bad_input("prune.schedule is \"{}\" but prune.pattern is \"{}\", which cuts all that it cuts at once",
              prune.schedule, prune.pattern);
  }
  if (prune.percentile < 0.0 && prune.percentile != -1.0) {
    bad_input("prune.percentile is {}; expected 0 to 100, or -1 for off", prune.percentile);
  }
  if (prune.schedule == "gradual") {
    if (prune.percentile >= 0.0) {
      bad_input(
          "prune.schedule is \"gradual\" but prune.percentile is set; a gradual schedule needs "
          "prune.sparsity");
    }
    if (prune.initial_sparsity > prune.sparsity) {
      bad_input("prune.initial_sparsity is {} but prune.sparsity is {}; expected it to rise",
                prune.initial_sparsity, prune.sparsity);
    }
    if (prune.end_step != 0 && prune.end_step <= prune.begin_step) {
      bad_input("prune.end_step is {} but prune.begin_step is {}; expected a later step, or 0",
                prune.end_step, prune.begin_step);
    }
  }
  if (prune.schedule == "iterative" && prune.percentile >= 0.0) {
    bad_input("prune.schedule is \"iterative\" but prune.percentile is set; rounds need prune.sparsity");
  }
}

void check_model_is_meant(const Recipe& recipe, const ModelConfig& found) {
  Recipe theirs = recipe;
  theirs.model = found;
  Recipe ours = recipe;
  std::vector<std::string> wrong, remedy;
  for (const RecipeKey& key : recipe_keys()) {
    if (key.section != "model" || !says(recipe, key.full_name())) continue;
    const bool shapes = key.name == "cell" || key.name == "embedding" || key.name == "hidden" ||
                        key.name == "layers" || key.name == "bidirectional";
    const std::string value = value_text(key, theirs);
    if (!shapes || value == value_text(key, ours)) continue;
    wrong.push_back(fmt::format("{} = {}", key.full_name(), value_text(key, ours)));
    remedy.push_back(fmt::format("--set {}={}", key.full_name(), value));
  }
  if (wrong.empty()) return;
  bad_input("{}: weights for another model than the recipe says ({}); to take theirs: {}",
            recipe.model.weights, fmt::join(wrong, ", "), fmt::join(remedy, " "));
}

std::string write_recipe(const Recipe& recipe) {
  Recipe copy = recipe;
  std::string text =
      "# Every key of the recipe, defaults included. `coppice run --help-keys` explains them.\n";
  std::string_view section;
  for (const RecipeKey& key : recipe_keys()) {
    if (key.section != section) {
      section = key.section;
      text += fmt::format("\n[{}]\n", section);
    }
    text += fmt::format("{} = {}\n", key.name, value_text(key, copy));
  }
  return text;
}

Recipe with_absolute_paths(Recipe recipe) {
  for (std::string* path :
       {&recipe.data.train, &recipe.data.valid, &recipe.data.test, &recipe.model.weights}) {
    if (!path->empty()) *path = std::filesystem::absolute(*path).lexically_normal().string();
  }
  return recipe;
}

std::string describe_recipe_keys() {
  std::string text;
  std::string_view section;
  for (const RecipeKey& key : recipe_keys()) {
    if (key.section != section) {
      section = key.section;
      text += fmt::format("\n[{}]\n", section);
    }
    const std::string range = range_text(key);
    text += fmt::format("  {} = {}  ({}{}{})\n      {}\n", key.name, default_text(key), type_name(key),
                        range.empty() ? "" : ", ", range, key.doc);
  }
  return text;
}

std::string recipe_keys_markdown() {
  std::string text =
      "# Recipe keys\n\n"
      "Made from the table in `engine/config/schema.cpp` (`coppice run --help-keys --markdown`); a test "
      "keeps the two\n"
      "alike. A recipe is a TOML file; `--set section.key=value` overrides it. File names are relative to "
      "the folder\n"
      "in which the program runs. [retrain] starts from what [train] says, except for the keys with a "
      "default of\n"
      "their own.\n";
  std::string_view section = "-";
  for (const RecipeKey& key : recipe_keys()) {
    if (key.section != section) {
      section = key.section;
      text += section.empty() ? std::string("\n## Above all sections\n\n")
                              : fmt::format("\n## [{}]\n\n", section);
      text += "| key | type | default | allowed | |\n|---|---|---|---|---|\n";
    }
    text += fmt::format("| `{}` | {} | {} | {} | {} |\n", key.name, type_name(key),
                        key.inherits ? default_text(key) : fmt::format("`{}`", default_text(key)),
                        range_text(key), key.doc);
  }
  return text;
}

}  // namespace coppice
