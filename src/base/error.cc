#include "base/error.h"

#include <fmt/format.h>

namespace onggi {

void throw_internal_error(const char* condition, const char* file, int line, const std::string& detail) {
  throw InternalError(fmt::format("internal error: {} does not hold at {}:{}{}{}", condition, file, line,
                                  detail.empty() ? "" : ": ", detail));
}

}  // namespace onggi
