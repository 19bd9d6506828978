#pragma once

#include <coppice/coppice.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "kernels/error.hpp"

// What every function of the C interface is made with: exceptions become status codes, and pointers and
// structs of the caller are checked before they are read.

namespace coppice::c_api {

/// Remembers a message for the thread and gives the status back.
coppice_status fail(coppice_status status, const char* message) noexcept;
void forget_error() noexcept;
/// The status of the exception that is being handled.
coppice_status status_of_exception() noexcept;

template <class Work>
coppice_status guarded(Work&& work) noexcept {
  try {
    forget_error();
    work();
    return COPPICE_OK;
  } catch (...) {
    return status_of_exception();
  }
}

template <class T>
T* required(T* pointer, const char* what) {
  if (pointer == nullptr) bad_input("{} is NULL", what);
  return pointer;
}

inline char* copy_text(const std::string& text) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) throw std::bad_alloc();
  std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

/// A struct of the caller's, whose library may be older or newer: fields that it does not have are 0.
template <class T>
T adopted(const T* given, const char* what) {
  T own{};
  if (required(given, what)->size < sizeof(given->size)) {
    bad_input("{}: its size is {}; expected sizeof, {}", what, given->size, sizeof(T));
  }
  std::memcpy(&own, given, std::min(given->size, sizeof(T)));
  return own;
}

/// Fills a struct of the caller's as far as it goes.
template <class T>
void fill(T* out, T values, const char* what) {
  values.size = required(out, what)->size;
  if (values.size < sizeof(values.size)) {
    bad_input("{}: its size is {}; expected sizeof, {}", what, values.size, sizeof(T));
  }
  std::memcpy(out, &values, std::min(values.size, sizeof(T)));
}

}  // namespace coppice::c_api
