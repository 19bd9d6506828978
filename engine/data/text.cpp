#include "engine/data/text.hpp"

#include <algorithm>
#include <limits>
#include <unordered_map>
#include <utility>

#include "engine/files/input_file.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

constexpr std::string_view kUnknown = "<unk>";

/// Bytes of the code point that starts at text[i]; 0 when none does (RFC 3629: no overlong forms, no
/// surrogates, nothing beyond U+10FFFF).
size_t code_point_length(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) { return k < text.size() ? static_cast<uint8_t>(text[k]) : uint8_t{0}; };
  const auto continues = [&](size_t k, uint8_t low = 0x80, uint8_t high = 0xbf) {
    return byte(k) >= low && byte(k) <= high;
  };
  const uint8_t lead = byte(i);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return continues(i + 1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const uint8_t low = lead == 0xe0 ? 0xa0 : 0x80, high = lead == 0xed ? 0x9f : 0xbf;
    return continues(i + 1, low, high) && continues(i + 2) ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const uint8_t low = lead == 0xf0 ? 0x90 : 0x80, high = lead == 0xf4 ? 0x8f : 0xbf;
    return continues(i + 1, low, high) && continues(i + 2) && continues(i + 3) ? 4 : 0;
  }
  return 0;
}

void check_text(const std::string& path, std::string_view text) {
  if (text.empty()) bad_input("{}: is empty, expected UTF-8 text", path);
  for (size_t i = 0; i < text.size();) {
    const size_t length = code_point_length(text, i);
    if (text[i] == '\0') bad_input("{}: byte {} is NUL, so this is not text; expected UTF-8 text", path, i);
    if (length == 0) {
      bad_input("{}: byte {} (0x{:02x}) is not valid UTF-8; expected UTF-8 text", path, i,
                static_cast<uint8_t>(text[i]));
    }
    i += length;
  }
}

/// Folds capitals whose small letter takes as many bytes, which holds for the alphabets named in the header.
void lowercase_in_place(std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = code_point_length(text, i);
    if (length == 1 && text[i] >= 'A' && text[i] <= 'Z') text[i] = static_cast<char>(text[i] + 32);
    if (length == 2) {
      uint32_t c = (static_cast<uint8_t>(text[i]) & 0x1fu) << 6 | (static_cast<uint8_t>(text[i + 1]) & 0x3fu);
      const bool latin = c >= 0xc0 && c <= 0xde && c != 0xd7;
      const bool greek = c >= 0x391 && c <= 0x3a9 && c != 0x3a2;
      const bool cyrillic = c >= 0x410 && c <= 0x42f;
      if (latin || greek || cyrillic) c += 0x20;
      if (c >= 0x400 && c <= 0x40f) c += 0x50;
      text[i] = static_cast<char>(0xc0 | (c >> 6));
      text[i + 1] = static_cast<char>(0x80 | (c & 0x3f));
    }
    i += std::max<size_t>(length, 1);
  }
}

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v';
}

/// ASCII marks, and of Unicode the Latin-1 quotes and the General Punctuation block (dashes, quotation
/// marks).
bool is_punctuation(std::string_view mark) {
  if (mark.size() == 1) {
    const char c = mark[0];
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
  }
  if (mark.size() == 2) return mark == "\u00a1" || mark == "\u00ab" || mark == "\u00bb" || mark == "\u00bf";
  return mark.size() == 3 && mark[0] == '\xe2' &&
         (mark[1] == '\x80' || (mark[1] == '\x81' && mark[2] < '\xa0'));
}

/// How a text is cut: the options of [data] that matter here.
struct TokenRules {
  bool character = false;
  bool lowercase = false;
  bool split_punctuation = false;
  std::string end_of_line;  // empty: line ends are white space
};

template <class Visit>
void split_word(std::string_view text, size_t begin, size_t end, const TokenRules& rules,
                const Visit& visit) {
  const std::string_view word = text.substr(begin, end - begin);
  if (!rules.split_punctuation || word == kUnknown || word == rules.end_of_line) return visit(word, begin);
  size_t start = 0;  // of the token that is open
  for (size_t i = 0; i < word.size();) {
    const size_t length = std::max<size_t>(code_point_length(word, i), 1);
    const std::string_view mark = word.substr(i, length);
    bool splits = is_punctuation(mark);
    if (splits && (mark == "'" || mark == "-" || mark == "\u2019") && i > start && i + length < word.size()) {
      const size_t next = std::max<size_t>(code_point_length(word, i + length), 1);
      splits = is_punctuation(word.substr(i + length, next));
    }
    if (splits) {
      if (i > start) visit(word.substr(start, i - start), begin + start);
      visit(mark, begin + i);
      start = i + length;
    }
    i += length;
  }
  if (start < word.size()) visit(word.substr(start), begin + start);
}

/// Calls visit(token, byte offset) for every token of checked text.
template <class Visit>
void for_each_token(std::string_view text, const TokenRules& rules, bool end_last_line, const Visit& visit) {
  if (rules.character) {
    for (size_t i = 0; i < text.size();) {
      const size_t length = std::max<size_t>(code_point_length(text, i), 1);
      visit(text.substr(i, length), i);
      i += length;
    }
    return;
  }
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '\n') {
      if (!rules.end_of_line.empty()) visit(std::string_view(rules.end_of_line), i);
      ++i;
    } else if (is_space(text[i])) {
      ++i;
    } else {
      const size_t begin = i;
      while (i < text.size() && text[i] != '\n' && !is_space(text[i])) ++i;
      split_word(text, begin, i, rules, visit);
    }
  }
  if (end_last_line && !rules.end_of_line.empty() && !text.empty() && text.back() != '\n') {
    visit(std::string_view(rules.end_of_line), text.size());
  }
}

TokenRules rules_of(const DataConfig& config, const Vocabulary* vocabulary) {
  TokenRules rules;
  const std::string& token = vocabulary != nullptr ? vocabulary->token : config.token;
  if (token != "word" && token != "character") {
    bad_input("data.token is \"{}\", expected \"word\" or \"character\"", token);
  }
  rules.character = token == "character";
  if (rules.character) return rules;
  rules.lowercase = config.lowercase;
  rules.split_punctuation = config.split_punctuation;
  rules.end_of_line = config.end_of_line;
  if (vocabulary != nullptr && vocabulary->end_of_line >= 0) {
    rules.end_of_line = vocabulary->entries.at(static_cast<size_t>(vocabulary->end_of_line));
  }
  return rules;
}

void prepare_text(const std::string& path, const TokenRules& rules, std::string& text) {
  if (text.compare(0, 3, "\xef\xbb\xbf") == 0) text.erase(0, 3);  // a byte order mark is no token
  check_text(path, text);
  if (rules.lowercase) lowercase_in_place(text);
}

int64_t line_of(std::string_view text, size_t offset) {
  return 1 + std::count(text.begin(),
                        text.begin() + static_cast<std::ptrdiff_t>(std::min(offset, text.size())), '\n');
}

std::string printable(std::string_view token) {
  if (token == "\n") return "\\n";
  if (token == "\r") return "\\r";
  if (token == "\t") return "\\t";
  return std::string(token);
}

using Index = std::unordered_map<std::string_view, int32_t>;

Index index_of(const Vocabulary& vocabulary) {
  Index index;
  index.reserve(vocabulary.entries.size());
  for (size_t id = 0; id < vocabulary.entries.size(); ++id) {
    if (!index.emplace(vocabulary.entries[id], static_cast<int32_t>(id)).second) {
      bad_input("the vocabulary has \"{}\" twice", printable(vocabulary.entries[id]));
    }
  }
  return index;
}

std::vector<int32_t> encode(const std::string& path, std::string text, const TokenRules& rules,
                            bool end_last_line, const Vocabulary& vocabulary) {
  prepare_text(path, rules, text);
  const Index index = index_of(vocabulary);
  std::vector<int32_t> ids;
  for_each_token(text, rules, end_last_line, [&](std::string_view token, size_t offset) {
    const auto found = index.find(token);
    if (found == index.end() && vocabulary.unknown < 0) {
      bad_input("{}:{}: \"{}\" is not among the {} entries of the vocabulary, which has no <unk>", path,
                line_of(text, offset), printable(token), vocabulary.entries.size());
    }
    ids.push_back(found != index.end() ? found->second : vocabulary.unknown);
  });
  return ids;
}

/// A text whose tokens are numbered in the order in which their types first occur.
struct Tokens {
  std::string text;
  std::vector<std::string_view> types;
  std::vector<int32_t> numbers;
};

/// `tokens` is filled in place: its types point into its own text and into `rules`.
void tokenize(const std::string& path, const TokenRules& rules, Tokens& tokens) {
  tokens.text = read_file(path);
  prepare_text(path, rules, tokens.text);
  Index index;
  for_each_token(tokens.text, rules, true, [&](std::string_view token, size_t) {
    const auto [entry, added] = index.emplace(token, static_cast<int32_t>(tokens.types.size()));
    if (added) tokens.types.push_back(token);
    tokens.numbers.push_back(entry->second);
  });
}

/// Makes the vocabulary from the first `training` tokens. `id_of_type` maps each type of `tokens` to its id.
Vocabulary build_vocabulary(const Tokens& tokens, int64_t training, const DataConfig& config,
                            const TokenRules& rules, std::vector<int32_t>& id_of_type) {
  struct Type {
    std::string_view token;
    int64_t count = 0;
  };
  const int64_t limit = config.vocabulary_size;
  std::vector<Type> types;
  for (std::string_view token : tokens.types) types.push_back({token, 0});
  for (int64_t i = 0; i < training; ++i)
    ++types[static_cast<size_t>(tokens.numbers[static_cast<size_t>(i)])].count;
  const auto commoner = [](const Type& a, const Type& b) {
    return a.count != b.count ? a.count > b.count : a.token < b.token;
  };
  std::sort(types.begin(), types.end(), commoner);
  if (limit > 0) {
    Type unknown{kUnknown, 0};
    size_t kept = 0;
    for (const Type& type : types) {
      if (type.token == kUnknown || type.count == 0 || static_cast<int64_t>(kept) == limit - 1) {
        unknown.count += type.count;
      } else {
        types[kept++] = type;
      }
    }
    types.resize(kept);
    types.insert(std::upper_bound(types.begin(), types.end(), unknown, commoner), unknown);
  }
  Vocabulary vocabulary;
  vocabulary.token = config.token;
  for (const Type& type : types) vocabulary.entries.emplace_back(type.token);
  const Index index = index_of(vocabulary);
  const auto id_of = [&](std::string_view token) {
    const auto found = index.find(token);
    return found == index.end() ? -1 : found->second;
  };
  if (limit > 0 || !rules.character) vocabulary.unknown = id_of(kUnknown);
  if (!rules.end_of_line.empty()) vocabulary.end_of_line = id_of(rules.end_of_line);
  id_of_type.clear();
  for (std::string_view token : tokens.types) {
    const int32_t id = id_of(token);
    id_of_type.push_back(id >= 0 ? id : vocabulary.unknown);
  }
  return vocabulary;
}

class TextSource final : public BatchSource {
 public:
  TextSource(std::shared_ptr<const std::vector<int32_t>> ids, int64_t begin, int64_t count, int64_t batch,
             int64_t steps, bool carry_state)
      : ids_(std::move(ids)),
        begin_(begin),
        batch_(batch),
        length_(count / batch),
        steps_(steps),
        carry_state_(carry_state) {}

  int64_t batches() const override { return (length_ - 1 + steps_ - 1) / steps_; }
  int64_t targets() const override { return (length_ - 1) * batch_; }
  void start_epoch(int64_t) override {}

  void read(int64_t index, Batch& batch) override {
    if (index < 0 || index >= batches()) bad_input("there is no batch {} among {}", index, batches());
    const int64_t start = index * steps_;
    batch.steps = std::min(steps_, length_ - 1 - start);
    batch.batch = batch_;
    batch.features.clear();
    batch.lengths.clear();
    batch.carries_state = carry_state_ && index > 0;
    batch.ids.resize(static_cast<size_t>(batch.steps * batch_));
    batch.targets.resize(batch.ids.size());
    for (int64_t b = 0; b < batch_; ++b) {
      const int32_t* stream = ids_->data() + begin_ + b * length_ + start;
      for (int64_t t = 0; t < batch.steps; ++t) {
        batch.ids[static_cast<size_t>(t * batch_ + b)] = stream[t];
        batch.targets[static_cast<size_t>(t * batch_ + b)] = stream[t + 1];
      }
    }
  }

 private:
  std::shared_ptr<const std::vector<int32_t>> ids_;
  int64_t begin_;
  int64_t batch_;
  int64_t length_;  // of a stream
  int64_t steps_;
  bool carry_state_;
};

using Ids = std::shared_ptr<const std::vector<int32_t>>;

void check_config(const DataConfig& config) {
  if (config.batch_size < 1) bad_input("data.batch_size is {}, expected at least 1", config.batch_size);
  if (config.steps < 1) bad_input("data.steps is {}, expected at least 1", config.steps);
  if (config.vocabulary_size < 0 || config.vocabulary_size == 1 ||
      config.vocabulary_size > std::numeric_limits<int32_t>::max()) {
    bad_input("data.vocabulary_size is {}, expected 0 (all) or at least 2 (one word and <unk>)",
              config.vocabulary_size);
  }
  const double valid = config.valid.empty() ? config.valid_fraction : 0.0;
  const double test = config.test.empty() ? config.test_fraction : 0.0;
  if (!(valid >= 0.0) || !(test >= 0.0) || !(valid + test < 1.0)) {
    bad_input(
        "data.valid_fraction is {} and data.test_fraction {}, expected two fractions that leave some "
        "training "
        "data",
        config.valid_fraction, config.test_fraction);
  }
}

/// A part to evaluate on: a short text gets fewer streams, down to one.
std::unique_ptr<BatchSource> evaluation_source(const DataConfig& config, const std::string& what,
                                               const Ids& ids, int64_t begin, int64_t count) {
  if (count < 2) bad_input("{} has {} tokens, expected at least 2", what, count);
  const int64_t batch = std::min(config.batch_size, count / 2);
  return make_text_source(ids, begin, count, batch, config.steps, config.carry_state);
}

}  // namespace

std::vector<int32_t> encode_text(const std::string& path, std::string text, const DataConfig& config,
                                 const Vocabulary& vocabulary) {
  return encode(path, std::move(text), rules_of(config, &vocabulary), true, vocabulary);
}

std::vector<int32_t> encode_prompt(const std::string& prompt, const DataConfig& config,
                                   const Vocabulary& vocabulary) {
  if (prompt.empty()) return {};
  return encode("prompt", prompt, rules_of(config, &vocabulary), false, vocabulary);
}

std::unique_ptr<BatchSource> make_text_source(std::shared_ptr<const std::vector<int32_t>> ids, int64_t begin,
                                              int64_t count, int64_t batch, int64_t steps, bool carry_state) {
  return std::make_unique<TextSource>(std::move(ids), begin, count, batch, steps, carry_state);
}

DataSet open_text(const DataConfig& config, const Vocabulary* fixed) {
  if (config.train.empty()) bad_input("data.train names no file");
  check_config(config);
  const TokenRules rules = rules_of(config, fixed);
  Tokens tokens;
  tokenize(config.train, rules, tokens);
  const int64_t total = static_cast<int64_t>(tokens.numbers.size());
  const int64_t valid_tokens =
      config.valid.empty() ? static_cast<int64_t>(config.valid_fraction * static_cast<double>(total)) : 0;
  const int64_t test_tokens =
      config.test.empty() ? static_cast<int64_t>(config.test_fraction * static_cast<double>(total)) : 0;
  const int64_t training = total - valid_tokens - test_tokens;
  if (training < 2 * config.batch_size) {
    bad_input("{}: {} tokens for training, expected at least 2 for each of the {} streams of data.batch_size",
              config.train, training, config.batch_size);
  }

  DataSet data;
  auto ids = std::make_shared<std::vector<int32_t>>();
  if (fixed != nullptr) {
    data.vocabulary = *fixed;
    // Only the types are looked up; an unknown one without <unk> is found again, with its line, by encode().
    const Index index = index_of(*fixed);
    std::vector<int32_t> id_of_type;
    for (std::string_view token : tokens.types) {
      const auto found = index.find(token);
      if (found == index.end() && fixed->unknown < 0) {
        encode_text(config.train, tokens.text, config, *fixed);
      }
      id_of_type.push_back(found != index.end() ? found->second : fixed->unknown);
    }
    for (int32_t number : tokens.numbers) ids->push_back(id_of_type[static_cast<size_t>(number)]);
  } else {
    std::vector<int32_t> id_of_type;
    data.vocabulary = build_vocabulary(tokens, training, config, rules, id_of_type);
    ids->reserve(tokens.numbers.size());
    for (int32_t number : tokens.numbers) ids->push_back(id_of_type[static_cast<size_t>(number)]);
  }
  tokens = Tokens{};

  data.shape.task = Task::language_model;
  data.shape.vocabulary = static_cast<int64_t>(data.vocabulary->entries.size());
  data.shape.classes = data.shape.vocabulary;
  data.shape.character = rules.character;
  data.train = make_text_source(ids, 0, training, config.batch_size, config.steps, config.carry_state);
  if (!config.valid.empty()) {
    data.valid = open_text_split(config, config.valid, *data.vocabulary);
  } else {
    if (config.valid_fraction == 0.0) bad_input("data.valid names no file, and data.valid_fraction is 0");
    data.valid =
        evaluation_source(config, config.train + ": the validation part", ids, training, valid_tokens);
  }
  if (!config.test.empty()) {
    data.test = open_text_split(config, config.test, *data.vocabulary);
  } else if (test_tokens > 0) {
    data.test = evaluation_source(config, config.train + ": the test part", ids, training + valid_tokens,
                                  test_tokens);
  } else {
    data.test_is_valid = true;
    data.test = !config.valid.empty() ? open_text_split(config, config.valid, *data.vocabulary)
                                      : evaluation_source(config, "", ids, training, valid_tokens);
  }
  return data;
}

std::unique_ptr<BatchSource> open_text_split(const DataConfig& config, const std::string& path,
                                             const Vocabulary& vocabulary) {
  check_config(config);
  const Ids ids =
      std::make_shared<const std::vector<int32_t>>(encode_text(path, read_file(path), config, vocabulary));
  return evaluation_source(config, path, ids, 0, static_cast<int64_t>(ids->size()));
}

}  // namespace coppice
