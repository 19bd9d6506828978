// Coppice's C interface in C++: exceptions instead of status codes, handles that free themselves. Header-only
// over coppice.h, so it makes no binary promise of its own, and what a function does is said there. C++17 and
// later.
#ifndef COPPICE_COPPICE_HPP
#define COPPICE_COPPICE_HPP

#include <coppice/coppice.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace coppice_api {

/// What a call that failed throws.
class Error : public std::runtime_error {
 public:
  Error(coppice_status status, const char* message) : std::runtime_error(message), status_(status) {}
  coppice_status status() const noexcept { return status_; }

 private:
  coppice_status status_;
};

inline void check(coppice_status status) {
  if (status != COPPICE_OK) throw Error(status, coppice_last_error());
}

/// A run of somebody's elements: of a std::vector, std::array, std::span, or a pointer and a size.
template <class T>
class Span {
 public:
  Span() = default;
  Span(T* data, size_t size) : data_(data), size_(size) {}
  template <class Container,
            class = std::enable_if_t<std::is_convertible_v<decltype(std::declval<Container&>().data()), T*>>>
  Span(Container&& elements) : data_(elements.data()), size_(elements.size()) {}

  T* data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

/// "key=value" texts, in the words of recipes.
using Options = std::vector<std::string>;

/// Told how a job goes on; returns true to stop it (then Error(COPPICE_INTERRUPTED)). Neither may throw.
struct Control {
  std::function<bool(const coppice_progress&)> progress{};
  std::function<void(const char* message)> log{};
};

namespace detail {

inline void require(bool condition, const char* message) {
  if (!condition) throw Error(COPPICE_BAD_INPUT, message);
}

struct OptionTexts {
  explicit OptionTexts(const Options& options) {
    texts.reserve(options.size());
    for (const std::string& option : options) texts.push_back(option.c_str());
  }
  const char* const* data() const { return texts.data(); }
  size_t size() const { return texts.size(); }
  std::vector<const char*> texts;
};

/// The C struct over a Control, which must outlive it.
inline coppice_control control_of(const Control& control) {
  coppice_control c = {sizeof(coppice_control), nullptr, nullptr, const_cast<Control*>(&control)};
  if (control.progress) {
    c.progress = [](const coppice_progress* progress, void* user) {
      return static_cast<const Control*>(user)->progress(*progress) ? 1 : 0;
    };
  }
  if (control.log) {
    c.log = [](const char* message, void* user) { static_cast<const Control*>(user)->log(message); };
  }
  return c;
}

struct FreeText {
  void operator()(char* text) const { coppice_free_text(text); }
};
inline std::string take(char* text) {
  const std::unique_ptr<char, FreeText> owned(text);
  return owned ? std::string(owned.get()) : std::string();
}

/// Owns a handle of the C interface; move-only.
template <class T, void (*kFree)(T*)>
struct Handle {
  struct Free {
    void operator()(T* handle) const { kFree(handle); }
  };
  using type = std::unique_ptr<T, Free>;
};

template <class T>
constexpr coppice_dtype dtype_of() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "float or double; name the dtype of other elements");
  return std::is_same_v<T, float> ? COPPICE_F32 : COPPICE_F64;
}

}  // namespace detail

inline std::string version() {
  return coppice_version();
}

// --- runs

/// Runs a recipe into the folder `run`; gives report.json's text.
inline std::string run_recipe(const std::string& recipe_file, const std::string& run,
                              const Options& options = {}, bool force = false, const Control& control = {}) {
  const detail::OptionTexts texts(options);
  const coppice_control told = detail::control_of(control);
  char* report = nullptr;
  check(coppice_run_recipe(recipe_file.c_str(), run.c_str(), texts.data(), texts.size(), force ? 1 : 0, &told,
                           &report));
  return detail::take(report);
}

/// Goes on with a run that was stopped.
inline std::string resume_run(const std::string& run, const Control& control = {}) {
  const coppice_control told = detail::control_of(control);
  char* report = nullptr;
  check(coppice_resume_run(run.c_str(), &told, &report));
  return detail::take(report);
}

/// Measures a model on data.
inline coppice_metrics evaluate(const std::string& model, const std::string& data,
                                const Options& options = {}, const Control& control = {}) {
  const detail::OptionTexts texts(options);
  const coppice_control told = detail::control_of(control);
  coppice_metrics metrics{};
  metrics.size = sizeof metrics;
  check(coppice_evaluate(model.c_str(), data.c_str(), texts.data(), texts.size(), &told, &metrics));
  return metrics;
}

// --- files

/// What a pruning did: how many prunable weights are left, and its report as JSON.
struct Pruned {
  uint64_t kept = 0;
  std::string report;
};

/// Prunes a model's folder or a file of weights.
inline Pruned prune_file(const std::string& weights, const std::string& output, const Options& options,
                         bool force = false, const Control& control = {}) {
  const detail::OptionTexts texts(options);
  const coppice_control told = detail::control_of(control);
  Pruned pruned;
  char* report = nullptr;
  check(coppice_prune_file(weights.c_str(), output.empty() ? nullptr : output.c_str(), texts.data(),
                           texts.size(), force ? 1 : 0, &told, &pruned.kept, &report));
  pruned.report = detail::take(report);
  return pruned;
}

/// `form`: "dense" or "sparse".
inline void convert_file(const std::string& input, const std::string& form, const std::string& output,
                         bool force = false) {
  check(coppice_convert_file(input.c_str(), form.c_str(), output.c_str(), force ? 1 : 0));
}

/// A file or folder as JSON.
inline std::string inspect(const std::string& path) {
  char* json = nullptr;
  check(coppice_inspect(path.c_str(), &json));
  return detail::take(json);
}

/// A file of weights.
class Weights {
 public:
  explicit Weights(const std::string& path) {
    coppice_weights* weights = nullptr;
    check(coppice_weights_open(path.c_str(), &weights));
    weights_.reset(weights);
  }

  size_t size() const { return coppice_weights_count(weights_.get()); }
  coppice_tensor_info operator[](size_t index) const {
    coppice_tensor_info info{};
    info.size = sizeof info;
    check(coppice_weights_tensor(weights_.get(), index, &info));
    return info;
  }
  size_t find(const std::string& name) const {
    size_t index = 0;
    check(coppice_weights_find(weights_.get(), name.c_str(), &index));
    return index;
  }
  int64_t nonzeros(size_t index) const {
    int64_t nonzeros = 0;
    check(coppice_weights_nonzeros(weights_.get(), index, &nonzeros));
    return nonzeros;
  }
  /// A whole tensor, as float or double.
  template <class T = float>
  std::vector<T> read(size_t index) const {
    std::vector<T> elements(static_cast<size_t>((*this)[index].elements));
    read(index, 0, Span<T>(elements));
    return elements;
  }
  /// elements.size() of it, from `begin` on.
  template <class T>
  void read(size_t index, int64_t begin, Span<T> elements) const {
    check(coppice_weights_read(weights_.get(), index, begin, static_cast<int64_t>(elements.size()),
                               detail::dtype_of<T>(), elements.data()));
  }
  const coppice_weights* get() const { return weights_.get(); }

 private:
  detail::Handle<coppice_weights, coppice_weights_close>::type weights_;
};

// --- arrays

/// Numbers in memory that somebody else owns.
class Array {
 public:
  Array() = default;
  /// Strides in elements; none: row-major without gaps.
  template <class T, class = std::enable_if_t<std::is_floating_point_v<T>>>
  Array(T* data, std::vector<int64_t> strides = {})
      : data_(data), dtype_(detail::dtype_of<std::remove_const_t<T>>()), strides_(std::move(strides)) {}
  Array(const void* data, coppice_dtype dtype, std::vector<int64_t> strides = {})
      : data_(data), dtype_(dtype), strides_(std::move(strides)) {}

  /// Good as long as this is.
  coppice_array c() const { return {data_, dtype_, strides_.empty() ? nullptr : strides_.data()}; }

 private:
  const void* data_ = nullptr;
  coppice_dtype dtype_ = COPPICE_F32;
  std::vector<int64_t> strides_;
};

/// A tensor of the caller's, or a piece of one. Fields as in coppice_tensor; it must not be moved while a
/// Selection holds it.
struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  Array weights;
  Array gradients{}, absolute{}, squared{}, activations{};
  void* output = nullptr;         // the weights' own address: in place
  uint8_t* mask = nullptr;        // [elements]
  const uint8_t* kept = nullptr;  // [elements]
  int64_t gates = 0;
  std::string gate_names{};
  std::vector<int64_t> whole_shape{};  // of a piece
  bool piece = false;
  int64_t first = 0;
  bool on_device = false;

  /// Good as long as this is.
  coppice_tensor c() const {
    coppice_tensor tensor{};
    tensor.size = sizeof tensor;
    tensor.name = name.c_str();
    tensor.rank = shape.size();
    // A scalar's shape has no elements to point at.
    static const int64_t none = 0;
    tensor.shape = shape.empty() ? &none : shape.data();
    tensor.weights = weights.c();
    tensor.gradients = gradients.c();
    tensor.absolute = absolute.c();
    tensor.squared = squared.c();
    tensor.activations = activations.c();
    tensor.output = output;
    tensor.mask = mask;
    tensor.kept = kept;
    tensor.gates = gates;
    tensor.gate_names = gate_names.empty() ? nullptr : gate_names.c_str();
    if (piece) {
      tensor.whole_shape = whole_shape.empty() ? &none : whole_shape.data();
      tensor.whole_rank = whole_shape.size();
      tensor.first = first;
    }
    tensor.on_device = on_device ? 1 : 0;
    return tensor;
  }
};

namespace detail {
inline std::vector<coppice_tensor> tensors_of(const std::vector<Tensor>& tensors) {
  std::vector<coppice_tensor> list;
  list.reserve(tensors.size());
  for (const Tensor& tensor : tensors) list.push_back(tensor.c());
  return list;
}
}  // namespace detail

/// Prunes tensors in memory together.
inline Pruned prune_tensors(const std::vector<Tensor>& tensors, const Options& options,
                            const Control& control = {}) {
  const detail::OptionTexts texts(options);
  const coppice_control told = detail::control_of(control);
  const std::vector<coppice_tensor> list = detail::tensors_of(tensors);
  Pruned pruned;
  char* report = nullptr;
  check(coppice_prune_tensors(list.data(), list.size(), texts.data(), texts.size(), &told, &pruned.kept,
                              &report));
  pruned.report = detail::take(report);
  return pruned;
}

/// What would be cut, as JSON.
inline std::string plan_tensors(const std::vector<Tensor>& tensors, const Options& options) {
  const detail::OptionTexts texts(options);
  const std::vector<coppice_tensor> list = detail::tensors_of(tensors);
  char* json = nullptr;
  check(coppice_plan_tensors(list.data(), list.size(), texts.data(), texts.size(), &json));
  return detail::take(json);
}

/// The scores of one tensor: float, of double weights double.
template <class T>
void score_tensor(const Tensor& tensor, const Options& options, Span<T> scores) {
  size_t elements = 1;
  for (const int64_t extent : tensor.shape) elements *= static_cast<size_t>(extent);
  detail::require(scores.size() == elements, "score_tensor: expected room for a score of each element");
  detail::require((tensor.weights.c().dtype == COPPICE_F64) == std::is_same_v<T, double>,
                  "score_tensor: scores are float, of F64 weights double");
  const detail::OptionTexts texts(options);
  const coppice_tensor c = tensor.c();
  check(coppice_score_tensor(&c, texts.data(), texts.size(), scores.data()));
}

/// A selection over several processes.
class Selection {
 public:
  explicit Selection(const Options& options) {
    const detail::OptionTexts texts(options);
    coppice_selection* selection = nullptr;
    check(coppice_selection_create(texts.data(), texts.size(), &selection));
    selection_.reset(selection);
  }

  /// What the tensor points to must outlive the selection.
  void add(const Tensor& tensor) {
    const coppice_tensor c = tensor.c();
    check(coppice_selection_add(selection_.get(), &c));
  }
  bool done() const { return coppice_selection_done(selection_.get()) != 0; }
  void count() { check(coppice_selection_count(selection_.get())); }
  std::vector<std::byte> counts() const {
    size_t bytes = 0;
    check(coppice_selection_counts(selection_.get(), nullptr, 0, &bytes));
    std::vector<std::byte> counts(bytes);
    check(coppice_selection_counts(selection_.get(), counts.data(), counts.size(), &bytes));
    return counts;
  }
  void merge(Span<const std::byte> counts) {
    check(coppice_selection_merge(selection_.get(), counts.data(), counts.size()));
  }
  void adopt(Span<const std::byte> total) {
    check(coppice_selection_adopt(selection_.get(), total.data(), total.size()));
  }
  void refine() { check(coppice_selection_refine(selection_.get())); }
  /// Gives how many of this process's prunable weights are left.
  uint64_t apply() {
    uint64_t kept = 0;
    check(coppice_selection_apply(selection_.get(), &kept));
    return kept;
  }
  std::string report() const {
    char* json = nullptr;
    check(coppice_selection_report(selection_.get(), &json));
    return detail::take(json);
  }

 private:
  detail::Handle<coppice_selection, coppice_selection_free>::type selection_;
};

// --- sparse matrices

/// A matrix W [rows, cols] in a layout that multiplies fast.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t cols, Span<const float> values, Span<const uint8_t> mask = {},
         const Options& options = {}) {
    const size_t size = static_cast<size_t>(rows * cols);
    detail::require(values.size() == size && (mask.empty() || mask.size() == size),
                    "Matrix: expected rows * cols values, and as many mask bytes or none");
    const detail::OptionTexts texts(options);
    coppice_matrix* matrix = nullptr;
    check(coppice_matrix_create(rows, cols, values.data(), cols, mask.empty() ? nullptr : mask.data(),
                                texts.data(), texts.size(), &matrix));
    matrix_.reset(matrix);
  }

  /// What `layout` points to lives as long as the matrix.
  coppice_matrix_info info() const {
    coppice_matrix_info info{};
    info.size = sizeof info;
    check(coppice_matrix_describe(matrix_.get(), &info));
    return info;
  }
  /// y [n, rows] = x [n, cols] W^T (+ bias [rows]).
  void multiply(int64_t n, Span<const float> x, Span<float> y, Span<const float> bias = {}) {
    const coppice_matrix_info m = info();
    detail::require(
        x.size() == static_cast<size_t>(n * m.cols) && y.size() == static_cast<size_t>(n * m.rows),
        "multiply: expected x [n, cols] and y [n, rows]");
    detail::require(bias.empty() || bias.size() == static_cast<size_t>(m.rows),
                    "multiply: expected a bias [rows], or none");
    check(
        coppice_matrix_multiply(matrix_.get(), n, x.data(), bias.empty() ? nullptr : bias.data(), y.data()));
  }
  /// x [n, cols] = y [n, rows] W.
  void multiply_transposed(int64_t n, Span<const float> y, Span<float> x) {
    const coppice_matrix_info m = info();
    detail::require(
        x.size() == static_cast<size_t>(n * m.cols) && y.size() == static_cast<size_t>(n * m.rows),
        "multiply_transposed: expected y [n, rows] and x [n, cols]");
    check(coppice_matrix_multiply_transposed(matrix_.get(), n, y.data(), x.data()));
  }

 private:
  detail::Handle<coppice_matrix, coppice_matrix_free>::type matrix_;
};

inline std::string matrix_layouts(const std::string& device = "cpu") {
  char* layouts = nullptr;
  check(coppice_matrix_layouts(device.c_str(), &layouts));
  return detail::take(layouts);
}

// --- sessions

/// A model that is stepped, `streams` sequences side by side.
class Session {
 public:
  explicit Session(const std::string& model, int64_t streams = 1, const Options& options = {}) {
    const detail::OptionTexts texts(options);
    coppice_session* session = nullptr;
    check(coppice_session_open(model.c_str(), streams, texts.data(), texts.size(), &session));
    session_.reset(session);
  }

  int64_t streams() const { return coppice_session_streams(session_.get()); }
  int64_t inputs() const { return coppice_session_inputs(session_.get()); }
  int64_t outputs() const { return coppice_session_outputs(session_.get()); }
  int64_t weight_bytes() const { return coppice_session_weight_bytes(session_.get()); }

  /// Logits [streams, outputs] of one step, from one id a stream. Allocates nothing.
  void step(Span<const int32_t> ids, Span<float> logits) {
    detail::require(ids.size() == static_cast<size_t>(streams()), "step: expected one id a stream");
    check_logits(logits);
    check(coppice_session_step_ids(session_.get(), ids.data(), logits.data()));
  }
  /// The same from features [streams, inputs].
  void step(Span<const float> features, Span<float> logits) {
    detail::require(features.size() == static_cast<size_t>(streams() * inputs()),
                    "step: expected streams * inputs features");
    check_logits(logits);
    check(coppice_session_step_features(session_.get(), features.data(), logits.data()));
  }
  std::vector<float> step(const std::vector<int32_t>& ids) {
    std::vector<float> logits(static_cast<size_t>(streams() * outputs()));
    step(Span<const int32_t>(ids), logits);
    return logits;
  }
  std::vector<float> step(const std::vector<float>& features) {
    std::vector<float> logits(static_cast<size_t>(streams() * outputs()));
    step(Span<const float>(features), logits);
    return logits;
  }

  /// The word or character of an id, and the other way round.
  std::string token(int32_t id) const {
    const char* token = nullptr;
    check(coppice_session_token(session_.get(), id, &token));
    return token;
  }
  int32_t id(const std::string& token) const {
    int32_t id = 0;
    check(coppice_session_id(session_.get(), token.c_str(), &id));
    return id;
  }

  void reset() { check(coppice_session_reset(session_.get())); }
  void reset(int64_t stream) { check(coppice_session_reset_stream(session_.get(), stream)); }

 private:
  void check_logits(Span<float> logits) const {
    detail::require(logits.size() == static_cast<size_t>(streams() * outputs()),
                    "step: expected room for streams * outputs logits");
  }
  detail::Handle<coppice_session, coppice_session_close>::type session_;
};

}  // namespace coppice_api

#endif  // COPPICE_COPPICE_HPP
