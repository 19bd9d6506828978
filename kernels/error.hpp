#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace coppice {

/// What went wrong, as far as a caller can act on it. The program exits with 2 for `bad_input`, else with 1.
enum class ErrorKind {
  bad_input,      ///< a file, recipe, option or argument is not what it must be
  failure,        ///< the machine failed: disk full, a call refused, numbers gone to NaN
  out_of_memory,  ///< a device or the host has no room
  interrupted,    ///< the user asked to stop; a checkpoint was saved
};

/// The one exception type of the library. `what()` names the thing, what was expected and what was found.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

template <class... Args>
[[noreturn]] void bad_input(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::bad_input, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void failure(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::failure, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace coppice
