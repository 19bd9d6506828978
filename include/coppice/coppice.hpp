// Coppice's C interface in C++: exceptions instead of status codes, handles that free themselves. Header-only
// over coppice.h, so it makes no binary promise of its own. C++17 and later.
#ifndef COPPICE_COPPICE_HPP
#define COPPICE_COPPICE_HPP

#include <coppice/coppice.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
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

/// "key=value" texts, in the words of recipes.
using Options = std::vector<std::string>;

namespace detail {
inline std::vector<const char*> pointers(const Options& options) {
  std::vector<const char*> texts;
  texts.reserve(options.size());
  for (const std::string& option : options) texts.push_back(option.c_str());
  return texts;
}
struct FreeText {
  void operator()(char* text) const { coppice_free_text(text); }
};
}  // namespace detail

/// Told how a job goes on; returns true to stop it with a checkpoint (then Error(COPPICE_INTERRUPTED)). Must
/// not throw.
using Progress = std::function<bool(const coppice_progress&)>;

namespace detail {
inline int call_progress(const coppice_progress* progress, void* user) {
  return (*static_cast<const Progress*>(user))(*progress) ? 1 : 0;
}
inline std::string take(char* text) {
  const std::unique_ptr<char, FreeText> owned(text);
  return owned ? std::string(owned.get()) : std::string();
}
}  // namespace detail

/// Runs a recipe into the folder `run`; gives report.json's text.
inline std::string run_recipe(const std::string& recipe_file, const std::string& run,
                              const Options& options = {}, bool force = false,
                              const Progress& progress = {}) {
  const std::vector<const char*> texts = detail::pointers(options);
  char* report = nullptr;
  check(coppice_run_recipe(recipe_file.c_str(), run.c_str(), texts.data(), texts.size(), force ? 1 : 0,
                           progress ? detail::call_progress : nullptr, const_cast<Progress*>(&progress),
                           &report));
  return detail::take(report);
}

/// Goes on with a run that was stopped.
inline std::string resume_run(const std::string& run, const Progress& progress = {}) {
  char* report = nullptr;
  check(coppice_resume_run(run.c_str(), progress ? detail::call_progress : nullptr,
                           const_cast<Progress*>(&progress), &report));
  return detail::take(report);
}

/// Prunes a model's folder or a file of weights; gives how many prunable weights are left. `gradients` may be
/// empty.
inline uint64_t prune_file(const std::string& weights, const std::string& gradients,
                           const std::string& output, const Options& options, bool force = false) {
  const std::vector<const char*> texts = detail::pointers(options);
  uint64_t kept = 0;
  check(coppice_prune_file(weights.c_str(), gradients.empty() ? nullptr : gradients.c_str(), output.c_str(),
                           texts.data(), texts.size(), force ? 1 : 0, &kept));
  return kept;
}

/// Prunes arrays in memory, in place.
inline uint64_t prune_arrays(const std::vector<coppice_array>& arrays, const Options& options) {
  const std::vector<const char*> texts = detail::pointers(options);
  uint64_t kept = 0;
  check(coppice_prune_arrays(arrays.data(), arrays.size(), texts.data(), texts.size(), &kept));
  return kept;
}

/// A model that is stepped, `streams` sequences side by side.
class Session {
 public:
  explicit Session(const std::string& model, int64_t streams = 1, const Options& options = {})
      : streams_(streams) {
    const std::vector<const char*> texts = detail::pointers(options);
    coppice_session* session = nullptr;
    check(coppice_session_open(model.c_str(), streams, texts.data(), texts.size(), &session));
    session_.reset(session);
  }

  int64_t streams() const { return streams_; }
  int64_t inputs() const { return coppice_session_inputs(session_.get()); }
  int64_t outputs() const { return coppice_session_outputs(session_.get()); }

  /// Logits [streams, outputs] of one step, from one id a stream.
  std::vector<float> step(const std::vector<int32_t>& ids) {
    require(static_cast<int64_t>(ids.size()) == streams_, "step: expected one id a stream");
    std::vector<float> logits(static_cast<size_t>(streams_ * outputs()));
    check(coppice_session_step_ids(session_.get(), ids.data(), logits.data()));
    return logits;
  }
  /// The same from features [streams, inputs].
  std::vector<float> step(const std::vector<float>& features) {
    require(static_cast<int64_t>(features.size()) == streams_ * inputs(),
            "step: expected streams * inputs features");
    std::vector<float> logits(static_cast<size_t>(streams_ * outputs()));
    check(coppice_session_step_features(session_.get(), features.data(), logits.data()));
    return logits;
  }
  void reset() { check(coppice_session_reset(session_.get())); }

 private:
  static void require(bool condition, const char* message) {
    if (!condition) throw Error(COPPICE_BAD_INPUT, message);
  }
  struct Close {
    void operator()(coppice_session* session) const { coppice_session_close(session); }
  };
  int64_t streams_;
  std::unique_ptr<coppice_session, Close> session_;
};

}  // namespace coppice_api

#endif  // COPPICE_COPPICE_HPP
