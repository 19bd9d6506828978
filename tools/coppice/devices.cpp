#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/report/table.hpp"
#include "kernels/backend.hpp"
#include "tools/coppice/command.hpp"

namespace coppice::program {

void add_devices(CLI::App& program) {
  auto options = std::make_shared<Command>();
  CLI::App& verb = *program.add_subcommand("devices", "List devices, and why one can't be used");
  verb.footer(
      "Example:\n  coppice devices --json\n\n"
      "GPUs are served by libcoppice_cuda.so, from beside the program, from where `cmake --install` puts it,\n"
      "or from the file that COPPICE_CUDA_LIBRARY names. COPPICE_CUDA_MEMORY limits the bytes that it takes of\n"
      "a GPU's memory, and CUDA_VISIBLE_DEVICES says which GPUs there are.");
  options->add_manners(verb);
  verb.callback([options] {
    const std::vector<DeviceListing> devices = list_devices();
    if (options->json) {
      nlohmann::ordered_json json = nlohmann::ordered_json::array();
      for (const DeviceListing& device : devices) {
        nlohmann::ordered_json item = {{"name", device.name}, {"available", device.info.has_value()}};
        if (device.info) {
          item["processor"] = device.info->name;
          item["detail"] = device.info->detail;
          item["memory_bytes"] = device.info->memory_bytes;
          item["threads"] = device.info->threads;
        } else {
          item["reason"] = device.reason;
        }
        json.push_back(std::move(item));
      }
      print_result(json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
      return;
    }
    std::string text;
    for (const DeviceListing& device : devices) {
      if (!device.info) {
        text += fmt::format("{:<8} unavailable: {}\n", device.name, device.reason);
        continue;
      }
      text += fmt::format("{:<8} {}, {}, {} of memory", device.name, device.info->name, device.info->detail,
                          bytes_text(static_cast<double>(device.info->memory_bytes)));
      if (device.info->threads > 0) text += fmt::format(", {} threads", device.info->threads);
      text += '\n';
    }
    print_result(text);
  });
}

}  // namespace coppice::program
