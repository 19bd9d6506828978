#include "bench/synthetic_checkpoint.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/files/safetensors.hpp"
#include "kernels/error.hpp"

namespace coppice::bench {
namespace {

class Builder {
 public:
  explicit Builder(const CheckpointOptions& options) : options_(options) {}

  /// A size that goes with the width, a multiple of `step`.
  int64_t scaled(int64_t size, int64_t step = 8) const {
    const auto steps = std::llround(options_.width * static_cast<double>(size) / static_cast<double>(step));
    return step * std::max<int64_t>(1, steps);
  }
  int64_t layers(int64_t all) const { return options_.layers > 0 ? options_.layers : all; }

  void projection(std::string name, std::vector<int64_t> shape) {
    tensors.push_back({{std::move(name), options_.dtype, std::move(shape)}, true});
  }
  void other(std::string name, std::vector<int64_t> shape) {
    tensors.push_back({{std::move(name), options_.dtype, std::move(shape)}, false});
  }

  std::vector<CheckpointTensor> tensors;

 private:
  const CheckpointOptions& options_;
};

/// NX-AI/xLSTM-7b.
void xlstm(Builder& b) {
  const int64_t width = b.scaled(4096, 64), inner = b.scaled(10944, 64), heads = 8,
                vocabulary = b.scaled(50304);
  b.other("backbone.embeddings.weight", {vocabulary, width});
  for (int64_t i = 0; i < b.layers(32); ++i) {
    const std::string block = fmt::format("backbone.blocks.{}.", i);
    b.other(block + "norm_mlstm.weight", {width});
    for (const char* half : {"q", "k"}) {
      b.projection(fmt::format("{}mlstm_layer.{}.weight", block, half), {width / 2, width});
    }
    b.projection(block + "mlstm_layer.v.weight", {width, width});
    b.projection(block + "mlstm_layer.ogate_preact.weight", {width, width});
    for (const char* gate : {"igate_preact", "fgate_preact"}) {
      b.projection(fmt::format("{}mlstm_layer.{}.weight", block, gate), {heads, width});
      b.other(fmt::format("{}mlstm_layer.{}.bias", block, gate), {heads});
    }
    b.other(block + "mlstm_layer.multihead_norm.weight", {width});
    b.projection(block + "mlstm_layer.out_proj.weight", {width, width});
    b.other(block + "norm_ffn.weight", {width});
    b.projection(block + "ffn.proj_up_gate.weight", {inner, width});
    b.projection(block + "ffn.proj_up.weight", {inner, width});
    b.projection(block + "ffn.proj_down.weight", {width, inner});
  }
  b.other("backbone.out_norm.weight", {width});
  b.other("lm_head.weight", {vocabulary, width});
}

/// BlinkDL/rwkv-7-world, 1.5 B.
void rwkv7(Builder& b) {
  const int64_t width = b.scaled(2048, 64), head = 64, vocabulary = b.scaled(65536);
  b.other("emb.weight", {vocabulary, width});
  for (int64_t i = 0; i < b.layers(24); ++i) {
    const std::string block = fmt::format("blocks.{}.", i), att = block + "att.";
    for (const char* norm : {"ln1", "ln2", "ln0"}) {
      if (i > 0 && std::string_view(norm) == "ln0") continue;
      b.other(fmt::format("{}{}.weight", block, norm), {width});
      b.other(fmt::format("{}{}.bias", block, norm), {width});
    }
    for (const char* mix : {"x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "v0", "k_k", "k_a"}) {
      if (i == 0 && std::string_view(mix) == "v0") continue;
      b.other(att + mix, {1, 1, width});
    }
    b.other(att + "r_k", {width / head, head});
    const auto low_rank = [&](const char* name, int64_t rank) {
      b.projection(fmt::format("{}{}1", att, name), {width, rank});
      b.projection(fmt::format("{}{}2", att, name), {rank, width});
    };
    low_rank("w", 96);
    low_rank("a", 96);
    if (i > 0) low_rank("v", 64);
    low_rank("g", 256);
    for (const char* name : {"receptance", "key", "value", "output"}) {
      b.projection(fmt::format("{}{}.weight", att, name), {width, width});
    }
    b.other(att + "ln_x.weight", {width});
    b.other(att + "ln_x.bias", {width});
    b.other(block + "ffn.x_k", {1, 1, width});
    b.projection(block + "ffn.key.weight", {4 * width, width});
    b.projection(block + "ffn.value.weight", {width, 4 * width});
  }
  b.other("ln_out.weight", {width});
  b.other("ln_out.bias", {width});
  b.other("head.weight", {vocabulary, width});
}

/// state-spaces/mamba2-2.7b.
void mamba2(Builder& b) {
  const int64_t width = b.scaled(2560, 64), inner = 2 * width, heads = inner / 64, state = 128;
  const int64_t vocabulary = b.scaled(50288);
  b.other("backbone.embedding.weight", {vocabulary, width});
  for (int64_t i = 0; i < b.layers(64); ++i) {
    const std::string layer = fmt::format("backbone.layers.{}.", i);
    for (const char* name : {"dt_bias", "A_log", "D"})
      b.other(fmt::format("{}mixer.{}", layer, name), {heads});
    b.projection(layer + "mixer.in_proj.weight", {2 * inner + 2 * state + heads, width});
    b.other(layer + "mixer.conv1d.weight", {inner + 2 * state, 1, 4});
    b.other(layer + "mixer.conv1d.bias", {inner + 2 * state});
    b.other(layer + "mixer.norm.weight", {inner});
    b.projection(layer + "mixer.out_proj.weight", {width, inner});
    b.other(layer + "norm.weight", {width});
  }
  b.other("backbone.norm_f.weight", {width});
  b.other("lm_head.weight", {vocabulary, width});
}

/// google/recurrentgemma-2b, whose head is its embedding.
void recurrent_gemma(Builder& b) {
  const int64_t heads = 10, width = b.scaled(2560, 10 * 8), inner = b.scaled(7680), block = width / heads;
  b.other("model.embed_tokens.weight", {b.scaled(256000), width});
  for (int64_t i = 0; i < b.layers(26); ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i), temporal = layer + "temporal_block.";
    b.other(layer + "temporal_pre_norm.weight", {width});
    if (i % 3 == 2) {
      b.projection(temporal + "q_proj.weight", {width, width});
      b.projection(temporal + "k_proj.weight", {block, width});
      b.projection(temporal + "v_proj.weight", {block, width});
      b.projection(temporal + "o_proj.weight", {width, width});
      b.other(temporal + "o_proj.bias", {width});
    } else {
      for (const char* name : {"linear_x", "linear_y", "linear_out"}) {
        b.projection(fmt::format("{}{}.weight", temporal, name), {width, width});
        b.other(fmt::format("{}{}.bias", temporal, name), {width});
      }
      b.other(temporal + "conv_1d.weight", {width, 1, 4});
      b.other(temporal + "conv_1d.bias", {width});
      b.other(temporal + "rg_lru.recurrent_param", {width});
      for (const char* gate : {"input_gate", "recurrent_gate"}) {
        b.projection(fmt::format("{}rg_lru.{}_weight", temporal, gate), {heads, block, block});
        b.other(fmt::format("{}rg_lru.{}_bias", temporal, gate), {heads, block});
      }
    }
    b.other(layer + "channel_pre_norm.weight", {width});
    for (const char* name : {"gate_proj", "up_proj"}) {
      b.projection(fmt::format("{}mlp_block.{}.weight", layer, name), {inner, width});
      b.other(fmt::format("{}mlp_block.{}.bias", layer, name), {inner});
    }
    b.projection(layer + "mlp_block.down_proj.weight", {width, inner});
    b.other(layer + "mlp_block.down_proj.bias", {width});
  }
  b.other("model.final_norm.weight", {width});
}

/// A Transformer as meta-llama/Meta-Llama-3-8B.
void llama(Builder& b) {
  const int64_t width = b.scaled(4096, 64), inner = b.scaled(14336, 64), keys = width / 4;
  const int64_t vocabulary = b.scaled(128256);
  b.other("model.embed_tokens.weight", {vocabulary, width});
  for (int64_t i = 0; i < b.layers(32); ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    b.projection(layer + "self_attn.q_proj.weight", {width, width});
    b.projection(layer + "self_attn.k_proj.weight", {keys, width});
    b.projection(layer + "self_attn.v_proj.weight", {keys, width});
    b.projection(layer + "self_attn.o_proj.weight", {width, width});
    b.projection(layer + "mlp.gate_proj.weight", {inner, width});
    b.projection(layer + "mlp.up_proj.weight", {inner, width});
    b.projection(layer + "mlp.down_proj.weight", {width, inner});
    b.other(layer + "input_layernorm.weight", {width});
    b.other(layer + "post_attention_layernorm.weight", {width});
  }
  b.other("model.norm.weight", {width});
  b.other("lm_head.weight", {vocabulary, width});
}

/// PyTorch's layers between an embedding and a decoder.
void recurrent(Builder& b, int64_t gates) {
  const int64_t width = b.scaled(1500, 4), vocabulary = b.scaled(10000);
  b.other("encoder.weight", {vocabulary, width});
  for (int64_t i = 0; i < b.layers(2); ++i) {
    b.projection(fmt::format("rnn.weight_ih_l{}", i), {gates * width, width});
    b.projection(fmt::format("rnn.weight_hh_l{}", i), {gates * width, width});
    b.other(fmt::format("rnn.bias_ih_l{}", i), {gates * width});
    b.other(fmt::format("rnn.bias_hh_l{}", i), {gates * width});
  }
  b.other("decoder.weight", {vocabulary, width});
  b.other("decoder.bias", {vocabulary});
}

uint16_t half_of(float value) {  // of normal numbers, truncated: random bits need no rounding
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const int exponent = static_cast<int>(bits >> 23 & 0xff) - 112;
  if (exponent <= 0) return static_cast<uint16_t>(bits >> 16 & 0x8000);
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | (static_cast<uint32_t>(exponent) << 10) |
                               (bits >> 13 & 0x3ff));
}

std::vector<char> random_block(DType type, uint64_t seed, int64_t count) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<char> block(static_cast<size_t>(count * size_of(type)));
  for (int64_t i = 0; i < count; ++i) {
    const float value = normal(random);
    const auto put = [&](auto bits) {
      std::memcpy(block.data() + i * static_cast<int64_t>(sizeof(bits)), &bits, sizeof(bits));
    };
    switch (type) {
      case DType::f64:
        put(static_cast<double>(value));
        break;
      case DType::f32:
        put(value);
        break;
      case DType::f16:
        put(half_of(value));
        break;
      case DType::bf16:
        put(static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
        break;
      default:
        bad_input("a synthetic checkpoint holds floats, not {}", to_string(type));
    }
  }
  return block;
}

}  // namespace

std::vector<CheckpointTensor> checkpoint_tensors(const CheckpointOptions& options) {
  Builder b(options);
  if (options.family == "xlstm-7b") {
    xlstm(b);
  } else if (options.family == "rwkv7-1.5b") {
    rwkv7(b);
  } else if (options.family == "mamba2-2.7b") {
    mamba2(b);
  } else if (options.family == "recurrentgemma-2b") {
    recurrent_gemma(b);
  } else if (options.family == "llama-8b") {
    llama(b);
  } else if (options.family == "lstm") {
    recurrent(b, 4);
  } else if (options.family == "gru") {
    recurrent(b, 3);
  } else {
    bad_input("no model family \"{}\"; known are {}", options.family, fmt::join(kFamilies, ", "));
  }
  return std::move(b.tensors);
}

std::filesystem::path write_checkpoint(const CheckpointOptions& options,
                                       const std::filesystem::path& folder) {
  const std::vector<CheckpointTensor> all = checkpoint_tensors(options);
  std::filesystem::create_directories(folder);
  int64_t total = 0;
  for (const CheckpointTensor& tensor : all) total += tensor.tensor.bytes();

  constexpr int64_t kBlock = 1'048'573;  // a prime: rows of a matrix don't repeat
  std::vector<char> block = random_block(options.dtype, options.seed, kBlock);
  const int64_t width = size_of(options.dtype);
  nlohmann::ordered_json index;
  index["metadata"]["total_size"] = total;
  std::filesystem::path path = folder / "model.safetensors";
  int64_t done = 0;
  size_t next = 0;
  for (int64_t shard = 0; shard < options.shards; ++shard) {
    std::vector<FileTensor> tensors;
    const int64_t end = total / options.shards * (shard + 1);
    for (; next < all.size() && (done < end || shard + 1 == options.shards); ++next) {
      tensors.push_back(all[next].tensor);
      done += all[next].tensor.bytes();
    }
    if (options.shards > 1) {
      path = folder / fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, options.shards);
    }
    SafetensorsWriter writer(path.string(), tensors, {{"format", "pt"}}, Existing::replace);
    for (const FileTensor& tensor : tensors) {
      if (options.shards > 1) index["weight_map"][tensor.name] = path.filename().string();
      const size_t target = writer.index(tensor.name);
      int64_t at = static_cast<int64_t>(std::hash<std::string>()(tensor.name) % kBlock);
      for (int64_t begin = 0; begin < tensor.size();) {
        const int64_t count = std::min(tensor.size() - begin, kBlock - at);
        writer.write(target, begin, count, block.data() + at * width);
        begin += count;
        at = (at + count) % kBlock;
      }
    }
    writer.finish();
  }
  if (options.shards == 1) return path;
  path = folder / "model.safetensors.index.json";
  write_file(path.string(), index.dump(2) + "\n", Existing::replace);
  return path;
}

}  // namespace coppice::bench
