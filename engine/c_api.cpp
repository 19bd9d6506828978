// The C interface: exceptions become status codes, and nothing else is decided here.

#include <coppice/coppice.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "engine/config/schema.hpp"
#include "engine/pipeline.hpp"
#include "engine/prune/prune.hpp"
#include "engine/report/json.hpp"
#include "engine/sparse/session.hpp"
#include "kernels/error.hpp"

namespace {

thread_local std::string last_error;

using coppice::bad_input;

template <class Work>
coppice_status guarded(Work&& work) noexcept {
  const auto fail = [](coppice_status status, const char* message) noexcept {
    try {
      last_error = message;
    } catch (...) {  // no memory for the message: the status must do
      last_error.clear();
    }
    return status;
  };
  try {
    last_error.clear();
    work();
    return COPPICE_OK;
  } catch (const coppice::Error& error) {
    switch (error.kind()) {
      case coppice::ErrorKind::bad_input:
        return fail(COPPICE_BAD_INPUT, error.what());
      case coppice::ErrorKind::out_of_memory:
        return fail(COPPICE_OUT_OF_MEMORY, error.what());
      case coppice::ErrorKind::interrupted:
        return fail(COPPICE_INTERRUPTED, error.what());
      case coppice::ErrorKind::failure:
        break;
    }
    return fail(COPPICE_FAILURE, error.what());
  } catch (const std::bad_alloc&) {
    return fail(COPPICE_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return fail(COPPICE_FAILURE, error.what());
  } catch (...) {
    return fail(COPPICE_FAILURE, "an exception that is not ours");
  }
}

template <class T>
T* required(T* pointer, const char* what) {
  if (pointer == nullptr) bad_input("{} is NULL", what);
  return pointer;
}

std::vector<std::string> option_list(const char* const* options, size_t count) {
  std::vector<std::string> list;
  if (count != 0) required(options, "options");
  for (size_t i = 0; i < count; ++i) list.emplace_back(required(options[i], "an option"));
  return list;
}

/// Options of pruning: keys of [prune] without their section, and the few keys above all sections.
coppice::Recipe prune_recipe(const char* const* options, size_t count) {
  std::vector<std::string> overrides = {"data.train=-"};  // nothing is read from it
  for (const std::string& option : option_list(options, count)) {
    const std::string key = option.substr(0, option.find('='));
    const bool top = key == "seed" || key == "device" || key == "threads" || key == "matmul" ||
                     key.find('.') != std::string::npos;
    overrides.push_back(top ? option : "prune." + option);
  }
  return coppice::parse_recipe("", "options", overrides);
}

/// Calls the caller's function and turns its answer into a request to stop.
class Listener final : public coppice::ProgressListener {
 public:
  Listener(coppice_progress_function function, void* user) : function_(function), user_(user) {}
  void progress(const coppice::Progress& progress) override { tell(progress); }
  void epoch_ends(const coppice::Progress& progress) override { tell(progress); }
  coppice::RunOptions options(bool force) {
    return {force, function_ != nullptr ? this : nullptr, function_ != nullptr ? &stop_ : nullptr};
  }

 private:
  void tell(const coppice::Progress& p) {
    const std::string stage(p.stage);
    const coppice_progress told = {
        sizeof(coppice_progress), stage.c_str(), p.epoch, p.epochs, p.batch, p.batches, p.loss, p.sparsity,
        p.units_per_second,       p.seconds_left};
    if (function_(&told, user_) != 0) stop_.requested.store(true);
  }
  coppice_progress_function function_;
  void* user_;
  coppice::StopToken stop_;
};

char* copy_text(const std::string& text) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) throw std::bad_alloc();
  std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

int64_t size_of_shape(const coppice_array& array) {
  int64_t size = 1;
  for (size_t d = 0; d < array.rank; ++d) {
    const int64_t extent = required(array.shape, "an array's shape")[d];
    if (extent < 0)
      bad_input("array \"{}\": extent {} of its shape is {}; expected 0 or more", array.name, d, extent);
    if (extent != 0 && size > std::numeric_limits<int64_t>::max() / 8 / extent) {
      bad_input("array \"{}\": its shape has more elements than memory can hold", array.name);
    }
    size *= extent;
  }
  return size;
}

void prune_arrays(const coppice_array* arrays, size_t count, const coppice::Recipe& recipe, uint64_t* kept) {
  using namespace coppice;
  const std::unique_ptr<Backend> backend = open_backend("cpu", {static_cast<int>(recipe.threads)});
  const Criterion criterion = *std::find_if(std::begin(kCriteria), std::end(kCriteria), [&](Criterion c) {
    return to_string(c) == recipe.prune.criterion;
  });
  const Statistic statistic = statistic_of(criterion);

  // Cut into copies: what is the caller's changes only when everything went well.
  std::vector<MemoryTensor> tensors;
  std::vector<std::vector<float>> outputs(count), statistics(count);
  std::vector<std::vector<uint64_t>> masks(count);
  for (size_t a = 0; a < count; ++a) {
    const coppice_array& array = arrays[a];
    required(array.name, "an array's name");
    const int64_t size = size_of_shape(array);
    if (size != 0) required(array.weights, "an array's weights");
    outputs[a].assign(array.weights, array.weights + size);
    masks[a].assign(static_cast<size_t>((size + 63) / 64), ~uint64_t{0});
    MemoryTensor tensor;
    tensor.info.name = array.name;
    tensor.info.shape.assign(array.shape, array.shape + array.rank);
    tensor.weights = outputs[a].data();
    tensor.output = outputs[a].data();
    tensor.mask = masks[a].data();
    if (array.gradients != nullptr) {
      tensor.sum = array.gradients;
      if (statistic == Statistic::absolute || statistic == Statistic::squared) {
        statistics[a].resize(static_cast<size_t>(size));
        const bool squared = statistic == Statistic::squared;
        std::transform(array.gradients, array.gradients + size, statistics[a].begin(),
                       [squared](float g) { return squared ? g * g : std::abs(g); });
        (squared ? tensor.squared : tensor.absolute) = statistics[a].data();
      }
    }
    tensors.push_back(std::move(tensor));
  }
  MemorySource source(*backend, std::move(tensors));
  const PruneOutcome outcome = prune(source, recipe.prune, recipe.seed);
  for (size_t a = 0; a < count; ++a) {
    std::copy(outputs[a].begin(), outputs[a].end(), arrays[a].weights);
    if (arrays[a].mask == nullptr) continue;
    for (size_t i = 0; i < outputs[a].size(); ++i) arrays[a].mask[i] = (masks[a][i / 64] >> (i % 64)) & 1u;
  }
  if (kept != nullptr) *kept = outcome.kept;
}

}  // namespace

struct coppice_session {
  std::unique_ptr<coppice::Backend> backend;
  coppice::Session session;
};

extern "C" {

const char* coppice_version(void) {
  return COPPICE_VERSION;
}

const char* coppice_last_error(void) {
  return last_error.c_str();
}

void coppice_free_text(char* text) {
  std::free(text);
}

coppice_status coppice_run_recipe(const char* recipe_file, const char* run, const char* const* options,
                                  size_t option_count, int force, coppice_progress_function progress,
                                  void* user, char** report_json) {
  return guarded([&] {
    const coppice::Recipe recipe =
        coppice::read_recipe(required(recipe_file, "recipe_file"), option_list(options, option_count));
    Listener listener(progress, user);
    const coppice::RunReport report =
        coppice::run_recipe(recipe, required(run, "run"), listener.options(force != 0));
    if (report_json != nullptr) *report_json = copy_text(coppice::report_json(report));
  });
}

coppice_status coppice_resume_run(const char* run, coppice_progress_function progress, void* user,
                                  char** report_json) {
  return guarded([&] {
    Listener listener(progress, user);
    const coppice::RunReport report = coppice::resume_run(required(run, "run"), listener.options(false));
    if (report_json != nullptr) *report_json = copy_text(coppice::report_json(report));
  });
}

coppice_status coppice_prune_file(const char* weights, const char* gradients, const char* output,
                                  const char* const* options, size_t option_count, int force,
                                  uint64_t* kept) {
  return guarded([&] {
    const coppice::Recipe recipe = prune_recipe(options, option_count);
    coppice::PruneFiles files;
    if (gradients != nullptr) files.gradients.push_back(gradients);
    const coppice::PruneReport report = coppice::prune_model(
        required(weights, "weights"), files, recipe.prune, recipe.seed, required(output, "output"),
        recipe.device, recipe.threads, {force != 0, nullptr, nullptr});
    if (kept != nullptr) *kept = report.outcome.kept;
  });
}

coppice_status coppice_prune_arrays(const coppice_array* arrays, size_t array_count,
                                    const char* const* options, size_t option_count, uint64_t* kept) {
  return guarded([&] {
    if (array_count != 0) required(arrays, "arrays");
    prune_arrays(arrays, array_count, prune_recipe(options, option_count), kept);
  });
}

coppice_status coppice_session_open(const char* model, int64_t streams, const char* const* options,
                                    size_t option_count, coppice_session** session) {
  return guarded([&] {
    required(session, "session");
    if (streams < 1) bad_input("streams is {}; expected 1 or more", streams);
    std::vector<std::string> overrides = {"data.train=-"};
    for (const std::string& option : option_list(options, option_count)) {
      overrides.push_back(option.starts_with("layout=") ? "sparse." + option : option);
    }
    const coppice::Recipe recipe = coppice::parse_recipe("", "options", overrides);
    std::unique_ptr<coppice::Backend> backend =
        coppice::open_backend(recipe.device, coppice::backend_options(recipe));
    coppice::SessionOptions session_options;
    session_options.streams = streams;
    session_options.layout = recipe.layout;
    coppice::Session opened(*backend, required(model, "model"), session_options);
    *session = new coppice_session{std::move(backend), std::move(opened)};
  });
}

int64_t coppice_session_inputs(const coppice_session* session) {
  return session == nullptr ? 0 : session->session.data_shape().inputs;
}

int64_t coppice_session_outputs(const coppice_session* session) {
  return session == nullptr ? 0 : session->session.data_shape().classes;
}

coppice_status coppice_session_step_ids(coppice_session* session, const int32_t* ids, float* logits) {
  return guarded([&] {
    coppice::Session& model = required(session, "session")->session;
    const std::span in(required(ids, "ids"), static_cast<size_t>(model.streams()));
    std::ranges::copy(model.step(in), required(logits, "logits"));
  });
}

coppice_status coppice_session_step_features(coppice_session* session, const float* features, float* logits) {
  return guarded([&] {
    coppice::Session& model = required(session, "session")->session;
    const int64_t inputs = model.data_shape().inputs;
    const std::span in(required(features, "features"), static_cast<size_t>(model.streams() * inputs));
    std::ranges::copy(model.step(in), required(logits, "logits"));
  });
}

coppice_status coppice_session_reset(coppice_session* session) {
  return guarded([&] { required(session, "session")->session.reset(); });
}

void coppice_session_close(coppice_session* session) {
  delete session;
}

}  // extern "C"
