#pragma once

#include <string>

#include "engine/report/run_report.hpp"

namespace coppice {

/// report.html: one self-contained page (inline CSS and SVG; nothing is loaded, no script runs): the models
/// side by side, loss curves, sparsity per tensor and gate, how it was done.
std::string report_html(const RunReport& report);

}  // namespace coppice
