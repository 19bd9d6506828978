#include <cmath>

#include "ops_test.hpp"

namespace coppice::test {
namespace {

struct NamedSettings {
  const char* name;
  OptimizerSettings settings;
};

/// Every rule, with momentum and decay wherever it has them.
std::vector<NamedSettings> all_settings() {
  OptimizerSettings s;
  std::vector<NamedSettings> all = {{"sgd", s}};
  s.rate = 0.05f;
  s.weight_decay = 0.01f;
  all.push_back({"sgd with decay", s});
  s.momentum = 0.9f;
  all.push_back({"sgd with momentum", s});
  s.nesterov = true;
  all.push_back({"sgd with Nesterov momentum", s});
  s = {};
  s.rate = 0.003f;
  s.weight_decay = 0.01f;
  s.kind = OptimizerKind::rmsprop;
  all.push_back({"rmsprop", s});
  s.epsilon_inside_root = true;
  all.push_back({"rmsprop as Keras", s});
  s.epsilon_inside_root = false;
  s.kind = OptimizerKind::adam;
  all.push_back({"adam", s});
  s.kind = OptimizerKind::adamw;
  all.push_back({"adamw", s});
  return all;
}

/// One parameter in double, after the papers' formulas.
struct Parameter {
  double w, first = 0, second = 0;

  void step(const OptimizerSettings& s, double g) {
    const auto rate = static_cast<double>(s.rate);
    const double decay = s.weight_decay;
    if (s.kind != OptimizerKind::adamw) g += decay * w;
    switch (s.kind) {
      case OptimizerKind::sgd:
        first = s.momentum * first + g;
        w -= rate * (s.nesterov ? g + s.momentum * first : first);
        break;
      case OptimizerKind::rmsprop:
        first = s.decay_rate * first + (1.0 - s.decay_rate) * g * g;
        w -= rate * g / (s.epsilon_inside_root ? std::sqrt(first + s.epsilon) : std::sqrt(first) + s.epsilon);
        break;
      case OptimizerKind::adam:
      case OptimizerKind::adamw: {
        if (s.kind == OptimizerKind::adamw) w *= 1.0 - rate * decay;
        first = s.beta1 * first + (1.0 - s.beta1) * g;
        second = s.beta2 * second + (1.0 - s.beta2) * g * g;
        const double mean = first / (1.0 - std::pow(double{s.beta1}, static_cast<double>(s.step)));
        const double square = second / (1.0 - std::pow(double{s.beta2}, static_cast<double>(s.step)));
        w -= rate * mean / (std::sqrt(square) + s.epsilon);
        break;
      }
    }
  }
};

class OptimizerTest : public OpsTest {
 protected:
  /// Parameters, gradients, mask and state of one model on a device.
  struct Model {
    Model(Backend& backend, int64_t n, const std::vector<float>& values,
          const std::vector<uint64_t>& mask_words)
        : backend(backend),
          w(backend, 1, n, values, 0, 0),
          g(backend, 1, n, {}, 0, 0),
          state0(backend, 1, n, std::vector<float>(static_cast<size_t>(n)), 0, 0),
          state1(backend, 1, n, std::vector<float>(static_cast<size_t>(n)), 0, 0),
          words(backend, static_cast<int64_t>(mask_words.size()) * 8 + 64, "mask"),
          norm_buffer(backend, 64, "norm") {
      mask = words.vector<uint64_t>(static_cast<int64_t>(mask_words.size()));
      backend.upload(mask_words, mask);
      norm = norm_buffer.vector<double>(1);
    }
    void set_gradients(const std::vector<float>& values) {
      backend.upload(values.data(), g.view().data, static_cast<int64_t>(values.size() * sizeof(float)));
    }
    void step(const OptimizerSettings& settings, float clip) {
      if (clip > 0) backend.optimizer().gradient_norm(g.vector(), mask, norm);
      backend.optimizer().update(settings, clip, clip > 0 ? norm : VectorView<double>{}, w.vector(),
                                 g.vector(), mask, state0.vector(), state1.vector());
    }
    std::vector<TestMatrix*> all() { return {&w, &g, &state0, &state1}; }
    std::vector<uint32_t> everything() {
      std::vector<uint32_t> result;
      for (TestMatrix* m : all()) {
        const std::vector<uint32_t> more = bits(m->values());
        result.insert(result.end(), more.begin(), more.end());
      }
      return result;
    }

    Backend& backend;
    TestMatrix w, g, state0, state1;
    Buffer words, norm_buffer;
    VectorView<uint64_t> mask;
    VectorView<double> norm;
  };

  /// About `density` of the bits set, whole words of zeros and ones among them.
  std::vector<uint64_t> mask_words(int64_t n, float density) {
    std::vector<uint64_t> words(static_cast<size_t>((n + 63) / 64));
    for (uint64_t& word : words) {
      const int64_t kind = random_.below(8);
      for (int bit = 0; bit < 64; ++bit) word |= uint64_t{random_.uniform() < density} << bit;
      if (kind == 0) word = 0;
      if (kind == 1) word = ~uint64_t{0};
    }
    return words;
  }
  static bool kept(const std::vector<uint64_t>& words, size_t i) {
    return words.empty() || (words[i / 64] >> (i % 64) & 1) != 0;
  }
};

TEST_P(OptimizerTest, StepsAgreeWithReference) {
  for (const NamedSettings& named : all_settings()) {
    for (const int64_t n : {0, 1, 3, 31, 33, 64, 257}) {
      for (const bool masked : {false, true}) {
        for (const float clip : {0.0f, 1.5f}) {
          SCOPED_TRACE(std::string(named.name) + ", n " + std::to_string(n) + (masked ? ", masked" : "") +
                       ", clip " + std::to_string(clip));
          const std::vector<float> start = random_.normals(n);
          const std::vector<uint64_t> words = masked ? mask_words(n, 0.6f) : std::vector<uint64_t>{};
          Model model(backend(), n, start, words);
          std::vector<Parameter> expected;
          for (const float w : start) expected.push_back({w});
          OptimizerSettings settings = named.settings;
          for (settings.step = 1; settings.step <= 5; ++settings.step) {
            std::vector<float> g = random_.normals(n);
            if (settings.step % 2) {  // as an embedding's: most of it nothing
              for (size_t i = static_cast<size_t>(random_.below(n + 1)); i < g.size(); ++i)
                g[i] = i % 3 ? 0.0f : -0.0f;
            }
            double norm = 0;
            for (size_t i = 0; i < g.size(); ++i) norm += kept(words, i) ? double{g[i]} * double{g[i]} : 0.0;
            norm = std::sqrt(norm);
            const double factor = clip > 0 && norm > clip ? clip / norm : 1.0;
            model.set_gradients(g);
            model.step(settings, clip);
            for (size_t i = 0; i < g.size(); ++i) expected[i].step(settings, factor * g[i]);
            if (clip > 0) {
              EXPECT_NEAR(backend().download(model.norm)[0], norm, 1e-12 * norm);
            }
          }
          const std::vector<float> w = model.w.values();
          for (size_t i = 0; i < w.size(); ++i) {
            if (kept(words, i)) {
              ASSERT_NEAR(w[i], expected[i].w, 2e-6 * (1 + std::abs(expected[i].w))) << "element " << i;
            } else {
              ASSERT_EQ(std::bit_cast<uint32_t>(w[i]), 0u) << "element " << i;
            }
          }
          for (TestMatrix* m : model.all()) m->expect_untouched_around();
        }
      }
    }
  }
}

TEST_P(OptimizerTest, PrunedWeightsStayExactlyZero) {
  const int64_t n = 1000;
  for (const NamedSettings& named : all_settings()) {
    const std::vector<uint64_t> words = mask_words(n, 0.3f);
    Model model(backend(), n, random_.normals(n), {});
    OptimizerSettings settings = named.settings;
    for (settings.step = 1; settings.step <= 20; ++settings.step) {  // state builds up before the cut
      model.set_gradients(random_.normals(n));
      model.step(settings, 2.0f);
    }
    Buffer buffer(backend(), static_cast<int64_t>(words.size()) * 8, "mask");
    model.mask = buffer.vector<uint64_t>(static_cast<int64_t>(words.size()));
    backend().upload(words, model.mask);
    backend().optimizer().apply_mask(model.w.vector(), model.mask);
    for (; settings.step <= 120; ++settings.step) {
      std::vector<float> g = random_.normals(n);
      for (size_t i = 0; i < g.size(); ++i) {  // a pruned weight's gradient may be anything
        if (!kept(words, i) && settings.step % 7 == 0) g[i] = settings.step % 2 ? NAN : -HUGE_VALF;
      }
      model.set_gradients(g);
      model.step(settings, 2.0f);
      const std::vector<uint32_t> w = bits(model.w.values());
      for (size_t i = 0; i < w.size(); ++i) {
        if (!kept(words, i)) {
          ASSERT_EQ(w[i], 0u) << named.name << ", step " << settings.step << ", element " << i;
        }
      }
    }
    const std::vector<float> w = model.w.values();
    const std::vector<uint32_t> s0 = bits(model.state0.values()), s1 = bits(model.state1.values());
    for (size_t i = 0; i < w.size(); ++i) {
      if (kept(words, i)) {
        ASSERT_TRUE(std::isfinite(w[i])) << named.name;
      } else {
        ASSERT_EQ(s0[i], 0u) << named.name;
        ASSERT_EQ(s1[i], 0u) << named.name;
      }
    }
  }
}

TEST_P(OptimizerTest, NonFiniteNormChangesNothing) {
  const int64_t n = 300;
  for (const NamedSettings& named : all_settings()) {
    for (const float bad : {NAN, HUGE_VALF, -HUGE_VALF}) {
      for (const float clip : {0.0f, 1.0f}) {
        Model model(backend(), n, random_.normals(n), mask_words(n, 0.9f));
        std::vector<float> g = random_.normals(n);
        model.set_gradients(g);
        model.step(named.settings, 1.0f);
        size_t place = static_cast<size_t>(random_.below(n));
        std::vector<uint64_t> words = backend().download(model.mask);
        words[place / 64] |= uint64_t{1} << (place % 64);
        backend().upload(words, model.mask);
        g[place] = bad;
        model.set_gradients(g);
        const std::vector<uint32_t> before = model.everything();
        backend().optimizer().gradient_norm(model.g.vector(), model.mask, model.norm);
        EXPECT_FALSE(std::isfinite(backend().download(model.norm)[0]));
        backend().optimizer().update(named.settings, clip, model.norm, model.w.vector(), model.g.vector(),
                                     model.mask, model.state0.vector(), model.state1.vector());
        EXPECT_EQ(model.everything(), before) << named.name;
      }
    }
  }
}

TEST_P(OptimizerTest, NormOfManyAndOfLargeGradients) {
  for (const int64_t n : {0, 1, 63, 65, 65'535, 65'537, 300'001}) {
    std::vector<float> g = random_.normals(n);
    for (float& v : g) v *= 1e30f;  // its square is no float
    const std::vector<uint64_t> words = mask_words(n, 0.5f);
    double kept_sum = 0, sum = 0;
    for (size_t i = 0; i < g.size(); ++i) {
      sum += double{g[i]} * double{g[i]};
      kept_sum += kept(words, i) ? double{g[i]} * double{g[i]} : 0.0;
    }
    Model model(backend(), n, g, words);
    backend().optimizer().gradient_norm(model.w.vector(), {}, model.norm);
    EXPECT_NEAR(backend().download(model.norm)[0], std::sqrt(sum), 1e-12 * std::sqrt(sum));
    backend().optimizer().gradient_norm(model.w.vector(), model.mask, model.norm);
    EXPECT_NEAR(backend().download(model.norm)[0], std::sqrt(kept_sum), 1e-12 * std::sqrt(sum));
  }
}

TEST_P(OptimizerTest, ApplyMaskKeepsBits) {
  for (const int64_t n : {0, 1, 3, 63, 64, 65, 257, 200'001}) {
    std::vector<float> values = random_.normals(n);
    for (size_t i = 0; i < values.size(); i += 5) values[i] = i % 2 ? -0.0f : NAN;
    const std::vector<uint64_t> words = mask_words(n, 0.5f);
    Model model(backend(), n, values, words);
    backend().optimizer().apply_mask(model.w.vector(), model.mask);
    const std::vector<uint32_t> found = bits(model.w.values()), before = bits(values);
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(found[i], kept(words, i) ? before[i] : 0u) << i;
    model.w.expect_untouched_around();
    backend().optimizer().apply_mask(model.w.vector(), {});
    EXPECT_EQ(bits(model.w.values()), found);
  }
}

// Exactly one rounding per operation: the same bits as this plain code, which the build doesn't contract.
TEST_P(OptimizerTest, StatisticsAreExact) {
  for (const int64_t n : {0, 1, 7, 33, 257, 200'001}) {
    std::vector<float> sum = random_.normals(n), absolute = random_.normals(n), squared = random_.normals(n);
    TestMatrix device_sum(backend(), 1, n, sum), device_absolute(backend(), 1, n, absolute),
        device_squared(backend(), 1, n, squared);
    for (int batch = 0; batch < 3; ++batch) {
      std::vector<float> g = random_.normals(n);
      for (size_t i = 0; i < g.size(); i += 7) g[i] *= 1e-30f;  // its square is denormal
      TestMatrix gradients(backend(), 1, n, g);
      backend().optimizer().accumulate_statistics(gradients.vector(), device_sum.vector(),
                                                  device_absolute.vector(), device_squared.vector());
      for (size_t i = 0; i < g.size(); ++i) {
        sum[i] += g[i];
        absolute[i] += std::abs(g[i]);
        squared[i] += g[i] * g[i];
      }
    }
    EXPECT_EQ(bits(device_sum.values()), bits(sum));
    EXPECT_EQ(bits(device_absolute.values()), bits(absolute));
    EXPECT_EQ(bits(device_squared.values()), bits(squared));
    // One alone.
    TestMatrix gradients(backend(), 1, n, sum);
    backend().optimizer().accumulate_statistics(gradients.vector(), {}, {}, device_squared.vector());
    for (size_t i = 0; i < sum.size(); ++i) squared[i] += sum[i] * sum[i];
    EXPECT_EQ(bits(device_squared.values()), bits(squared));
    for (TestMatrix* m : {&device_sum, &device_absolute, &device_squared}) m->expect_untouched_around();
  }
}

// Arrays that begin anywhere, each elsewhere, and end inside of whatever is accessed as a whole.
TEST_P(OptimizerTest, ArraysOffAlignment) {
  OptimizerSettings adam;
  adam.kind = OptimizerKind::adam;
  for (const int64_t n : {1, 3, 31, 33, 127, 129, 255, 1023, 1025}) {
    const std::vector<float> start = random_.normals(n), g = random_.normals(n),
                             zeros(static_cast<size_t>(n));
    const std::vector<uint64_t> words = mask_words(n, 0.5f);
    Buffer buffer(backend(), static_cast<int64_t>(words.size()) * 8, "mask");
    const auto mask = buffer.vector<uint64_t>(static_cast<int64_t>(words.size()));
    backend().upload(words, mask);
    std::vector<float> expected;
    for (const int64_t offset : {0, 1, 2, 3}) {
      for (const int64_t other : {offset, (offset + 1) % 4}) {
        TestMatrix w(backend(), 1, n, start, 3, offset), gradients(backend(), 1, n, g, 3, other),
            mean(backend(), 1, n, zeros, 3, offset), square(backend(), 1, n, zeros, 3, other);
        OptimizerOps& optimizer = backend().optimizer();
        optimizer.update(adam, 0, {}, w.vector(), gradients.vector(), mask, mean.vector(), square.vector());
        const std::vector<float> found = w.values();
        if (expected.empty()) expected = found;
        for (size_t i = 0; i < found.size(); ++i)
          ASSERT_FLOAT_EQ(found[i], expected[i]) << n << " " << offset;
        optimizer.accumulate_statistics(gradients.vector(), {}, square.vector(), mean.vector());
        optimizer.apply_mask(gradients.vector(), mask);
        const std::vector<float> cut = gradients.values();
        for (size_t i = 0; i < cut.size(); ++i) ASSERT_EQ(cut[i], kept(words, i) ? g[i] : 0.0f) << n;
        for (TestMatrix* m : {&w, &gradients, &mean, &square}) m->expect_untouched_around();
      }
    }
  }
}

TEST_P(OptimizerTest, SameBitsForAnyNumberOfThreads) {
  const int64_t n = 300'001;
  const std::vector<float> start = random_.normals(n), g = random_.normals(n);
  const std::vector<uint64_t> words = mask_words(n, 0.5f);
  for (const NamedSettings& named : all_settings()) {
    std::vector<uint32_t> expected;
    for (const int threads : {1, 2, 3}) {
      const std::unique_ptr<Backend> b = open(threads);
      Model model(*b, n, start, words);
      model.set_gradients(g);
      for (int i = 0; i < 2; ++i) model.step(named.settings, 1.0f);
      std::vector<uint32_t> found = model.everything();
      const auto norm = std::bit_cast<uint64_t>(b->download(model.norm)[0]);
      found.push_back(static_cast<uint32_t>(norm));
      found.push_back(static_cast<uint32_t>(norm >> 32));
      if (expected.empty()) expected = found;
      EXPECT_TRUE(found == expected) << named.name << ", " << threads << " threads";
    }
  }
}

TEST_P(OptimizerTest, RefusesWhatDoesNotFit) {
  Model model(backend(), 100, random_.normals(100), mask_words(100, 0.5f));
  OptimizerOps& optimizer = backend().optimizer();
  OptimizerSettings adam;
  adam.kind = OptimizerKind::adam;
  const auto w = model.w.vector();
  const VectorView<const float> g = model.g.vector();
  expect_error(ErrorKind::bad_input, "gradients has 99 elements, expected 100",
               [&] { optimizer.update(adam, 0, {}, w, g.slice(0, 99), {}, {}, {}); });
  expect_error(ErrorKind::bad_input, "state1 has 0 elements, expected 100",
               [&] { optimizer.update(adam, 0, {}, w, g, {}, model.state0.vector(), {}); });
  expect_error(ErrorKind::bad_input, "norm has 0 elements, expected 1",
               [&] { optimizer.update({}, 1.0f, {}, w, g, {}, {}, {}); });
  expect_error(ErrorKind::bad_input, "mask has 1 elements, expected 2",
               [&] { optimizer.apply_mask(w, model.mask.slice(0, 1)); });
  adam.step = 0;
  expect_error(ErrorKind::bad_input, "the step is 0, expected at least 1", [&] {
    optimizer.update(adam, 0, {}, w, g, {}, model.state0.vector(), model.state1.vector());
  });
}

COPPICE_FOR_ALL_BACKENDS(OptimizerTest);

}  // namespace
}  // namespace coppice::test
