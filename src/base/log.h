// Logging for operators: spdlog on standard error. What a command prints for its user is not a log (see
// cli/).
#pragma once

#include <spdlog/spdlog.h>

namespace onggi {

// "debug", "info", "warning" or "error"; throws UsageError for another name.
void set_log_level(const char* level);

}  // namespace onggi
