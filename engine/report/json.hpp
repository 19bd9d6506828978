#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "engine/prune/prune_file.hpp"
#include "engine/report/run_report.hpp"

namespace coppice {

/// The version of report.json's form. It grows when a field that stood changes its meaning or goes; new
/// fields leave it alone. README.md documents the form.
inline constexpr int kReportSchema = 1;

/// report.json. Numbers that are not finite become null, and so do metrics that were not taken and files that
/// were not written; text that is not UTF-8 gets replacement characters.
std::string report_json(const RunReport& report);

/// Pieces of it, for verbs that do one step: {parameters, tensors, gates, groups} of a cut, and one model's
/// metrics as `report`'s task and metric want them.
nlohmann::ordered_json outcome_json(const PruneOutcome& outcome);
nlohmann::ordered_json metrics_json(const RunReport& report, const ModelMetrics& metrics);

/// What pruning weights on disk leaves beside its output: how it was cut, what was kept, what was carried
/// over and why, bytes, and how often the files were read. README.md documents the form.
std::string prune_report_json(const PruneReport& report);

/// The report of a run that is over. `name` stands for the file in messages. Throws Error(bad_input) when the
/// text is not such a report or of another schema.
RunReport parse_report(std::string_view json, std::string_view name);

}  // namespace coppice
