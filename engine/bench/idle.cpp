#include "engine/bench/idle.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

namespace coppice::bench {
namespace {

namespace fs = std::filesystem;

/// Running or waiting for a processor ("R" behind the name in parentheses, proc_pid_stat(5)) or for a disk
/// ("D"). A thread that is gone meanwhile is neither.
bool is_busy(const fs::path& thread) {
  std::string text;
  std::getline(std::ifstream(thread / "stat"), text);
  const size_t name_ends = text.rfind(')');
  if (name_ends == std::string::npos || name_ends + 2 >= text.size()) return false;
  return text[name_ends + 2] == 'R' || text[name_ends + 2] == 'D';
}

bool is_idle(const fs::path& threads, const std::string& own) {
  std::error_code error;
  for (fs::directory_iterator thread(threads, error), end; !error && thread != end; thread.increment(error)) {
    if (thread->path().filename() != own && is_busy(thread->path())) return false;
  }
  return true;
}

}  // namespace

void wait_until_idle(int process, double seconds) {
  const fs::path threads = fmt::format("/proc/{}/task", process);
  const std::string own = std::to_string(gettid());
  const auto limit = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!is_idle(threads, own) && std::chrono::steady_clock::now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace coppice::bench
