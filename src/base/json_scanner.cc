#include "base/json_scanner.h"

namespace onggi {

void JsonScanner::next(char c) {
  if (in_string_) {
    if (escaped_) {
      escaped_ = false;
    } else if (c == '\\') {
      escaped_ = true;
    } else if (c == '"') {
      in_string_ = false;
    }
    return;
  }
  switch (c) {
    case '"':
      in_string_ = true;
      break;
    case '{':
    case '[':
      ++depth_;
      members_.push_back(c == '{' ? 1 : 0);
      break;
    case '}':
    case ']':
      --depth_;
      if (!members_.empty()) members_.pop_back();
      break;
    case ',':
      if (members() > 0) ++members_.back();
      break;
  }
}

}  // namespace onggi
