#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

namespace coppice::test {

namespace fs = std::filesystem;

inline std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline void write_text(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// A folder of the test's own, gone with it.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "coppice-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  fs::path operator/(const std::string& name) const { return path_ / name; }
  const fs::path& path() const { return path_; }
  /// Names in it, hidden ones too, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path_)) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  fs::path path_;
};

struct Outcome {
  int code = -1;           // exit code, or 128 + signal
  std::string out;         // standard output
  std::string err;         // standard error
  int64_t peak_bytes = 0;  // the largest resident size that it had
};

/// The program, started in a folder; its outputs go to files beside it.
class Process {
 public:
  /// `file_limit`: the largest file that it may write, in bytes (a full disk is not to be had without root).
  Process(const std::vector<std::string>& arguments, const fs::path& folder, long file_limit = -1) {
    std::string name = (fs::temp_directory_path() / "coppice-io-XXXXXX").string();
    io_ = mkdtemp(name.data());
    std::vector<char*> argv;
    std::vector<std::string> words = {COPPICE_PROGRAM};
    words.insert(words.end(), arguments.begin(), arguments.end());
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string out = (io_ / "out").string(), err = (io_ / "err").string();
    pid_ = fork();
    if (pid_ == 0) {
      const int out_file = open(out.c_str(), O_CREAT | O_WRONLY, 0600);
      const int err_file = open(err.c_str(), O_CREAT | O_WRONLY, 0600);
      if (dup2(out_file, 1) < 0 || dup2(err_file, 2) < 0 || chdir(folder.c_str()) != 0) _exit(99);
      if (file_limit >= 0) {
        const rlimit limit = {static_cast<rlim_t>(file_limit), static_cast<rlim_t>(file_limit)};
        setrlimit(RLIMIT_FSIZE, &limit);
        signal(SIGXFSZ, SIG_IGN);  // then a write fails as it does on a full disk
      }
      execv(argv[0], argv.data());
      _exit(98);
    }
  }
  ~Process() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    std::error_code ignored;
    fs::remove_all(io_, ignored);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void send(int signal_number) const { kill(pid_, signal_number); }
  std::string err_so_far() const { return read_text(io_ / "err"); }

  /// Waits until `happened` or the process is over; false after a minute.
  bool wait_until(const std::function<bool()>& happened) const {
    for (int i = 0; i < 6000; ++i) {
      if (happened()) return true;
      siginfo_t info{};
      if (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
          info.si_pid == pid_) {
        return happened();
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  Outcome wait() {
    int status = 0;
    rusage usage{};
    wait4(pid_, &status, 0, &usage);
    pid_ = -1;
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return {code, read_text(io_ / "out"), read_text(io_ / "err"), int64_t{usage.ru_maxrss} * 1024};
  }

 private:
  pid_t pid_ = -1;
  fs::path io_;
};

inline Outcome coppice(const std::vector<std::string>& arguments, const fs::path& folder,
                       long file_limit = -1) {
  return Process(arguments, folder, file_limit).wait();
}

/// Sentences of a small language: 40 words, some structure.
inline std::string small_text(int lines, unsigned seed = 7) {
  static const char* const kSubjects[] = {"the fox", "a hen", "the old dog", "one crow", "the miller"};
  static const char* const kVerbs[] = {"sees", "hears", "follows", "fears", "feeds"};
  static const char* const kPlaces[] = {"by the river", "in the barn", "at night", "before dawn",
                                        "on the hill"};
  std::string text;
  unsigned state = seed;
  const auto next = [&state] { return (state = state * 1664525u + 1013904223u) >> 16; };
  for (int line = 0; line < lines; ++line) {
    text += kSubjects[next() % 5];
    text += ' ';
    text += kVerbs[next() % 5];
    text += ' ';
    text += kSubjects[next() % 5];
    text += ' ';
    text += kPlaces[next() % 5];
    text += '\n';
  }
  return text;
}

/// A recipe over "text.txt" that runs in well under a second.
inline const char* const kSmallRecipe = R"(name = "small"
threads = 1
[data]
kind = "text"
train = "text.txt"
batch_size = 4
steps = 8
valid_fraction = 0.1
test_fraction = 0.1
[model]
embedding = 8
hidden = 12
[train]
epochs = 2
optimizer = "adam"
rate = 0.01
clip = 1.0
[prune]
criterion = "taylor-absolute"
sparsity = 0.5
gradient_batches = 5
[retrain]
epochs = 1
)";

}  // namespace coppice::test
