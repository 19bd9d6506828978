#include "tools/coppice/program.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <new>
#include <string>

#include "kernels/error.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {
namespace {

/// Messages quote what files and options hold, and that may be anything; a message is one line.
std::string one_line(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text;
}

}  // namespace

int run_program(int argc, char** argv, void (*add_verbs)(CLI::App& program)) {
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
  add_verbs(program);
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
    end_progress();
    const std::string& folder = checkpoint_folder();
    if (error.kind() == ErrorKind::interrupted && !folder.empty()) {
      fmt::print(stderr, "coppice: {}; checkpoint saved, resume with: coppice resume {}\n",
                 one_line(error.what()), folder);
    } else {
      fmt::print(stderr, "coppice: {}\n", one_line(error.what()));
    }
    return error.kind() == ErrorKind::bad_input ? 2 : 1;
  } catch (const std::bad_alloc&) {
    end_progress();
    fmt::print(stderr, "coppice: out of memory\n");
  } catch (const std::exception& error) {
    end_progress();
    fmt::print(stderr, "coppice: {}\n", one_line(error.what()));
  }
  return 1;
}

}  // namespace coppice::program
