#include <fmt/format.h>

#include <cstdio>
#include <new>
#include <string>

#include "kernels/error.hpp"
#include "tools/coppice/command.hpp"

namespace {

/// Messages quote what files and options hold, and that may be anything; a message is one line.
std::string one_line(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text;
}

// Exit codes: 0 done, 1 failed (or stopped by a signal), 2 bad input.
int run(int argc, char** argv) {
  using namespace coppice;
  CLI::App program{
      "Coppice prunes recurrent networks by gradient scores, retrains them with the cut held and runs them "
      "sparse."};
  program.name("coppice");
  program.set_version_flag("--version", "coppice " COPPICE_VERSION);
  program.require_subcommand(1);
  program.footer(
      "Each verb goes file to file; `run` chains them. `coppice VERB --help` shows an example of each.\n"
      "Results go to standard output, progress to standard error. Exit code 2: bad input, 1: failure.\n"
      "Example:\n  coppice run tools/recipes/kjv_word_lm.toml -o kjv");
  program::add_run(program);
  program::add_resume(program);
  program::add_train(program);
  program::add_gradients(program);
  program::add_prune(program);
  program::add_retrain(program);
  program::add_eval(program);
  program::add_sample(program);
  program::add_convert(program);
  program::add_sensitivity(program);
  program::add_inspect(program);
  program::add_devices(program);
  try {
    program.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help, --version
    const std::string message = one_line(error.what());
    std::string verb;
    for (const CLI::App* chosen : program.get_subcommands()) verb = " " + chosen->get_name();
    fmt::print(stderr, "coppice: {} (see coppice{} --help)\n", message, verb);
    return 2;
  } catch (const Error& error) {
    program::end_progress();
    const std::string& folder = program::checkpoint_folder();
    if (error.kind() == ErrorKind::interrupted && !folder.empty()) {
      fmt::print(stderr, "coppice: {}; checkpoint saved, resume with: coppice resume {}\n",
                 one_line(error.what()), folder);
    } else {
      fmt::print(stderr, "coppice: {}\n", one_line(error.what()));
    }
    return error.kind() == ErrorKind::bad_input ? 2 : 1;
  } catch (const std::bad_alloc&) {
    program::end_progress();
    fmt::print(stderr, "coppice: out of memory\n");
  } catch (const std::exception& error) {
    program::end_progress();
    fmt::print(stderr, "coppice: {}\n", one_line(error.what()));
  }
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  return run(argc, argv);
}
