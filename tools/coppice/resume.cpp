#include "engine/report/json.hpp"
#include "engine/report/table.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {

void add_resume(CLI::App& program) {
  struct Options : Command {
    std::string run;
  };
  auto options = std::make_shared<Options>();
  CLI::App& verb = *program.add_subcommand("resume", "Go on with a run that was stopped or killed");
  verb.footer(
      "Goes on from the last checkpoint; the result is bit for bit that of a run that was never stopped.\n"
      "Example:\n  coppice resume my_run");
  verb.add_option("RUN", options->run, "The folder of the run")->required();
  options->add_manners(verb);
  verb.callback([options] {
    const RunReport report = resume_run(options->run, options->sparse_work());
    print_result(options->json ? report_json(report) : closing_table(report));
  });
}

}  // namespace coppice::program
