#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <string>

#include "base/error.h"
#include "base/text.h"

namespace onggi {

void set_log_level(const char* level) {
  const auto parsed = spdlog::level::from_str(level);
  if (parsed == spdlog::level::off && std::string(level) != "off")
    throw UsageError(text("unknown log level '{}': use debug, info, warning or error", level));
  if (spdlog::get("onggi") == nullptr) spdlog::set_default_logger(spdlog::stderr_color_mt("onggi"));
  spdlog::set_level(parsed);
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S%z %^%l%$ %v");
}

}  // namespace onggi
