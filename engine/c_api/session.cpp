#include "engine/sparse/session.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>

#include "engine/c_api/guard.hpp"
#include "engine/c_api/options.hpp"
#include "engine/pipeline.hpp"

using namespace coppice::c_api;

struct coppice_session {
  std::unique_ptr<coppice::Backend> backend;
  coppice::Session session;
  std::optional<coppice::Vocabulary> vocabulary;
  std::unordered_map<std::string, int32_t> ids;

  const coppice::Vocabulary& words() const {
    if (!vocabulary) coppice::bad_input("the model has no vocabulary: it reads no text");
    return *vocabulary;
  }
};

extern "C" {

coppice_status coppice_session_open(const char* model, int64_t streams, const char* const* options,
                                    size_t option_count, coppice_session** session) {
  return guarded([&] {
    required(session, "session");
    required(model, "model");
    if (streams < 1) coppice::bad_input("streams is {}; expected 1 or more", streams);
    Options given(options, option_count);
    coppice::SessionOptions session_options;
    session_options.streams = streams;
    session_options.layout = given.take_or("layout", "auto");
    coppice::LayoutCache measured;
    if (given.take_flag("measured")) measured = coppice::LayoutCache::read(coppice::layout_cache_file());
    session_options.measured = &measured;
    session_options.values = coppice::find_value_type("option values", given.take_or("values", "fp32"));
    const coppice::Recipe recipe = given.recipe("");
    std::unique_ptr<coppice::Backend> backend =
        coppice::open_backend(recipe.device, coppice::backend_options(recipe));
    coppice::Session opened(*backend, model, session_options);
    auto handle = std::make_unique<coppice_session>(
        coppice_session{std::move(backend), std::move(opened), coppice::read_model(model).vocabulary, {}});
    if (handle->vocabulary) {
      const std::vector<std::string>& entries = handle->vocabulary->entries;
      for (size_t id = 0; id < entries.size(); ++id) {
        handle->ids.emplace(entries[id], static_cast<int32_t>(id));
      }
    }
    *session = handle.release();
  });
}

int64_t coppice_session_inputs(const coppice_session* session) {
  return session == nullptr ? 0 : session->session.data_shape().inputs;
}

int64_t coppice_session_outputs(const coppice_session* session) {
  return session == nullptr ? 0 : session->session.data_shape().classes;
}

int64_t coppice_session_streams(const coppice_session* session) {
  return session == nullptr ? 0 : session->session.streams();
}

int64_t coppice_session_weight_bytes(const coppice_session* session) {
  return session == nullptr ? 0 : session->session.weight_bytes();
}

coppice_status coppice_session_token(const coppice_session* session, int32_t id, const char** token) {
  return guarded([&] {
    required(token, "token");
    const std::vector<std::string>& entries = required(session, "session")->words().entries;
    if (id < 0 || static_cast<size_t>(id) >= entries.size()) {
      coppice::bad_input("id {} in a vocabulary of {}", id, entries.size());
    }
    *token = entries[static_cast<size_t>(id)].c_str();
  });
}

coppice_status coppice_session_id(const coppice_session* session, const char* token, int32_t* id) {
  return guarded([&] {
    required(id, "id");
    const coppice::Vocabulary& words = required(session, "session")->words();
    const auto found = session->ids.find(required(token, "token"));
    const int32_t result = found != session->ids.end() ? found->second : words.unknown;
    if (result < 0) coppice::bad_input("\"{}\" is not in the model's vocabulary", token);
    *id = result;
  });
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

coppice_status coppice_session_reset_stream(coppice_session* session, int64_t stream) {
  return guarded([&] { required(session, "session")->session.reset(stream); });
}

void coppice_session_close(coppice_session* session) {
  delete session;
}

}  // extern "C"
