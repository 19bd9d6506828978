#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/report/table.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {

void add_convert(CLI::App& program) {
  struct Options : Command {
    std::string input;
    std::string to;
  };
  auto options = std::make_shared<Options>();
  CLI::App& verb =
      *program.add_subcommand("convert", "Write weights in the sparse encoding, or plain again, bit for bit");
  verb.footer(
      "A model's folder gives a model's folder, a shard index a folder of shards under the same names, "
      "anything "
      "else one\n"
      "file. The sparse encoding stores what is not +0: pruned weights become really smaller.\n"
      "Example:\n  coppice convert pruned.safetensors --to sparse -o small.safetensors\n"
      "  coppice convert small.safetensors --to dense -o plain.safetensors");
  verb.add_option("IN", options->input, "A file of weights, a shard index or a model's folder")->required();
  verb.add_option("--to", options->to, "dense or sparse")
      ->required()
      ->check(CLI::IsMember({"dense", "sparse"}))
      ->type_name("FORM");
  options->add_output(verb, "The file or folder in the other form");
  options->add_manners(verb);
  verb.callback([options] {
    const Encoding encoding = options->to == "sparse" ? Encoding::sparse : Encoding::dense;
    const ConvertReport report = convert_model(options->input, encoding, options->output, options->work());
    if (options->json) {
      print_result(
          nlohmann::ordered_json{{"output", options->output},
                                 {"files", report.files},
                                 {"bytes", {{"before", report.bytes_before}, {"after", report.bytes_after}}}}
              .dump(2) +
          "\n");
    } else {
      print_result(fmt::format("{}: {} (before {})\n", options->output,
                               bytes_text(static_cast<double>(report.bytes_after)),
                               bytes_text(static_cast<double>(report.bytes_before))));
    }
  });
}

}  // namespace coppice::program
