// coppice-bench: the verb `bench` as a program of its own, which `coppice bench` becomes. Who builds the
// program to prune doesn't wait for a benchmark to compile.

#include "tools/coppice/command.hpp"
#include "tools/coppice/program.hpp"

int main(int argc, char** argv) {
  return coppice::program::run_program(argc, argv, coppice::program::add_bench);
}
