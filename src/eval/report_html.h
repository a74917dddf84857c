// validation_report.html: one file without outside references.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace onggi {

// report: ValidationReport::to_json() with "model"; training_log: the lines of training_log.jsonl.
std::string render_validation_html(const nlohmann::ordered_json& report, const std::string& training_log);

}  // namespace onggi
