// Weights on disk: pruned as they stream by, with the masks that a full sort in memory gives.

#include "engine/prune/prune_file.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "bench/synthetic_checkpoint.hpp"
#include "engine/config/pattern.hpp"
#include "engine/files/array_file.hpp"
#include "engine/files/number_formats.hpp"
#include "engine/files/safetensors.hpp"
#include "engine/files/weight_output.hpp"
#include "engine/prune/default_tensors.hpp"
#include "engine/prune/file_source.hpp"
#include "engine/prune/mask_file.hpp"
#include "tests/files/scratch.hpp"
#include "tests/prune/harness.hpp"

namespace coppice::test {
namespace {

namespace fs = std::filesystem;

/// A tensor as a file holds it.
struct Stored {
  FileTensor tensor;
  std::vector<char> bytes;
};

uint16_t half_bits(std::mt19937_64& random) {
  uint16_t bits = 0;
  do {
    bits = static_cast<uint16_t>(random());
  } while ((bits & 0x7c00) == 0x7c00);  // neither infinite nor NaN
  return bits;
}

Stored make_stored(std::string name, std::vector<int64_t> shape, DType dtype, std::mt19937_64& random) {
  Stored stored{{std::move(name), dtype, std::move(shape)}, {}};
  stored.bytes.resize(static_cast<size_t>(stored.tensor.bytes()));
  std::normal_distribution<double> normal;
  for (int64_t i = 0; i < stored.tensor.size(); ++i) {
    const auto put = [&](auto value) {
      std::memcpy(stored.bytes.data() + i * static_cast<int64_t>(sizeof(value)), &value, sizeof(value));
    };
    const double value = random() % 50 == 0 ? -0.0 : normal(random);
    switch (dtype) {
      case DType::f64:
        put(value);
        break;
      case DType::f32:
        put(static_cast<float>(value));
        break;
      case DType::bf16:
        put(static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(value)) >> 16));
        break;
      case DType::f16:
        put(half_bits(random));
        break;
      default:
        put(static_cast<int32_t>(random()));
    }
  }
  return stored;
}

std::vector<double> values_of(const Stored& stored) {
  std::vector<double> values(static_cast<size_t>(stored.tensor.size()));
  convert_to_f64(stored.tensor.dtype, stored.bytes.data(), stored.tensor.size(), values.data());
  return values;
}

void write_stored(const std::string& path, const std::vector<Stored>& all) {
  std::vector<FileTensor> tensors;
  for (const Stored& stored : all) tensors.push_back(stored.tensor);
  SafetensorsWriter writer(path, tensors, {{"format", "pt"}}, Existing::replace);
  for (const Stored& stored : all) {
    writer.write(stored.tensor.name, stored.bytes.data(), stored.tensor.size());
  }
  writer.finish();
}

std::vector<char> bytes_of(const WeightFile& file, const std::string& name) {
  std::vector<char> bytes(static_cast<size_t>(file.tensor(name).bytes()));
  file.read(file.index(name), 0, file.tensor(name).size(), bytes.data());
  return bytes;
}

/// A model of all types whose parts end anywhere, and its gradients.
struct Model {
  explicit Model(uint64_t seed, bool small = false) {
    std::mt19937_64 random(seed);
    const int64_t rows = small ? 24 : 400;
    weights.push_back(make_stored("a.proj", {rows, 257}, DType::f32, random));
    weights.push_back(make_stored("b.proj", {4 * 67, small ? 31 : 331}, DType::bf16, random));
    weights.push_back(make_stored("c.proj", {small ? 7 : 701, 129}, DType::f16, random));
    weights.push_back(make_stored("d.proj", {13, 5, 3}, DType::f32, random));
    weights.push_back(make_stored("e.proj", {small ? 3 : 90, 70}, DType::f64, random));
    weights.push_back(make_stored("norm.weight", {257}, DType::f32, random));
    weights.push_back(make_stored("embed.weight", {50, 8}, DType::bf16, random));
    weights.push_back(make_stored("steps", {3}, DType::i32, random));
    for (const Stored& stored : weights) {
      if (!is_floating(stored.tensor.dtype)) continue;
      gradients.push_back(make_stored(stored.tensor.name, stored.tensor.shape, DType::f32, random));
      more.push_back(make_stored(stored.tensor.name, stored.tensor.shape, DType::bf16, random));
    }
  }

  /// What the sort sees: gradients of both files as batches, added in float32.
  std::vector<PrunableTensor> tensors(bool with_more = false) const {
    std::vector<PrunableTensor> list;
    size_t g = 0;
    for (const Stored& stored : weights) {
      PrunableTensor tensor;
      tensor.name = stored.tensor.name;
      tensor.shape = stored.tensor.shape;
      tensor.prunable = stored.tensor.name.ends_with(".proj");
      tensor.dtype = stored.tensor.dtype == DType::f64 ? DType::f64 : DType::f32;
      tensor.weights = values_of(stored);
      if (is_floating(stored.tensor.dtype)) {
        tensor.sum = values_of(gradients[g]);
        const bool wide = tensor.dtype == DType::f64;
        const auto rounded = [wide](double x) {
          return wide ? x : static_cast<double>(static_cast<float>(x));
        };
        for (double x : tensor.sum) {
          tensor.absolute.push_back(std::fabs(x));
          tensor.squared.push_back(rounded(x * x));  // of two floats exact in float64, so rounded once
        }
        const std::vector<double> other = values_of(more[g]);
        for (size_t i = 0; with_more && i < other.size(); ++i) {
          // Sums of two floats rounded to float64 and then to float32 are those rounded once.
          const double x = other[i];
          tensor.sum[i] = rounded(tensor.sum[i] + x);
          tensor.absolute[i] = rounded(tensor.absolute[i] + std::fabs(x));
          tensor.squared[i] = rounded(tensor.squared[i] + rounded(x * x));
        }
        ++g;
      }
      list.push_back(std::move(tensor));
    }
    return list;
  }

  std::vector<Stored> weights, gradients, more;
};

/// Every bit of the output, and the masks beside it, as the sort says.
void expect_output(const Model& model, const WeightFile& output, const WeightFile& masks,
                   const Expected& expected) {
  for (size_t t = 0; t < model.weights.size(); ++t) {
    const Stored& stored = model.weights[t];
    const auto width = static_cast<size_t>(size_of(stored.tensor.dtype));
    ASSERT_EQ(output.tensor(stored.tensor.name).dtype, stored.tensor.dtype);
    std::vector<char> want = stored.bytes;
    for (size_t i = 0; i < expected.kept[t].size(); ++i) {
      if (!expected.kept[t][i]) std::memset(want.data() + i * width, 0, width);
    }
    ASSERT_TRUE(bytes_of(output, stored.tensor.name) == want) << stored.tensor.name;
    if (!stored.tensor.name.ends_with(".proj")) {
      EXPECT_FALSE(masks.contains(stored.tensor.name));
      continue;
    }
    const std::vector<char> bits = bytes_of(masks, stored.tensor.name);
    ASSERT_EQ(bits.size(), (expected.kept[t].size() + 7) / 8);
    for (size_t i = 0; i < 8 * bits.size(); ++i) {
      const bool want_bit = i >= expected.kept[t].size() || expected.kept[t][i];
      ASSERT_EQ((bits[i / 8] >> (i % 8) & 1) != 0, want_bit) << stored.tensor.name << "[" << i << "]";
    }
  }
}

/// Any criterion, scope and pattern; any memory, threads and number of shards: the same bits.
TEST(PruneFile, AnyWayItRunsAsAFullSort) {
  const Scratch scratch;
  const Model model(3);
  write_stored(scratch.path("w.safetensors"), model.weights);
  write_stored(scratch.path("g.safetensors"), model.gradients);
  write_stored(scratch.path("h.safetensors"), model.more);
  // The same in shards of two tensors each.
  nlohmann::json index;
  for (size_t t = 0; t < model.weights.size(); t += 2) {
    const std::string name = fmt::format("part-{}.safetensors", 9 - t);
    write_stored(scratch.path(name),
                 {model.weights.begin() + static_cast<ptrdiff_t>(t),
                  model.weights.begin() + static_cast<ptrdiff_t>(std::min(t + 2, model.weights.size()))});
    for (size_t i = t; i < std::min(t + 2, model.weights.size()); ++i) {
      index["weight_map"][model.weights[i].tensor.name] = name;
    }
  }
  scratch.put("w.safetensors.index.json", index.dump());

  struct Case {
    const char* criterion;
    const char* scope;
    const char* pattern;
    double min_density;
    double percentile;
  };
  const Case cases[] = {
      {"magnitude", "global", "element", 0.0, -1.0},   {"taylor", "tensor", "element", 0.0, -1.0},
      {"fisher", "row", "element", 0.0, -1.0},         {"taylor-absolute", "row", "element", 0.1, 70.0},
      {"magnitude", "global", "row", 0.0, -1.0},       {"gradient", "tensor", "column", 0.05, -1.0},
      {"magnitude", "global", "element", 0.3, 80.0},   {"random", "global", "element", 0.0, -1.0},
      {"taylor", "global", "block:4x4", 0.0, -1.0},    {"fisher", "tensor", "block:16x1", 0.1, -1.0},
      {"magnitude", "global", "block:3x5", 0.1, 70.0}, {"taylor", "row", "2:4", 0.0, -1.0},
      {"magnitude", "global", "6:64", 0.0, -1.0}};
  int turn = 0;
  for (const Case& c : cases) {
    PruneConfig config;
    config.criterion = c.criterion;
    config.scope = c.scope;
    config.pattern = c.pattern;
    config.min_density = c.min_density;
    config.percentile = c.percentile;
    const PatternText pattern = parse_pattern(c.pattern);
    config.sparsity = pattern.kind == Pattern::n_of_m ? pattern.implied_sparsity() : 0.6;
    const Expected expected = expected_masks(model.tensors(true), config, 5);
    ASSERT_FALSE(expected.infeasible);
    for (int64_t memory : {int64_t{0}, int64_t{4} << 20}) {
      for (const bool sharded : {false, true}) {
        // Half of the ways in turn: each forces a handful of files to the disk.
        if (((memory == 0) == sharded) == ((&c - cases) % 2 == 0)) continue;
        SCOPED_TRACE(
            fmt::format("{} {} {} memory {} sharded {}", c.criterion, c.scope, c.pattern, memory, sharded));
        const std::unique_ptr<Backend> backend = open_backend("cpu", {1 + turn % 2});
        PruneFiles files;
        files.gradients = {scratch.path("g.safetensors"), scratch.path("h.safetensors")};
        files.memory = memory;
        const std::string out = scratch.path(fmt::format("out{}", turn++)) + (sharded ? "" : ".safetensors");
        const PruneReport report =
            prune_file(scratch.path(sharded ? "w.safetensors.index.json" : "w.safetensors"), files, config, 5,
                       out, *backend, Existing::refuse);
        EXPECT_EQ(
            report.outcome.total, 0 + [&] {
              uint64_t all = 0;
              for (const Stored& stored : model.weights) all += static_cast<uint64_t>(stored.tensor.size());
              return all;
            }());
        EXPECT_EQ(report.carried.size(), 3u);
        EXPECT_EQ(report.outcome.bracket_misses, 0u);
        const std::unique_ptr<WeightFile> output =
            open_weights(sharded ? out + "/w.safetensors.index.json" : out);
        const SafetensorsFile masks(sharded ? out + "/masks.safetensors" : out + ".masks.safetensors");
        expect_output(model, *output, masks, expected);
        EXPECT_TRUE(fs::exists(sharded ? out + "/report.json" : out + ".report.json"));
        if (HasFailure()) return;
      }
    }
  }
}

/// Blocks that pass through a device's memory take another way to the same bits.
TEST(PruneFile, StagedBlocksGiveTheSameBits) {
  const Scratch scratch;
  const Model model(4);
  write_stored(scratch.path("w.safetensors"), model.weights);
  write_stored(scratch.path("g.safetensors"), model.gradients);
  const std::unique_ptr<Backend> backend = open_backend("cpu", {2});
  const std::unique_ptr<WeightFile> weights = open_weights(scratch.path("w.safetensors"));
  const std::unique_ptr<WeightFile> gradients = open_weights(scratch.path("g.safetensors"));
  struct Bits final : CutOutput {
    std::map<size_t, std::vector<char>> weights, masks;
    static void put(std::vector<char>& to, size_t begin, const void* data, size_t bytes) {
      to.resize(std::max(to.size(), begin + bytes));
      std::memcpy(to.data() + begin, data, bytes);
    }
    const WeightFile* file = nullptr;
    void write(size_t tensor, int64_t begin, int64_t count, const void* data) override {
      const int64_t width = size_of(file->tensors()[tensor].dtype);
      put(weights[tensor], static_cast<size_t>(begin * width), data, static_cast<size_t>(count * width));
    }
    void write_mask(size_t tensor, int64_t begin, int64_t count, const void* bytes) override {
      put(masks[tensor], static_cast<size_t>(begin), bytes, static_cast<size_t>(count));
    }
  };
  struct Way {
    const char *scope, *pattern;
  };
  for (const Way& way :
       {Way{"global", "element"}, Way{"row", "element"}, Way{"global", "block:3x2"}, Way{"row", "2:4"}}) {
    Bits bits[2];
    for (const bool staged : {false, true}) {
      std::vector<FileTensorOptions> options(weights->tensors().size());
      for (size_t i = 0; i < options.size(); ++i) {
        options[i].prunable = weights->tensors()[i].name.ends_with(".proj");
      }
      FileSource source(*backend, *weights, {{gradients.get()}, nullptr, nullptr}, options, 4 << 20);
      if (staged) source.stage_always();
      bits[staged].file = weights.get();
      source.set_output(&bits[staged]);
      PruneConfig config;
      config.criterion = "taylor";
      config.scope = way.scope;
      config.pattern = way.pattern;
      config.sparsity = 0.5;
      prune(source, config, 1);
    }
    EXPECT_TRUE(bits[0].weights == bits[1].weights) << way.scope << " " << way.pattern;
    EXPECT_TRUE(bits[0].masks == bits[1].masks) << way.scope << " " << way.pattern;
  }
}

/// Arrays are a file that is cut where it lies, or, in a dry run and where something fails, left as it was.
TEST(PruneFile, ArraysAreCutWhereTheyLie) {
  const Scratch scratch;
  const Model model(5);
  const auto arrays_of = [](std::vector<Stored>& all) {
    std::vector<NamedArray> arrays;
    for (Stored& stored : all) arrays.push_back({stored.tensor, stored.bytes.data()});
    return arrays;
  };
  struct Masks final : CutOutput {
    explicit Masks(const ArrayFile& arrays) : file(arrays) {}
    void write(size_t tensor, int64_t begin, int64_t, const void* data) override {
      EXPECT_EQ(data, file.memory(tensor) + begin * size_of(file.tensors()[tensor].dtype));
    }
    void write_mask(size_t tensor, int64_t begin, int64_t count, const void* bytes) override {
      bits[tensor].resize(static_cast<size_t>(file.tensors()[tensor].size() + 7) / 8);
      std::memcpy(bits[tensor].data() + begin, bytes, static_cast<size_t>(count));
    }
    const ArrayFile& file;
    std::map<size_t, std::vector<char>> bits;
  };
  int threads = 1;
  for (const char* criterion : {"magnitude", "taylor", "gradient-absolute", "fisher"}) {
    for (const char* scope : {"global", "row"}) {
      PruneConfig config;
      config.criterion = criterion;
      config.scope = scope;
      config.sparsity = 0.7;
      const Expected expected = expected_masks(model.tensors(), config, 5);
      Model mine = model;
      const ArrayFile weights("weights", arrays_of(mine.weights)),
          gradients("gradients", arrays_of(mine.gradients));
      const std::unique_ptr<Backend> backend = open_backend("cpu", {threads = 3 - threads});
      Masks output(weights);
      const auto open = [&](const std::set<size_t>&) { return &output; };
      const auto unchanged = [&] {
        for (size_t t = 0; t < model.weights.size(); ++t) {
          if (mine.weights[t].bytes != model.weights[t].bytes) return false;
        }
        return true;
      };
      PruneFiles files;
      files.dry_run = true;
      prune_weights(weights, {{&gradients}}, files, config, 5, *backend, open);
      EXPECT_TRUE(unchanged());
      files.dry_run = false;
      StopToken stop;
      stop.requested = true;
      files.stop = &stop;
      EXPECT_THROW(prune_weights(weights, {{&gradients}}, files, config, 5, *backend, open), Error);
      EXPECT_TRUE(unchanged());
      files.stop = nullptr;
      prune_weights(weights, {{&gradients}}, files, config, 5, *backend, open);
      const std::string path = scratch.path(fmt::format("{}_{}.safetensors", criterion, scope));
      std::vector<Stored> bits;
      for (auto& [t, bytes] : output.bits) {
        bits.push_back({mask_entry(weights.tensors()[t]), std::move(bytes)});
      }
      write_stored(path, bits);
      expect_output(model, weights, SafetensorsFile(path), expected);
      EXPECT_TRUE(mine.gradients[0].bytes == model.gradients[0].bytes);
    }
  }
}

TEST(PruneFile, TheSameLayoutComesOut) {
  const Scratch scratch;
  const Model model(6, true);
  write_stored(scratch.path("w.safetensors"), model.weights);
  const std::unique_ptr<Backend> backend = open_backend("cpu", {1});
  PruneConfig config;
  config.sparsity = 0.0;
  prune_file(scratch.path("w.safetensors"), {}, config, 1, scratch.path("out.safetensors"), *backend,
             Existing::refuse);
  EXPECT_TRUE(slurp(scratch.path("w.safetensors")) == slurp(scratch.path("out.safetensors")));
  // Through the sparse encoding and back.
  config.sparsity = 0.8;
  PruneFiles files;
  prune_file(scratch.path("w.safetensors"), files, config, 1, scratch.path("cut.safetensors"), *backend,
             Existing::refuse);
  files.sparse_encoding = true;
  prune_file(scratch.path("w.safetensors"), files, config, 1, scratch.path("small.safetensors"), *backend,
             Existing::refuse);
  EXPECT_LT(fs::file_size(scratch.path("small.safetensors")), fs::file_size(scratch.path("cut.safetensors")));
  convert_weights(*open_weights(scratch.path("small.safetensors")), scratch.path("plain.safetensors"),
                  Encoding::dense);
  EXPECT_TRUE(slurp(scratch.path("cut.safetensors")) == slurp(scratch.path("plain.safetensors")));
}

TEST(PruneFile, EarlierMasksStayAndCountTowardsTheCut) {
  const Scratch scratch;
  const Model model(7, true);
  write_stored(scratch.path("w.safetensors"), model.weights);
  const std::unique_ptr<Backend> backend = open_backend("cpu", {2});
  PruneConfig config;
  config.criterion = "random";
  config.sparsity = 0.3;
  prune_file(scratch.path("w.safetensors"), {}, config, 9, scratch.path("first.safetensors"), *backend,
             Existing::refuse);
  const Expected first = expected_masks(model.tensors(), config, 9);
  PruneFiles files;
  files.masks = scratch.path("first.safetensors.masks.safetensors");
  // Alone.
  files.masks_only = true;
  const PruneReport alone = prune_file(scratch.path("w.safetensors"), files, config, 9,
                                       scratch.path("again.safetensors"), *backend, Existing::refuse);
  EXPECT_TRUE(slurp(scratch.path("first.safetensors")) == slurp(scratch.path("again.safetensors")));
  EXPECT_TRUE(slurp(files.masks.string()) == slurp(scratch.path("again.safetensors.masks.safetensors")));
  EXPECT_EQ(alone.outcome.passes, 1u);
  // And further.
  files.masks_only = false;
  const std::pair<const char*, const char*> ways[] = {
      {"global", "element"}, {"row", "element"}, {"global", "block:2x3"}, {"global", "1:4"}};
  for (const auto& [scope, pattern] : ways) {
    config.criterion = "magnitude";
    config.scope = scope;
    config.pattern = pattern;
    config.sparsity = std::string_view(pattern) == "1:4" ? 0.75 : 0.7;
    std::vector<PrunableTensor> tensors = model.tensors();
    for (size_t t = 0; t < tensors.size(); ++t) {
      if (tensors[t].prunable) tensors[t].kept = first.kept[t];
    }
    const std::string out = scratch.path(fmt::format("{}-{}.safetensors", scope, pattern));
    prune_file(scratch.path("w.safetensors"), files, config, 9, out, *backend, Existing::refuse);
    expect_output(model, SafetensorsFile(out), SafetensorsFile(out + ".masks.safetensors"),
                  expected_masks(tensors, config, 9));
  }
}

/// |w|·‖x‖ within each row (arXiv 2306.11695), against a sort of each.
TEST(PruneFile, WandaWithinEachRow) {
  const Scratch scratch;
  std::mt19937_64 random(8);
  std::vector<Stored> weights = {make_stored("fc.weight", {37, 200}, DType::bf16, random)};
  std::vector<Stored> norms = {make_stored("fc.weight", {200}, DType::f32, random)};
  for (int64_t i = 0; i < 200; ++i) {
    float value = 0.0f;
    std::memcpy(&value, norms[0].bytes.data() + 4 * i, 4);
    value = std::fabs(value);
    std::memcpy(norms[0].bytes.data() + 4 * i, &value, 4);
  }
  write_stored(scratch.path("w.safetensors"), weights);
  write_stored(scratch.path("x.safetensors"), norms);
  const std::unique_ptr<Backend> backend = open_backend("cpu", {2});
  PruneConfig config;
  config.criterion = kWanda;
  config.scope = "row";
  config.sparsity = 0.5;
  PruneFiles files;
  files.activations = scratch.path("x.safetensors");
  const PruneReport report = prune_file(scratch.path("w.safetensors"), files, config, 1,
                                        scratch.path("out.safetensors"), *backend, Existing::refuse);
  EXPECT_EQ(report.formula, "|w| * ||x||");
  const std::vector<double> w = values_of(weights[0]), x = values_of(norms[0]);
  const std::vector<double> out = SafetensorsFile(scratch.path("out.safetensors")).read_f64("fc.weight");
  for (size_t row = 0; row < 37; ++row) {
    std::vector<size_t> order(200);
    for (size_t i = 0; i < 200; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      const auto score = [&](size_t i) {
        return std::fabs(static_cast<float>(w[row * 200 + i])) * static_cast<float>(x[i]);
      };
      return score(a) < score(b);
    });
    for (size_t r = 0; r < 200; ++r) {
      const size_t i = row * 200 + order[r];
      ASSERT_EQ(out[i], r < 100 ? 0.0 : w[i]) << row << " " << order[r];
    }
  }
}

TEST(PruneFile, DiagonalsAreKept) {
  const Scratch scratch;
  std::mt19937_64 random(9);
  write_stored(scratch.path("w.safetensors"), {make_stored("u", {4 * 30, 30}, DType::bf16, random),
                                               make_stored("v", {20, 20}, DType::f32, random)});
  const std::unique_ptr<Backend> backend = open_backend("cpu", {1});
  PruneConfig config;
  config.sparsity = 0.95;
  PruneFiles files;
  files.keep_diagonal = {"u"};
  files.gates = {{"u", 4}};
  for (const char* scope : {"global", "gate", "row"}) {
    config.scope = scope;
    const std::string out = scratch.path(fmt::format("{}.safetensors", scope));
    const PruneReport report =
        prune_file(scratch.path("w.safetensors"), files, config, 1, out, *backend, Existing::refuse);
    const std::vector<double> before = SafetensorsFile(scratch.path("w.safetensors")).read_f64("u");
    const std::vector<double> after = SafetensorsFile(out).read_f64("u");
    for (size_t row = 0; row < 120; ++row) {
      const size_t i = row * 30 + row % 30;
      EXPECT_EQ(std::bit_cast<uint64_t>(after[i]), std::bit_cast<uint64_t>(before[i])) << scope << " " << row;
    }
    if (std::string_view(scope) == "gate") {
      EXPECT_EQ(report.outcome.groups.size(), 5u);
      EXPECT_EQ(report.outcome.groups[0].name, "u:0");
      EXPECT_EQ(report.outcome.groups[0].cut, 855u);
    }
  }
  // A group that holds a weight of the diagonal keeps it: n:m by its score, a block as a whole.
  config.scope = "global";
  config.sparsity = 0.5;
  for (const char* pattern : {"2:4", "1:2", "block:2x2", "block:1x4"}) {
    config.pattern = pattern;
    const std::string out = scratch.path(fmt::format("{}.safetensors", pattern));
    prune_file(scratch.path("w.safetensors"), files, config, 1, out, *backend, Existing::refuse);
    const std::vector<double> before = SafetensorsFile(scratch.path("w.safetensors")).read_f64("u");
    const std::vector<double> after = SafetensorsFile(out).read_f64("u");
    for (size_t row = 0; row < 120; ++row) {
      const size_t i = row * 30 + row % 30;
      EXPECT_EQ(std::bit_cast<uint64_t>(after[i]), std::bit_cast<uint64_t>(before[i]))
          << pattern << " " << row;
    }
  }
  for (const char* pattern : {"row", "column", "block:2x2"}) {
    config.pattern = pattern;
    config.reduce = "product";
    EXPECT_ERROR(prune_file(scratch.path("w.safetensors"), files, config, 1, scratch.path("no.safetensors"),
                            *backend, Existing::refuse),
                 bad_input, "--keep-diagonal", pattern);
  }
  config.pattern = "element";
  config.reduce = "sum";
  config.sparsity = 0.99;
  EXPECT_ERROR(prune_file(scratch.path("w.safetensors"), files, config, 1, scratch.path("no.safetensors"),
                          *backend, Existing::refuse),
               bad_input, "--keep-diagonal", "'u'");
  EXPECT_FALSE(fs::exists(scratch.path("no.safetensors")));
}

TEST(PruneFile, TiedTensorsAreCutOnce) {
  const Scratch scratch;
  std::mt19937_64 random(10);
  std::vector<Stored> weights = {make_stored("m.up", {60, 40}, DType::bf16, random),
                                 make_stored("z.up", {60, 40}, DType::bf16, random),
                                 make_stored("other", {60, 40}, DType::bf16, random)};
  weights[1].bytes = weights[0].bytes;
  write_stored(scratch.path("w.safetensors"), weights);
  const std::unique_ptr<Backend> backend = open_backend("cpu", {1});
  PruneConfig config;
  config.sparsity = 0.5;
  const PruneReport report = prune_file(scratch.path("w.safetensors"), {}, config, 1,
                                        scratch.path("out.safetensors"), *backend, Existing::refuse);
  EXPECT_EQ(report.outcome.prunable, 4800u);
  ASSERT_EQ(report.tied.size(), 1u);
  EXPECT_EQ(report.tied[0], (std::vector<std::string>{"m.up", "z.up"}));
  const SafetensorsFile out(scratch.path("out.safetensors"));
  const SafetensorsFile masks(scratch.path("out.safetensors.masks.safetensors"));
  EXPECT_TRUE(bytes_of(out, "m.up") == bytes_of(out, "z.up"));
  EXPECT_FALSE(bytes_of(out, "m.up") == weights[0].bytes);
  EXPECT_TRUE(bytes_of(masks, "m.up") == bytes_of(masks, "z.up"));
  // Left out by any of their names, they stay whole under all.
  config.exclude = {"z.*"};
  prune_file(scratch.path("w.safetensors"), {}, config, 1, scratch.path("less.safetensors"), *backend,
             Existing::refuse);
  EXPECT_TRUE(bytes_of(SafetensorsFile(scratch.path("less.safetensors")), "m.up") == weights[0].bytes);
  EXPECT_TRUE(bytes_of(SafetensorsFile(scratch.path("less.safetensors")), "z.up") == weights[0].bytes);
}

/// What is a projection by the makers' names is pruned, and nothing else.
TEST(PruneFile, DefaultsChooseTheProjectionsOfPublishedModels) {
  for (const std::string_view family : bench::kFamilies) {
    const bool recurrent = family == "lstm" || family == "gru";
    for (const bench::CheckpointTensor& tensor : bench::checkpoint_tensors({.family = std::string(family)})) {
      if (recurrent) continue;  // by the names of PyTorch's layers instead, below
      EXPECT_EQ(reason_to_keep(tensor.tensor).empty(), tensor.projection)
          << family << ": " << tensor.tensor.name << " " << reason_to_keep(tensor.tensor);
    }
    const Scratch scratch;
    bench::CheckpointOptions options;
    options.family = family;
    options.width = 0.02;
    options.layers = 3;
    options.shards = recurrent ? 1 : 3;
    const fs::path path = bench::write_checkpoint(options, scratch.path("checkpoint"));
    const std::unique_ptr<Backend> backend = open_backend("cpu", {1});
    PruneConfig config;
    config.sparsity = 0.8;
    PruneFiles files;
    files.dry_run = true;
    const PruneReport report =
        prune_file(path, files, config, 1, scratch.path("out"), *backend, Existing::refuse);
    std::map<std::string, bool> projections;
    for (const bench::CheckpointTensor& tensor : bench::checkpoint_tensors(options)) {
      projections[tensor.tensor.name] = tensor.projection;
    }
    EXPECT_EQ(report.outcome.tensors.size(), projections.size());
    for (const TensorOutcome& tensor : report.outcome.tensors) {
      EXPECT_EQ(tensor.pruned, projections.at(tensor.name)) << family << ": " << tensor.name;
    }
    EXPECT_EQ(scratch.entries(), 1u) << "a dry run writes nothing";
  }
}

TEST(PruneFile, ErrorsNameFileTensorExpectedAndFound) {
  const Scratch scratch;
  const Model model(11, true);
  write_stored(scratch.path("w.safetensors"), model.weights);
  std::mt19937_64 random(12);
  std::vector<Stored> wrong = model.gradients;
  wrong[0] = make_stored("a.proj", {3, 4}, DType::f32, random);
  write_stored(scratch.path("wrong.safetensors"), wrong);
  write_stored(scratch.path("few.safetensors"), {model.gradients[0]});
  write_stored(scratch.path("g.safetensors"), model.gradients);
  write_stored(scratch.path("mask.safetensors"), {make_stored("a.proj", {4}, DType::i32, random)});
  write_stored(scratch.path("stranger.safetensors"), {make_stored("nobody", {4}, DType::i32, random)});
  const std::unique_ptr<Backend> backend = open_backend("cpu", {1});
  const size_t before = scratch.entries();
  const auto run = [&](const PruneFiles& files, const char* criterion) {
    PruneConfig config;
    config.criterion = criterion;
    prune_file(scratch.path("w.safetensors"), files, config, 1, scratch.path("out.safetensors"), *backend,
               Existing::refuse);
  };
  const auto with_gradients = [&](std::vector<std::string> names) {
    PruneFiles files;
    for (const std::string& name : names) files.gradients.push_back(scratch.path(name));
    return files;
  };
  EXPECT_ERROR(run({}, "taylor"), bad_input, "taylor", "gradients");
  EXPECT_ERROR(run(with_gradients({"wrong.safetensors"}), "taylor"), bad_input, "wrong.safetensors", "a.proj",
               "24, 257", "3, 4");
  EXPECT_ERROR(run(with_gradients({"few.safetensors"}), "fisher"), bad_input, "few.safetensors", "b.proj",
               "squared");
  EXPECT_ERROR(run(with_gradients({"g.safetensors", "few.safetensors"}), "taylor"), bad_input, "b.proj",
               "a.proj", "1 of the 2");
  EXPECT_ERROR(run(with_gradients({"nothing"}), "taylor"), bad_input, "nothing");
  PruneFiles files;
  files.activations = scratch.path("g.safetensors");
  EXPECT_ERROR(run(files, "magnitude"), bad_input, "--activations", "magnitude");
  EXPECT_ERROR(run(files, "wanda"), bad_input, "g.safetensors", "a.proj", "257");
  EXPECT_ERROR(run({}, "wanda"), bad_input, "wanda", "--activations");
  files = {};
  files.masks = scratch.path("mask.safetensors");
  EXPECT_ERROR(run(files, "magnitude"), bad_input, "mask.safetensors", "a.proj");
  files.masks = scratch.path("stranger.safetensors");
  EXPECT_ERROR(run(files, "magnitude"), bad_input, "stranger.safetensors", "nobody");
  files = {};
  files.gates = {{"a.*", 7}};
  EXPECT_ERROR(run(files, "magnitude"), bad_input, "--gates", "a.proj", "24", "7");
  files.gates = {{"q", 7}};
  EXPECT_ERROR(run(files, "magnitude"), bad_input, "--gates", "'q'");
  files = {};
  files.keep_diagonal = {"(", "a"};
  EXPECT_ERROR(run(files, "magnitude"), bad_input, "--keep-diagonal", "(");
  files.keep_diagonal = {"d.proj"};
  EXPECT_ERROR(run(files, "magnitude"), bad_input, "d.proj", "matrix");
  files = {};
  files.memory = 1000;
  EXPECT_ERROR(run(files, "magnitude"), bad_input, "--memory", "1000");
  // A NaN that only the pass over the data finds.
  std::vector<Stored> nan = model.gradients;
  const float value = std::nanf("");
  std::memcpy(nan[1].bytes.data() + 40, &value, 4);
  write_stored(scratch.path("nan.safetensors"), nan);
  EXPECT_ERROR(run(with_gradients({"nan.safetensors"}), "taylor"), bad_input, "b.proj", "index 10", "NaN");
  EXPECT_EQ(scratch.entries(), before + 1) << "nothing is left behind";
}

}  // namespace
}  // namespace coppice::test
