#pragma once

#include <string>
#include <vector>

namespace coppice::bench {

/// A program that answers lines with lines, in a process group of its own (Ctrl-C is not for it); it ends
/// when its input does, that is when this goes. Its standard error goes nowhere.
class ChildProcess {
 public:
  /// Throws Error(failure) where the program can't be started. `environment`: NAME=value on top of this
  /// process's own, from which the names in `unset` are left out.
  ChildProcess(const std::vector<std::string>& command, const std::vector<std::string>& environment,
               const std::vector<std::string>& unset);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// Sends a line and waits for the one that answers it. Throws Error(failure) where none comes: the process
  /// has ended, or `seconds` have passed.
  std::string ask(const std::string& line, double seconds);
  /// Returns when none of its threads runs any more (wait_until_idle), or after `seconds`.
  void wait_until_idle(double seconds) const;

 private:
  std::string program_;
  int pid_ = -1;
  int socket_ = -1;
  std::string received_;
};

}  // namespace coppice::bench
