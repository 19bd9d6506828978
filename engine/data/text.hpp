#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/config/recipe.hpp"
#include "engine/data/data.hpp"

namespace coppice {

// Text as tokens.
//
// Words are what stands between ASCII white space; each line end becomes the token `end_of_line` (a last line
// without one counts as ended). `lowercase` folds ASCII, Latin-1, Greek and Cyrillic capitals.
// `split_punctuation` makes each punctuation mark a token, except an apostrophe or hyphen between two letters
// or digits; "<unk>" and the `end_of_line` token stay whole. Characters are UTF-8 code points, line ends
// among them; the three options do nothing there.
//
// Ids go by descending frequency in the training part, then by bytes. With vocabulary_size = N the commonest
// N − 1 types and <unk> are kept, where <unk> has the frequency of all that it stands for; else all types
// are, and types that only occur in parts split off the training file come last.

/// The tokens of `text` as ids of `vocabulary`. `path` is for errors.
std::vector<int32_t> encode_text(const std::string& path, std::string text, const DataConfig& config,
                                 const Vocabulary& vocabulary);

/// Prompts for sampling: like encode_text, without the line end after the last line.
std::vector<int32_t> encode_prompt(const std::string& prompt, const DataConfig& config,
                                   const Vocabulary& vocabulary);

/// Columns of the batch: stream b is the b-th contiguous part of the tokens, ⌊n/B⌋ long; batch i holds steps
/// [i·T, i·T + T) of every stream, and the targets are the tokens one step on. The last batch may be shorter.
std::unique_ptr<BatchSource> make_text_source(std::shared_ptr<const std::vector<int32_t>> ids, int64_t begin,
                                              int64_t count, int64_t batch, int64_t steps, bool carry_state);

DataSet open_text(const DataConfig& config, const Vocabulary* fixed);
std::unique_ptr<BatchSource> open_text_split(const DataConfig& config, const std::string& path,
                                             const Vocabulary& vocabulary);

}  // namespace coppice
