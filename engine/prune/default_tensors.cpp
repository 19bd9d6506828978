#include "engine/prune/default_tensors.hpp"

#include <algorithm>
#include <cctype>
#include <initializer_list>
#include <string>
#include <vector>

namespace coppice {
namespace {

/// "model.layers.0.norm.weight" → model, layers, 0, norm, weight; in lower case.
std::vector<std::string> components_of(const std::string& name) {
  std::vector<std::string> components(1);
  for (char c : name) {
    if (c == '.' || c == '/') {
      components.emplace_back();
    } else {
      components.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  return components;
}

bool is_one_of(std::string_view word, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

bool contains(std::string_view word, std::initializer_list<std::string_view> pieces) {
  return std::any_of(pieces.begin(), pieces.end(),
                     [&](std::string_view piece) { return word.find(piece) != word.npos; });
}

bool is_embedding(std::string_view word) {
  return word.starts_with("embed") || word.ends_with("embed") ||
         contains(word, {"embedding", "embed_tokens"}) || is_one_of(word, {"emb", "wte", "wpe"});
}

bool is_head(std::string_view word) {
  return is_one_of(word, {"lm_head", "head", "embed_out", "output_layer", "classifier"});
}

bool is_norm(std::string_view word) {
  // "ln", "ln_f", "ln0": but not "linear".
  const bool ln = word.starts_with("ln") && std::all_of(word.begin() + 2, word.end(), [](char c) {
                    return c == '_' || c == 'x' || c == 'f' || std::isdigit(c);
                  });
  return ln || contains(word, {"norm"});
}

/// Of those that are no vectors: RWKV's r_k, time_decay and time_faaaa of earlier versions, Mamba's A_log.
bool is_decay_or_mixing(std::string_view word) {
  return is_one_of(word, {"a_log", "r_k", "time_decay", "time_first", "time_faaaa"}) ||
         (word.starts_with("time_m") && !contains(word, {"_w1", "_w2"}));
}

bool is_short_convolution(std::string_view word, const FileTensor& tensor) {
  if (contains(word, {"conv1d", "conv_1d", "short_conv", "shortconv"})) return true;
  // A filter for each channel, along time.
  return contains(word, {"conv"}) && tensor.shape.size() == 3 && tensor.shape[1] == 1;
}

}  // namespace

std::string_view reason_to_keep(const FileTensor& tensor) {
  if (!is_floating(tensor.dtype)) return "no float";
  const std::vector<std::string> words = components_of(tensor.name);
  const std::string& last = words.back();
  const auto any = [&](auto is) { return std::any_of(words.begin(), words.end(), is); };
  if (any([&](const std::string& word) { return is_short_convolution(word, tensor); })) {
    return "short convolution";
  }
  if (any(is_norm)) return "norm";
  if (last == "bias" || last.ends_with("_bias") || last.starts_with("bias_")) return "bias";
  if (is_decay_or_mixing(last)) return "decay or mixing";
  const auto long_axes =
      std::count_if(tensor.shape.begin(), tensor.shape.end(), [](int64_t d) { return d != 1; });
  if (tensor.shape.size() < 2 || long_axes < 2) return "vector";
  if (any(is_embedding)) return "embedding";
  // Llama's own files call the head "output", as attention layers call their projection.
  if (any(is_head) || words.front() == "output") return "head";
  return "";
}

}  // namespace coppice
