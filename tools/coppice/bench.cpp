#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "kernels/error.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {

void add_bench_program(CLI::App& program) {
  CLI::App& verb =
      *program.add_subcommand("bench", "Measure where sparse is faster than dense on this machine");
  verb.prefix_command();
  verb.set_help_flag();  // --help is for the other program
  verb.callback([&verb] {
    std::error_code error;
    const std::filesystem::path own = std::filesystem::read_symlink("/proc/self/exe", error);
    const std::string other = (own.parent_path() / "coppice-bench").string();
    std::vector<std::string> words = {"coppice", "bench"};
    for (const std::string& word : verb.remaining()) words.push_back(word);
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    execv(other.c_str(), arguments.data());
    failure("{}: {}; build it with: cmake --build build --target coppice-bench", other, std::strerror(errno));
  });
}

}  // namespace coppice::program
