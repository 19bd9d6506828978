// The Python package's extension: a thin client of the engine's functions. Everything that has a default, or
// more than one form, is settled in Python (coppice/*.py) before it comes here.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <cfenv>
#include <chrono>
#include <cstring>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "engine/config/bytes.hpp"
#include "engine/config/schema.hpp"
#include "engine/files/array_file.hpp"
#include "engine/inspect.hpp"
#include "engine/prune/gradual.hpp"
#include "engine/prune/mask_file.hpp"
#include "engine/report/json.hpp"
#include "engine/verbs.hpp"
#include "kernels/error.hpp"

namespace nb = nanobind;

namespace coppice::python {
namespace {

// What arrays come as: their bytes, one-dimensional and contiguous, with what they are said beside them.
using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ReadOnlyBytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class B>
using Array = std::tuple<std::string, std::string, std::vector<int64_t>, B>;  // name, type, shape, bytes
using Arrays = std::vector<Array<Bytes>>;
using ReadOnlyArrays = std::vector<Array<ReadOnlyBytes>>;
/// A file, or arrays that are read like one.
using FileOrArrays = std::variant<std::string, ReadOnlyArrays>;
using Metadata = std::map<std::string, std::string>;
using NumpyBytes = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;

/// Runs `work(stop)` without the interpreter's lock, in a thread of its own, while this one looks for
/// signals: Ctrl-C sets `stop`, and is raised when the work has ended.
template <class Work>
auto interruptible(Work&& work) -> decltype(work(std::declval<const StopToken&>())) {
  StopToken stop;
  const nb::gil_scoped_release release;
  auto result = std::async(std::launch::async, [&] {
    std::fesetenv(FE_DFL_ENV);  // a framework may have asked its threads to flush denormals
    return work(std::as_const(stop));
  });
  std::optional<nb::python_error> signal;
  while (result.wait_for(std::chrono::milliseconds(50)) != std::future_status::ready) {
    const nb::gil_scoped_acquire acquire;
    if (signal || PyErr_CheckSignals() == 0) continue;
    signal.emplace();
    stop.requested = true;
  }
  if (!signal) return result.get();
  try {
    result.get();
  } catch (...) {  // what the signal's handler raised is what counts
  }
  const nb::gil_scoped_acquire acquire;
  throw nb::python_error(std::move(*signal));
}

DType dtype_of(const std::string& name) {
  for (DType type : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::i16,
                     DType::i8, DType::u64, DType::u32, DType::u16, DType::u8, DType::boolean}) {
    if (to_string(type) == name) return type;
  }
  bad_input("'{}' is no type of tensors; expected f64, f32, f16, bf16, an integer type or bool", name);
}

template <class B>
std::vector<NamedArray> named_arrays(const std::vector<Array<B>>& arrays) {
  std::vector<NamedArray> named;
  for (const auto& [name, type, shape, bytes] : arrays) {
    NamedArray array{{name, dtype_of(type), shape}, const_cast<uint8_t*>(bytes.data())};
    if (array.tensor.bytes() != static_cast<int64_t>(bytes.size())) {
      failure("'{}' comes with {} bytes instead of {}", name, bytes.size(), array.tensor.bytes());
    }
    named.push_back(std::move(array));
  }
  return named;
}

std::unique_ptr<WeightFile> opened(const FileOrArrays& input, const char* what) {
  if (const auto* path = std::get_if<std::string>(&input)) return open_weights(*path);
  return std::make_unique<ArrayFile>(what, named_arrays(std::get<ReadOnlyArrays>(input)));
}

/// Bytes that Python owns from here on.
NumpyBytes owned(std::vector<uint8_t> bytes) {
  auto* const kept = new std::vector<uint8_t>(std::move(bytes));
  const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<uint8_t>*>(p); });
  return NumpyBytes(kept->data(), {kept->size()}, owner);
}

/// The options of pruning as options.py prepares them.
struct Options {
  std::vector<std::string> settings;  // "prune.sparsity=0.9", "seed=2", …: keys of recipes
  std::vector<std::string> include, exclude, keep_diagonal;
  std::vector<std::pair<std::string, int64_t>> gates;
  bool masks_only = false, dry_run = false;

  Recipe recipe() const {
    std::vector<std::string> overrides = {"data.train=-"};  // nothing is read from it
    overrides.insert(overrides.end(), settings.begin(), settings.end());
    // Wanda is a word of files and arrays, not of recipes.
    const auto wanda =
        std::find(overrides.begin(), overrides.end(), "prune.criterion=" + std::string(kWanda));
    const bool is_wanda = wanda != overrides.end();
    if (is_wanda) overrides.erase(wanda);
    Recipe recipe = parse_recipe("", "options", overrides);
    if (is_wanda) recipe.prune.criterion = kWanda;
    recipe.prune.include = include;
    recipe.prune.exclude = exclude;
    return recipe;
  }
  PruneFiles files() const {
    PruneFiles files;
    files.keep_diagonal = keep_diagonal;
    files.gates = gates;
    files.masks_only = masks_only;
    files.dry_run = dry_run;
    return files;
  }
};

/// Weights cut where they lie; their masks, in bits as masks.safetensors has them, beside them.
class ArrayOutput final : public CutOutput {
 public:
  explicit ArrayOutput(const ArrayFile& file) : file_(file), masks_(file.tensors().size()) {}

  CutOutput* open(const std::set<size_t>& masked) {
    for (size_t t : masked) {
      masks_[t].emplace(static_cast<size_t>((file_.tensors()[t].size() + 7) / 8), uint8_t{0xff});
    }
    return this;
  }
  void write(size_t tensor, int64_t begin, int64_t count, const void* data) override {
    const int64_t width = size_of(file_.tensors()[tensor].dtype);
    std::byte* const to = file_.memory(tensor) + begin * width;
    if (to != data && count != 0) std::memcpy(to, data, static_cast<size_t>(count * width));
  }
  void write_mask(size_t tensor, int64_t begin, int64_t count, const void* bytes) override {
    if (masks_[tensor] && count != 0) {
      std::memcpy(masks_[tensor]->data() + begin, bytes, static_cast<size_t>(count));
    }
  }
  std::vector<std::optional<std::vector<uint8_t>>>& masks() { return masks_; }

 private:
  const ArrayFile& file_;
  std::vector<std::optional<std::vector<uint8_t>>> masks_;
};

std::pair<std::string, std::map<std::string, NumpyBytes>> prune_arrays(
    const Arrays& arrays, const std::vector<FileOrArrays>& gradients,
    const std::optional<FileOrArrays>& activations, const std::optional<FileOrArrays>& masks,
    const Options& options) {
  const ArrayFile file("the arrays", named_arrays(arrays));
  ArrayOutput output(file);
  const PruneReport report = interruptible([&](const StopToken& stop) {
    std::vector<std::unique_ptr<WeightFile>> inputs;
    const auto open = [&](const FileOrArrays& input, const char* what) {
      return inputs.emplace_back(opened(input, what)).get();
    };
    ScoreFiles scores;
    for (const FileOrArrays& input : gradients) scores.gradients.push_back(open(input, "the gradients"));
    if (activations) scores.activations = open(*activations, "the activations");
    if (masks) scores.masks = open(*masks, "the masks");
    const Recipe recipe = options.recipe();
    PruneFiles files = options.files();
    files.stop = &stop;
    const std::unique_ptr<Backend> backend =
        open_backend("cpu", {.threads = static_cast<int>(recipe.threads)});
    return prune_weights(file, scores, files, recipe.prune, recipe.seed, *backend,
                         [&](const std::set<size_t>& masked) { return output.open(masked); });
  });
  std::map<std::string, NumpyBytes> bits;
  for (size_t t = 0; t < file.tensors().size(); ++t) {
    if (output.masks()[t]) bits.emplace(file.tensors()[t].name, owned(std::move(*output.masks()[t])));
  }
  return {prune_report_json(report), std::move(bits)};
}

std::string prune_file(const std::string& weights, const std::vector<std::string>& gradients,
                       const std::string& activations, const std::string& masks, const Options& options,
                       bool sparse_encoding, const std::string& memory, const std::string& output,
                       bool force) {
  return interruptible([&](const StopToken& stop) {
    const Recipe recipe = options.recipe();
    PruneFiles files = options.files();
    files.gradients.assign(gradients.begin(), gradients.end());
    files.activations = activations;
    files.masks = masks;
    files.sparse_encoding = sparse_encoding;
    if (!memory.empty()) files.memory = parse_bytes("memory", memory);
    return prune_report_json(prune_model(weights, files, recipe.prune, recipe.seed, output, recipe.device,
                                         recipe.threads, {force, nullptr, &stop}));
  });
}

std::tuple<int64_t, int64_t, size_t> convert(const std::string& input, const std::string& to,
                                             const std::string& output, bool force) {
  if (to != "dense" && to != "sparse") bad_input("to is '{}'; expected 'dense' or 'sparse'", to);
  const ConvertReport report = interruptible([&](const StopToken& stop) {
    return convert_model(input, to == "sparse" ? Encoding::sparse : Encoding::dense, output,
                         {force, nullptr, &stop});
  });
  return {report.bytes_before, report.bytes_after, report.files};
}

std::string inspect(const std::string& path) {
  return interruptible([&](const StopToken&) { return inspection_json(path); });
}

std::string run_recipe(const std::string& recipe, const std::string& output,
                       const std::vector<std::string>& settings, bool force) {
  return interruptible([&](const StopToken& stop) {
    return report_json(coppice::run_recipe(read_recipe(recipe, settings), output, {force, nullptr, &stop}));
  });
}

using TensorBytes = std::tuple<std::string, std::string, std::vector<int64_t>, NumpyBytes>;

std::pair<std::vector<TensorBytes>, Metadata> read_weights(const std::string& path) {
  std::unique_ptr<WeightFile> file;
  auto read = interruptible([&](const StopToken&) {
    file = open_weights(path);
    std::vector<std::vector<uint8_t>> all;
    for (size_t t = 0; t < file->tensors().size(); ++t) {
      const FileTensor& tensor = file->tensors()[t];
      std::vector<uint8_t>& bytes = all.emplace_back(static_cast<size_t>(tensor.bytes()));
      file->read(t, 0, tensor.size(), bytes.data());
    }
    return all;
  });
  std::vector<TensorBytes> tensors;
  for (size_t t = 0; t < file->tensors().size(); ++t) {
    const FileTensor& tensor = file->tensors()[t];
    tensors.emplace_back(tensor.name, to_string(tensor.dtype), tensor.shape, owned(std::move(read[t])));
  }
  return {std::move(tensors), file->metadata()};
}

void write_weights(const std::string& path, const ReadOnlyArrays& arrays, const Metadata& metadata,
                   bool force) {
  const std::vector<NamedArray> named = named_arrays(arrays);
  interruptible([&](const StopToken&) {
    std::vector<FileTensor> tensors;
    for (const NamedArray& array : named) tensors.push_back(array.tensor);
    const auto writer = create_weights(path, tensors, metadata, force ? Existing::replace : Existing::refuse);
    for (const NamedArray& array : named) {
      if (array.tensor.size() != 0) writer->write(array.tensor.name, array.data, array.tensor.size());
    }
    writer->finish();
    return true;
  });
}

std::vector<std::tuple<std::string, std::string, std::string>> criteria_list() {
  const auto name = [](Statistic statistic) {
    switch (statistic) {
      case Statistic::sum:
        return "sum";
      case Statistic::absolute:
        return "absolute";
      case Statistic::squared:
        return "squared";
      case Statistic::none:
        break;
    }
    return "";
  };
  std::vector<std::tuple<std::string, std::string, std::string>> list;
  for (Criterion criterion : kCriteria) {
    list.emplace_back(to_string(criterion), formula(criterion), name(statistic_of(criterion)));
  }
  return list;
}

nb::object error_type;  // coppice.Error

void translate(const std::exception_ptr& exception, void*) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    PyObject* type = PyExc_RuntimeError;
    if (error.kind() == ErrorKind::bad_input) type = error_type.ptr();
    if (error.kind() == ErrorKind::out_of_memory) type = PyExc_MemoryError;
    if (error.kind() == ErrorKind::interrupted) type = PyExc_KeyboardInterrupt;
    PyErr_SetString(type, error.what());
  }
}

}  // namespace

NB_MODULE(_coppice, m) {
  m.attr("__version__") = COPPICE_VERSION;
  error_type = nb::borrow(PyErr_NewExceptionWithDoc("coppice.Error",
                                                    "Bad input: a file, option or array is not what it must "
                                                    "be. The message names the thing, what was expected and "
                                                    "what was found.",
                                                    PyExc_ValueError, nullptr));
  m.attr("Error") = error_type;
  nb::register_exception_translator(translate);
  // The type goes before the interpreter does.
  nb::module_::import_("atexit").attr("register")(nb::cpp_function([] { error_type.reset(); }));

  nb::class_<Options>(m, "Options", "The options of pruning, settled.")
      .def(nb::init<>())
      .def_rw("settings", &Options::settings)
      .def_rw("include", &Options::include)
      .def_rw("exclude", &Options::exclude)
      .def_rw("keep_diagonal", &Options::keep_diagonal)
      .def_rw("gates", &Options::gates)
      .def_rw("masks_only", &Options::masks_only)
      .def_rw("dry_run", &Options::dry_run);

  m.def("prune_arrays", &prune_arrays, nb::arg("arrays"), nb::arg("gradients"), nb::arg("activations").none(),
        nb::arg("masks").none(), nb::arg("options"),
        "Cuts arrays where they lie; gives the report's JSON, and the bits of masks by name.");
  m.def("prune_file", &prune_file, nb::arg("weights"), nb::arg("gradients"), nb::arg("activations"),
        nb::arg("masks"), nb::arg("options"), nb::arg("sparse_encoding"), nb::arg("memory"),
        nb::arg("output"), nb::arg("force"), "`coppice prune`; gives the report's JSON.");
  m.def("convert", &convert, nb::arg("input"), nb::arg("to"), nb::arg("output"), nb::arg("force"),
        "`coppice convert`; gives bytes before, bytes after, files.");
  m.def("inspect", &inspect, nb::arg("path"), "`coppice inspect`; gives its JSON.");
  m.def("run_recipe", &run_recipe, nb::arg("recipe"), nb::arg("output"), nb::arg("settings"),
        nb::arg("force"), "`coppice run`; gives report.json's text.");
  m.def("read_weights", &read_weights, nb::arg("path"), "All tensors of a file as bytes, and its metadata.");
  m.def("write_weights", &write_weights, nb::arg("path"), nb::arg("arrays"), nb::arg("metadata"),
        nb::arg("force"), "A file of tensors: .npz by that name, else safetensors.");
  m.def("criteria", &criteria_list,
        "Name, formula and statistic of the gradient ('' for none) of every criterion.");
  m.def("cubic_sparsity", &cubic_sparsity, nb::arg("initial"), nb::arg("final"), nb::arg("begin"),
        nb::arg("end"), nb::arg("step"), "Zhu & Gupta's schedule.");
}

}  // namespace coppice::python
