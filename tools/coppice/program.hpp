#pragma once

#include <CLI/CLI.hpp>

namespace coppice::program {

/// Parses the command line, runs the verb that it names and says in one line what went wrong.
/// Returns the exit code: 0 done, 1 failed (or stopped by a signal), 2 bad input.
int run_program(int argc, char** argv, void (*add_verbs)(CLI::App& program));

}  // namespace coppice::program
