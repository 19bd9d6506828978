#include "engine/c_api/control.hpp"

#include <fmt/format.h>

#include "engine/c_api/guard.hpp"

namespace coppice::c_api {

Control::Control(const coppice_control* control) {
  if (control != nullptr) control_ = adopted(control, "control");
}

void Control::log(const std::string& message) const {
  if (control_.log != nullptr && !message.empty()) control_.log(message.c_str(), control_.user);
}

void Control::stage_begins(std::string_view stage) {
  log(fmt::format("{} begins", stage));
  Progress begin;
  begin.stage = stage;
  progress(begin);
}

void Control::progress(const Progress& p) {
  if (control_.progress == nullptr) return;
  const std::string stage(p.stage);
  const coppice_progress told = {
      sizeof(coppice_progress), stage.c_str(), p.epoch, p.epochs, p.batch, p.batches, p.loss, p.sparsity,
      p.units_per_second,       p.seconds_left};
  if (control_.progress(&told, control_.user) != 0) stop_.requested.store(true);
}

void Control::checkpoint_saved(const std::string& folder) {
  log(fmt::format("checkpoint saved in {}", folder));
}

}  // namespace coppice::c_api
