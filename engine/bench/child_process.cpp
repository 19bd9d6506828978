#include "engine/bench/child_process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include "engine/bench/idle.hpp"
#include "kernels/error.hpp"

extern char** environ;

namespace coppice::bench {
namespace {

using Clock = std::chrono::steady_clock;

bool is_named(const std::string& setting, const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return setting.starts_with(name + "="); });
}

std::vector<std::string> environment_of(const std::vector<std::string>& added,
                                        const std::vector<std::string>& unset) {
  std::vector<std::string> names = unset, settings;
  for (const std::string& setting : added) names.push_back(setting.substr(0, setting.find('=')));
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!is_named(*entry, names)) settings.emplace_back(*entry);
  }
  settings.insert(settings.end(), added.begin(), added.end());
  return settings;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& command,
                           const std::vector<std::string>& environment, const std::vector<std::string>& unset)
    : program_(command.empty() ? "" : command.front()) {
  if (command.empty()) failure("a child process without a command");
  int ends[2];
  // A socket, not pipes: writing to one whose reader is gone is an error that can be asked for, not a signal.
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    failure("{}: {}", program_, std::strerror(errno));
  }
  std::vector<std::string> words = command, settings = environment_of(environment, unset);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, ends[1], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  const int error = posix_spawnp(&pid_, program_.c_str(), &files, &attributes, pointers(words).data(),
                                 pointers(settings).data());
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  close(ends[1]);
  socket_ = ends[0];
  if (error != 0) {
    pid_ = -1;
    close(socket_);
    failure("{}: {}", program_, std::strerror(error));
  }
}

ChildProcess::~ChildProcess() {
  close(socket_);
  for (int i = 0; i < 100; ++i) {
    if (waitpid(pid_, nullptr, WNOHANG) != 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void ChildProcess::wait_until_idle(double seconds) const {
  bench::wait_until_idle(pid_, seconds);
}

std::string ChildProcess::ask(const std::string& line, double seconds) {
  const std::string text = line + "\n";
  for (size_t sent = 0; sent < text.size();) {
    const ssize_t count = send(socket_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) failure("{}: ended early", program_);
    sent += static_cast<size_t>(count);
  }
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  for (;;) {
    if (const size_t end = received_.find('\n'); end != std::string::npos) {
      const std::string answer = received_.substr(0, end);
      received_.erase(0, end + 1);
      return answer;
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) failure("{}: gave no answer in {} s", program_, seconds);
    pollfd wait = {socket_, POLLIN, 0};
    if (poll(&wait, 1, static_cast<int>(left.count())) < 0 && errno != EINTR) {
      failure("{}: {}", program_, std::strerror(errno));
    }
    if (wait.revents == 0) continue;
    char buffer[4096];
    const ssize_t count = read(socket_, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) failure("{}: ended early", program_);
    received_.append(buffer, static_cast<size_t>(count));
  }
}

}  // namespace coppice::bench
