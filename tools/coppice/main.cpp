#include "tools/coppice/command.hpp"
#include "tools/coppice/program.hpp"

int main(int argc, char** argv) {
  return coppice::program::run_program(argc, argv, [](CLI::App& program) {
    using namespace coppice;
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
    program::add_bench_program(program);
    program::add_inspect(program);
    program::add_devices(program);
  });
}
