#include "engine/c_api/guard.hpp"

namespace coppice::c_api {
namespace {

thread_local std::string last_error;

}  // namespace

coppice_status fail(coppice_status status, const char* message) noexcept {
  try {
    last_error = message;
  } catch (...) {  // no memory for the message: the status must do
    last_error.clear();
  }
  return status;
}

void forget_error() noexcept {
  last_error.clear();
}

coppice_status status_of_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    switch (error.kind()) {
      case ErrorKind::bad_input:
        return fail(COPPICE_BAD_INPUT, error.what());
      case ErrorKind::out_of_memory:
        return fail(COPPICE_OUT_OF_MEMORY, error.what());
      case ErrorKind::interrupted:
        return fail(COPPICE_INTERRUPTED, error.what());
      case ErrorKind::failure:
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

}  // namespace coppice::c_api

extern "C" {

const char* coppice_version(void) {
  return COPPICE_VERSION;
}

const char* coppice_last_error(void) {
  return coppice::c_api::last_error.c_str();
}

void coppice_free_text(char* text) {
  std::free(text);
}

}  // extern "C"
